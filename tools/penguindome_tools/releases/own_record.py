"""What root itself made of each release: `releases.json` among root's keys, which nobody else can read or write.

The store may be in an attacker's hands, so that root signs nothing at its word alone. What may be for all, what a
rollback goes back to and what may be pruned is what this record says; the store can only withhold some of it. An entry
has what root wrote into the document of the release: `content_of`, when it was made, given to all and pruned, and when
an administrator halted it. (What the server halted by itself, only the store says.)

Commands change this and the store one after the other, in the order by which a kill in between leaves nothing worse
than a release that is withheld. Where the file is missing, root's directories tell as much: releases are those that lie
there, and for all are those that the publication in force offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData, PenguinDomeError, UsageError
from penguindome.files import read_limited, write_atomically
from penguindome.paths import Paths
from penguindome.release import LARGEST as LARGEST_DESCRIPTION
from penguindome.release import Description
from penguindome_server import rollout
from penguindome_server.release_documents import is_sound, key
from penguindome_server.store import Document
from penguindome_tools.context import Context
from penguindome_tools.releases import publication, records
from penguindome_tools.releases.staged import DESCRIPTION

FILE = "releases.json"
LARGEST = 64 << 20
_KEPT = ("_id", "release", "version", "content_of", "created_at", "promoted_at", "halted_at", "pruned_at")


@dataclass(frozen=True)
class Standing:
    """What is for all, each newest first: what root's record and the store agree on (as `publication.publish` takes
    it); and what root gave to all, and the store says nothing of or that it is for nobody, above all of that.
    """

    offered: list[int]
    withheld: list[int]
    canaries: list[int]


def entries(context: Context) -> list[Document]:
    """All of them, the newest release first. Raises InvalidData when the file is damaged."""
    path = context.paths.keys / FILE
    with context.as_root():
        try:
            found: Any = json.loads(read_limited(path, LARGEST))
        except FileNotFoundError:
            return _newest_first(_on_disk(context.paths))
        except InvalidData as error:
            raise _damaged(context.paths) from error
    if not isinstance(found, list) or not all(_is_entry(each) for each in found):
        raise _damaged(context.paths)
    return _newest_first(found)


def one(context: Context, number: int) -> Document:
    """The entry of a release. Raises UsageError when root made no such release."""
    for entry in entries(context):
        if entry["release"] == number:
            return entry
    raise UsageError(f"there is no release {number} that this server made", hint="see: penguindome release list")


def add(context: Context, document: Document) -> None:
    """Note a release that was published, whose document this is; noting it twice does no harm."""
    others = [entry for entry in entries(context) if entry["release"] != document["release"]]
    _write(context, [{name: document[name] for name in _KEPT}, *others])


def change(context: Context, number: int, **fields: Any) -> None:
    """Note what became of a release."""
    _write(context, [entry | fields if entry["release"] == number else entry for entry in entries(context)])


def standing(context: Context) -> Standing:
    """What root's record and the store say together. Raises InvalidData or StoreUnavailable."""
    alive = [entry for entry in entries(context) if not entry["halted_at"] and not entry["pruned_at"]]
    for_all = [entry["release"] for entry in alive if entry["promoted_at"]]
    offered = rollout.offered(context.store, among=set(for_all))
    newest = offered[0] if offered else 0
    known = {entry["release"] for entry in alive}
    canaries = [offer.release for offer in rollout.offers(context.store) if offer.release in known]
    return Standing(offered, [number for number in for_all if number > newest], canaries)


def before_newest(context: Context) -> Document:
    """The release that a rollback goes back to. Raises UsageError when there is none, or the store names another."""
    own: int = records.before(entries(context))["release"]
    try:
        said = f"release {records.before(records.newest_first(context.store))['release']}"
    except UsageError:
        said = "none"
    if said != f"release {own}":
        raise UsageError(
            f"by root's own record a rollback goes back to release {own}, but by the store to {said}",
            hint=f"look at `penguindome release list`, and say which: penguindome release rollback {own}",
        )
    return one(context, own)


def _newest_first(found: Sequence[Document]) -> list[Document]:
    return sorted(found, key=lambda entry: -entry["release"])


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.keys() >= set(_KEPT) and is_sound(entry)


def _damaged(paths: Paths) -> InvalidData:
    return InvalidData(
        f"{paths.keys / FILE} is damaged",
        hint="restore it from a backup; without it, what lies in the directories of releases takes its place",
    )


def _write(context: Context, found: Sequence[Document]) -> None:
    with context.as_root():
        write_atomically(context.paths.keys / FILE, json.dumps(_newest_first(found)), mode=0o600)


def _on_disk(paths: Paths) -> list[Document]:
    in_force = publication.in_force(paths) or []
    found = []
    for number in records.on_disk(paths):
        directory = paths.releases / str(number)
        try:
            text = read_limited(directory / DESCRIPTION, LARGEST_DESCRIPTION)
            description = Description.from_content(json.loads(text), text)
        except (PenguinDomeError, OSError):
            continue
        signed_at, packages = description.issued_at, description.packages.values()
        entry = {"_id": key(number), "release": number, "version": description.version, "content_of": number}
        entry |= {"created_at": signed_at, "promoted_at": signed_at if number in in_force else None, "halted_at": None}
        has_packages = any((directory / package.name).exists() for package in packages)
        found.append(entry | {"pruned_at": None if has_packages else signed_at})
    return found
