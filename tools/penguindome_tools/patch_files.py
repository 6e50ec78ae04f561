"""What `penguindome patch` may put onto clients, or take away: held to the rules of releases before it is signed, so
that an administrator reads here, and not on each client, why it would do nothing there.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from penguindome.actions import ActionRefused, Target, check_patch_name
from penguindome.client.settings import CLIENT_SETTINGS
from penguindome.errors import ManifestError, PenguinDomeError, UsageError
from penguindome.files import read_limited
from penguindome.manifest import LARGEST, Manifest, check_name
from penguindome.paths import Paths
from penguindome.settings import load
from penguindome_server.release_documents import is_number
from penguindome_server.store import Document, Store
from penguindome_tools.releases.content import FILE_MODE, PROGRAM_MODE
from penguindome_tools.releases.site_files import plugin_name, require_program_name
from penguindome_tools.releases.staged import MANIFEST

AT_ONCE = 200
"""Of how many clients the store is asked at a time."""


def require_path(path: str) -> None:
    """Raise UsageError unless a patch may change a file of this name."""
    try:
        check_name(path)
        check_patch_name(path)
    except (ManifestError, ActionRefused) as error:
        raise UsageError(
            f"{path[:100]!a} is no path that a patch may change",
            hint="it is plain and relative: plugins/NAME, commands/NAME or settings/NAME.yml",
        ) from error


def usual_mode(path: str) -> int:
    """The mode that a release gives to a file of this path."""
    return PROGRAM_MODE if _is_program(path) else FILE_MODE


def require_usable(path: str, contents: bytes, mode: int) -> None:
    """Raise UsageError or SiteFileRefused unless clients would run a program that is put to this path."""
    if not _is_program(path):
        return
    directory, _, name = path.partition("/")
    if "/" in name:
        raise UsageError(
            f"clients run what lies directly below {directory}/ alone",
            hint=f"put it to {directory}/{name.rpartition('/')[2]}",
        )
    require_program_name(name, path)
    if not contents:
        raise UsageError("the file is empty", hint=f"to take {path} away: penguindome patch remove {path}")
    if not mode & stat.S_IXUSR:
        raise UsageError(
            f"with the mode {mode:04o} clients cannot run {path}", hint="leave --mode out, or give 0755 or 0700"
        )


def settings_warnings(file: Path) -> tuple[str, ...]:
    """What should be said of a file of settings. Raises SettingsError, with file and line, for what no client takes."""
    return load(CLIENT_SETTINGS, file).warnings


class Released:
    """What the releases that these targets run have, as far as their manifests are on this server."""

    def __init__(self, paths: Paths, store: Store, targets: Sequence[Target]) -> None:
        self._store = store
        by_id = {target.client_id: target for target in targets}
        found = {
            by_id[document["_id"]]: _number(document.get("release"))
            for document in _documents(store, "clients", "_id", list(by_id), ("release",))
        }
        known = {release: _names(paths, release) for release in {*found.values()}}
        self._names = {target: known[release] for target, release in found.items()}
        self._all = sorted({name for names in known.values() for name in names or ()})

    def require_own_name(self, path: str) -> None:
        """Raise UsageError when a program of this path would take the name under which another one reports."""
        name = plugin_name(path.partition("/")[2])
        for other in self.beside(path) if _is_program(path) else ():
            if other != path and plugin_name(other.partition("/")[2]) == name:
                raise UsageError(
                    f"{path} would report under the name {name!r}, as {other} does",
                    hint=f"to replace that one, give --path {other}, whatever the language; else another name",
                )

    def without(self, path: str) -> list[Target]:
        """The targets that surely have no such file: it is not in their release, and no patch of it was ever theirs."""
        lacking = [target for target, names in self._names.items() if names is not None and path not in names]
        wanted = [target.client_id for target in lacking]
        found = _documents(self._store, "deliveries", "client_id", wanted, ("client_id", "paths"))
        patched = {delivery["client_id"] for delivery in found if path in (delivery.get("paths") or ())}
        return [target for target in lacking if target.client_id not in patched]

    def beside(self, path: str) -> list[str]:
        """What these releases have in the directory of this path."""
        directory = path.partition("/")[0]
        return [name for name in self._all if name.startswith(f"{directory}/")]


def _documents(store: Store, name: str, field: str, values: Sequence[str], fields: Sequence[str]) -> Iterator[Document]:
    for start in range(0, len(values), AT_ONCE):
        yield from store.collection(name).find({field: {"$in": values[start : start + AT_ONCE]}}, fields=fields)


def _number(said: Any) -> int | None:
    """The release that a client says it has: 0 is what its package brought."""
    return said if is_number(said) or (type(said) is int and said == 0) else None


def _names(paths: Paths, release: int | None) -> Collection[str] | None:
    """What a manifest names; None when it is not here. It is not verified: nothing but a refusal is made of it."""
    if release is None:
        return None
    directory = paths.releases / str(release) if release else paths.releases
    try:
        return Manifest.of_trusted(read_limited(directory / MANIFEST, LARGEST)).files
    except (OSError, PenguinDomeError):
        return None


def _is_program(path: str) -> bool:
    return path.partition("/")[0] != "settings"
