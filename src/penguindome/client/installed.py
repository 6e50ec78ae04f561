"""The signed manifest in force, where it is kept, and whether the installed files are what it says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penguindome
from penguindome import json
from penguindome.client import generations
from penguindome.client.identity import former_certificates
from penguindome.client.state import no_space
from penguindome.client.trust import has_expired, load_described
from penguindome.errors import InvalidData, PenguinDomeError, SignatureError
from penguindome.files import read_limited, write_atomically
from penguindome.logging import get_logger
from penguindome.manifest import CODE, Manifest, Places, Problem, verify_tree
from penguindome.openpgp import Certificate

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.client.identity import Identity
    from penguindome.client.overlay import Overlay

# Text and signature lie in one file, so that no crash leaves a pair that does not fit.
NAME = "manifest.signed.json"
SIZE_LIMIT = 16 << 20

log = get_logger(__name__)


@dataclass(frozen=True)
class Installed:
    """What may run here: `manifest` is the release's (None: nothing may run), `overlay` the patches over it; and what
    was found wrong with them or the files they name.
    """

    manifest: Manifest | None
    problems: list[Problem] = field(default_factory=list)
    expired: bool = False
    damage: str = ""
    tree: Path = Path("/")
    overlay: Overlay | None = None

    @property
    def effective(self) -> Manifest | None:
        """The manifest of what runs: the release's, overlaid by patches."""
        if self.manifest is None or self.overlay is None:
            return self.manifest
        return self.overlay.over(self.manifest)

    def place(self, path: str) -> Path:
        """Below which directory a file that the effective manifest names lies."""
        return self.overlay.directory if self.overlay is not None and path in self.overlay.files else self.tree

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


def inspect(
    directory: Path, tree: Path, certificate: Certificate, *, now: datetime, done: Collection[tuple[str, str]],
    identity: Identity | None = None,
) -> Installed:  # fmt: skip
    """Verify the manifest and the patches kept in `directory`, and the files below `tree`, of the patches and of the
    running code against them.

    `done` names one-time commands (with their SHA-256) that ran and were deleted: that they are missing is no problem.
    Patches are those of `identity`; without one there are none.
    """
    try:
        manifest = load(directory, certificate)
    except PenguinDomeError as error:
        return Installed(None, damage=error.message)
    if manifest is None:
        return Installed(None)
    wrong = verify_tree(manifest, tree, places=code_places())
    problems = [problem for problem in wrong if not _was_done(manifest, tree, problem, done)]
    overlay = None if identity is None else _overlay(directory, identity, manifest)
    if overlay is not None:
        prefix = f"{generations.LINK}/"
        found = [
            (problem, Problem(problem.path.removeprefix(prefix), problem.reason)) for problem in overlay.problems()
        ]
        problems += [each for each, inner in found if not _was_done(overlay, overlay.directory, inner, done)]
    return Installed(manifest, problems, has_expired(manifest, now), tree=tree, overlay=overlay)


def _overlay(directory: Path, identity: Identity, manifest: Manifest) -> Overlay | None:
    """The patches over this release; those of another one count no more. Nothing is imported where there are none."""
    if generations.in_force(directory) is None and not generations.is_damaged(directory):
        return None
    from penguindome.client.overlay import load as load_overlay

    overlay = load_overlay(directory, identity.accepted_by, identity.client_id)
    return overlay if overlay is None or overlay.damage or overlay.release == manifest.release else None


def load(directory: Path, certificate: Certificate, *, former_in: Path | None = None) -> Manifest | None:
    """The manifest in force; None when there is none yet. It may be signed by the key that was the server's when it was
    put in force (of those in `former_in`, if that is elsewhere). Raises SignatureError, InvalidData, KeyMaterialError,
    InvalidRelease or ManifestError.
    """
    try:
        document: Any = json.loads_plain(read_limited(directory / NAME, SIZE_LIMIT))
    except FileNotFoundError:
        return None
    if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in ("text", "signature")):
        raise InvalidData(f"{directory / NAME} is damaged")
    try:
        return _verified(document, certificate)
    except SignatureError:
        for former in former_certificates(former_in or directory):
            with suppress(SignatureError):
                return _verified(document, former)
        raise


def in_force(client: Client) -> Manifest | None:
    """The manifest in force on this client. A damaged one counts as none, so that the server sends it again."""
    try:
        return load(client.paths.client_state, client.identity.server_certificate)
    except PenguinDomeError as error:
        log.error("the manifest in force is damaged: {}", error.message)
        return None


def _verified(document: dict[str, Any], certificate: Certificate) -> Manifest:
    """The manifest in a document of `keep`, by its own signature or by that of the description that came with it."""
    text, described = document["text"].encode(), document.get("described_by")
    if isinstance(described, dict):
        description, signature = (str(described.get(key)).encode() for key in ("text", "signature"))
        return load_described(text, description, signature, certificate)
    return Manifest.load(text, document["signature"].encode(), certificate)


def keep(directory: Path, text: str, signature: str, described_by: Mapping[str, str] | None = None) -> None:
    """Put a manifest that was accepted in force, atomically. `described_by` is text and signature of the description by
    which it was, if it was not by its own signature. Raises NoSpace, leaving the old one.
    """
    path = directory / NAME
    document = {"text": text, "signature": signature}
    try:
        write_atomically(
            path, json.dumps(document | ({"described_by": described_by} if described_by else {})), mode=0o600
        )  # fmt: skip
    except OSError as error:
        raise no_space(error, path) from error


def _was_done(manifest: Manifest | Overlay, tree: Path, problem: Problem, done: Collection[tuple[str, str]]) -> bool:
    named = manifest.files.get(problem.path)
    return (
        named is not None and (problem.path, named.sha256) in done and not (tree / problem.path).is_symlink()
        and not (tree / problem.path).exists()
    )  # fmt: skip
