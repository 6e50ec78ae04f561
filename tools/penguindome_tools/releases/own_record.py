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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData, PenguinDomeError, UsageError
from penguindome.files import read_limited, write_atomically
from penguindome.paths import Paths
from penguindome.release import LARGEST as LARGEST_DESCRIPTION
from penguindome.release import Description
from penguindome_server import halting, rollout
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
    """What is offered, each newest first: to all, by root's record and the store (as `publication.publish` takes it);
    what root gave to all above that, and the store does not offer; and what is for some, above all of these.
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
        except PermissionError as error:
            raise PenguinDomeError(f"the keys in {context.paths.keys} are root's", hint="run this with sudo") from error
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
    # A store that is an attacker's may name them in any order.
    offered = sorted(set(rollout.offered(context.store, among=set(for_all))), reverse=True)
    withheld = [number for number in for_all if number > max(offered, default=0)]
    newer = {entry["release"] for entry in alive if entry["release"] > max(for_all, default=0)}
    return Standing(
        offered, withheld, [offer.release for offer in rollout.offers(context.store) if offer.release in newer]
    )


def differences(context: Context) -> Iterator[str]:
    """What the store says otherwise than root's record does, but for what the server halted by itself; for people."""
    stored = {document["release"]: document for document in records.newest_first(context.store)}
    for entry in entries(context):
        own, document = _state(entry), stored.pop(entry["release"], None)
        said = "nothing" if document is None else _state(document)
        by_itself = document is not None and said == "halted" and document["halted_by"] == halting.SERVER
        if said != own and not by_itself:
            yield f"release {entry['release']}: by root's own record {own}, by the store {said}"
    for number, document in stored.items():
        yield f"release {number}: by root's own record nothing, by the store {_state(document)}"


def _state(document: Document) -> str:
    words = {"pruned_at": "pruned", "halted_at": "halted", "promoted_at": "for all"}
    return next((words[name] for name in words if document[name]), "for canaries")


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
