"""Patches that were accepted: files that are laid over the client's tree, until its next release.

A generation (see `generations`) holds the files of all patches, and in `patches.json` their signed texts, oldest first,
with the release that they were laid over. What is in force is read from those texts alone, each verified again every
time: a file that none of them names, or with other contents, is reported and does not run. A patch that removes a path
makes it be gone from this client, whether it came with the release or with a patch before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penguindome import json
from penguindome.actions import Action, ActionRefused
from penguindome.client import generations
from penguindome.client.action_records import Record
from penguindome.client.state import no_space
from penguindome.errors import InvalidData, ManifestError, PenguinDomeError, SignatureError
from penguindome.files import read_limited
from penguindome.manifest import FileEntry, Manifest, Problem, check_names, open_verified, verify_tree

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.openpgp import Certificate

PATCHES = "patches.json"
SIZE_LIMIT = 64 << 20
KIND = "overlay"


@dataclass(frozen=True)
class Overlay:
    """The patches in force. `files` are theirs, `removed` the paths of the release that they hide."""

    directory: Path
    release: int
    actions: tuple[Action, ...]
    files: Mapping[str, FileEntry]
    removed: frozenset[str]
    damage: tuple[Problem, ...] = ()

    @property
    def paths(self) -> list[str]:
        """All paths that patches added, changed or removed, sorted."""
        return sorted({*self.files, *self.removed})

    def over(self, manifest: Manifest) -> Manifest:
        """The effective manifest: that of the release, overlaid by the patches."""
        kept = {name: entry for name, entry in manifest.files.items() if name not in self.removed}
        return replace(manifest, files={**kept, **self.files})

    def problems(self) -> list[Problem]:
        """What is not as signed below the overlay."""
        if self.release < 0:
            return list(self.damage)
        named = _as_manifest(self.release, self.files)
        found = [problem for problem in verify_tree(named, self.directory, runnable=("",)) if problem.path != PATCHES]
        return [*self.damage, *(Problem(f"{generations.LINK}/{each.path}", each.reason) for each in found)]


def load(state: Path, certificates: Sequence[Certificate], client_id: str) -> Overlay | None:
    """The overlay in force; None when there is none. Never raises for what lies there: that is its `damage`.

    `certificates`: those that may have signed what was accepted here.
    """
    directory = generations.in_force(state)
    if directory is None:
        if generations.is_damaged(state):
            return Overlay(state, -1, (), {}, frozenset(), (Problem(generations.LINK, "link"),))
        return None
    release, texts, damage = _read(directory)
    actions = []
    for text, signature in texts:
        action = _verified(text, signature, certificates, client_id)
        if action is None:
            damage.append(Problem(f"{generations.LINK}/{PATCHES}", "unsigned"))
        else:
            actions.append(action)
    files, removed = _composed(actions)
    return Overlay(directory, release, tuple(actions), files, removed, tuple(damage))


def apply(
    state: Path,
    action: Action,
    signature: bytes,
    contents: Mapping[str, bytes],
    *,
    manifest: Manifest,
    overlay: Overlay | None,
    check: Callable[[Path], None],
) -> None:
    """Lay a patch, which was verified with its contents, over what is in force: all of it or, when this raises,
    nothing.

    `check` is given the new generation before it is in force. Raises ActionRefused when the patch cannot be applied,
    NoSpace when the disk is full.
    """
    present = overlay if overlay is not None and overlay.release == manifest.release else None
    effective = manifest if present is None else present.over(manifest)
    _refuse_older(action, manifest.release, () if present is None else present.actions)
    for name in action.parameters["remove"]:
        if name not in effective.files:
            raise ActionRefused(f"there is no {name} here that could be removed")
    actions = (*(present.actions if present is not None else ()), action)
    files, removed = _composed(actions)
    named = Overlay(state, manifest.release, actions, files, removed)
    try:
        check_names(named.over(manifest).files)
    except ManifestError as error:
        raise ActionRefused(error.message) from error
    written: dict[str, tuple[bytes, int]] = {}
    for name, entry in files.items():
        found = contents[name] if action.files.get(name) == entry else _kept(overlay, name)
        if found is not None:
            written[name] = (found, entry.mode)
    signatures = {} if overlay is None else dict(_signatures(overlay))
    signatures[action.id] = signature.decode()
    written[PATCHES] = (_document(manifest.release, actions, signatures), 0o600)
    try:
        generation = generations.write(state, written)
        try:
            check(generation)
        except BaseException:
            generations.remove_others(state, generations.in_force(state))
            raise
        generations.switch(state, generation)
    except OSError as error:
        raise no_space(error, state / generations.LINK) from error


def _refuse_older(action: Action, release: int, applied: Iterable[Action]) -> None:
    """Whoever hands patches out may keep one back, or bring back one that was cancelled: it undoes nothing newer."""
    if action.parameters["newest_release"] < release:
        raise ActionRefused(f"it was issued before release {release}, which is in force here")
    for newer in applied:
        both = _paths(action) & _paths(newer)
        if both and newer.issued_at > action.issued_at:
            raise ActionRefused(f"{min(both)} was changed by the patch {newer.id}, which was issued later")


def _paths(action: Action) -> set[str]:
    return {*action.files, *action.parameters["remove"]}


def clear(client: Client) -> None:
    """Take all patches away, for a new release is in force. That each was applied stays known. Raises NoSpace."""
    state = client.paths.client_state
    present = load(state, client.identity.accepted_by, client.identity.client_id)
    if present is None:
        return
    for action in present.actions:
        if not client.records.knows(action.id):
            # A crash came between the overlay and the record.
            record = Record(action.id, action.kind, client.clock(), expires_at=action.expires_at)
            record.conclude("done", None, finished_at=client.clock())
            client.records.save(record)
    generations.clear(state)
    client.reread_settings()


def load_accepted(text: str, signature: str, certificates: Sequence[Certificate]) -> Action:
    """An action that was accepted before, verified again. Raises SignatureError or ActionRefused."""
    for certificate in certificates[:-1]:
        with suppress(SignatureError):
            return Action.load(text.encode(), signature.encode(), certificate)
    return Action.load(text.encode(), signature.encode(), certificates[-1])


def _verified(text: str, signature: str, certificates: Sequence[Certificate], client_id: str) -> Action | None:
    try:
        action = load_accepted(text, signature, certificates)
    except PenguinDomeError:
        return None
    ours = any(target.client_id == client_id for target in action.targets)
    return action if action.kind == "patch" and ours else None


def _read(directory: Path) -> tuple[int, list[tuple[str, str]], list[Problem]]:
    damaged = Problem(f"{generations.LINK}/{PATCHES}", "damaged")
    try:
        document: Any = json.loads_plain(read_limited(directory / PATCHES, SIZE_LIMIT))
        release, patches = document["release"], document["patches"]
        texts = [(str(patch["text"]), str(patch["signature"])) for patch in patches]
        return int(release), texts, []
    except (OSError, InvalidData, LookupError, TypeError, ValueError):
        return -1, [], [damaged]


def _signatures(overlay: Overlay) -> Iterable[tuple[str, str]]:
    by_text = dict(_read(overlay.directory)[1])
    return ((action.id, by_text[action.data.decode()]) for action in overlay.actions)


def _document(release: int, actions: Iterable[Action], signatures: Mapping[str, str]) -> bytes:
    patches = [{"text": action.data.decode(), "signature": signatures[action.id]} for action in actions]
    return json.dumps({"release": release, "patches": patches}).encode()


def _composed(actions: Iterable[Action]) -> tuple[dict[str, FileEntry], frozenset[str]]:
    files: dict[str, FileEntry] = {}
    removed: set[str] = set()
    for action in actions:
        for name in action.parameters["remove"]:
            files.pop(name, None)
            removed.add(name)
        files.update(action.files)
        removed.difference_update(action.files)
    return files, frozenset(removed)


def _kept(overlay: Overlay | None, name: str) -> bytes | None:
    """The contents that a file of the overlay has as it should; else it is left out, and reported as missing."""
    if overlay is None:
        return None
    try:
        return open_verified(_as_manifest(overlay.release, overlay.files), overlay.directory, name)
    except ManifestError:
        return None


def _as_manifest(release: int, files: Mapping[str, FileEntry]) -> Manifest:
    from datetime import datetime, timezone

    never = datetime.max.replace(tzinfo=timezone.utc)
    return Manifest(KIND, release, never, never, files, "", b"")
