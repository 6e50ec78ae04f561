"""The signed manifest in force, where it is kept, and whether the installed files are what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import penguindome
from penguindome import json
from penguindome.client.state import no_space
from penguindome.client.trust import has_expired
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import read_limited, write_atomically
from penguindome.manifest import CODE, Manifest, Places, Problem, verify_tree
from penguindome.openpgp import Certificate

# Text and signature lie in one file, so that no crash leaves a pair that does not fit.
NAME = "manifest.signed.json"
SIZE_LIMIT = 16 << 20


@dataclass(frozen=True)
class Installed:
    """What may run here: `manifest` (None: nothing may), and what was found wrong with it or the files it names."""

    manifest: Manifest | None
    problems: list[Problem] = field(default_factory=list)
    expired: bool = False
    damage: str = ""

    @property
    def condition(self) -> str:
        """One word for reports: ok, missing, invalid, expired."""
        if self.manifest is None:
            return "invalid" if self.damage else "missing"
        return "expired" if self.expired else "ok"

    def complaints(self) -> list[str]:
        """Everything that is wrong, one line each; empty when all is well."""
        lines = [f"{problem.path}: {problem.reason}" for problem in self.problems]
        if self.damage:
            lines.insert(0, f"the manifest cannot be used, so nothing runs: {self.damage}")
        elif self.manifest is None:
            lines.insert(
                0, "there is no signed manifest yet, so nothing runs; the server sends it with the next update"
            )
        elif self.expired:
            lines.insert(0, "the manifest has expired; it stays in force until the server sends a new one")
        return lines


def code_places() -> Places:
    """Where the running code lies, of which manifests of releases name the modules."""
    return {CODE: Path(penguindome.__file__).resolve().parents[1]}


def inspect(directory: Path, tree: Path, certificate: Certificate, *, now: datetime, done: dict[str, str]) -> Installed:
    """Verify the manifest kept in `directory`, and the files below `tree` and the running code against it.

    `done` names one-time commands (with their SHA-256) that ran and were deleted: that they are missing is no problem.
    """
    try:
        manifest = load(directory, certificate)
    except PenguinDomeError as error:
        return Installed(None, damage=error.message)
    if manifest is None:
        return Installed(None)
    found = verify_tree(manifest, tree, places=code_places())
    problems = [problem for problem in found if not _was_done(manifest, tree, problem, done)]
    return Installed(manifest, problems, has_expired(manifest, now))


def load(directory: Path, certificate: Certificate) -> Manifest | None:
    """The manifest in force; None when there is none yet. Raises SignatureError, InvalidData or ManifestError."""
    try:
        document: Any = json.loads_plain(read_limited(directory / NAME, SIZE_LIMIT))
    except FileNotFoundError:
        return None
    if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in ("text", "signature")):
        raise InvalidData(f"{directory / NAME} is damaged")
    return Manifest.load(document["text"].encode(), document["signature"].encode(), certificate)


def keep(directory: Path, text: str, signature: str) -> None:
    """Put a manifest that was accepted in force, atomically. Raises NoSpace, leaving the old one."""
    path = directory / NAME
    try:
        write_atomically(path, json.dumps({"text": text, "signature": signature}), mode=0o600)
    except OSError as error:
        raise no_space(error, path) from error


def _was_done(manifest: Manifest, tree: Path, problem: Problem, done: dict[str, str]) -> bool:
    named = manifest.files.get(problem.path)
    return (
        named is not None and done.get(problem.path) == named.sha256 and not (tree / problem.path).is_symlink()
        and not (tree / problem.path).exists()
    )  # fmt: skip
