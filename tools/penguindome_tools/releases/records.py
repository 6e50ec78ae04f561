"""The documents of releases in the store: who made each, and who shall have it; and which number comes next.

The database only chooses among signed releases: nothing here says what is in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penguindome.errors import UsageError
from penguindome.paths import Paths
from penguindome_server import release_documents
from penguindome_server.release_documents import HIGHEST, key
from penguindome_server.store import Document, Store

RELEASES = release_documents.COLLECTION
STATE, FLOOR = "releases", "floor"
"""Document of `server_state`, and its field: no number up to this one is given out again."""
BELIEVED_GAP = 10_000
"""How far above the releases on root's disk the word of the store or a client is taken: nobody can use all numbers up,
and with them every later release.
"""
_FIELDS = {
    "release", "created_at", "created_by", "message", "version", "content_of", "stage", "promoted_at", "halted_at",
    "halted_by", "halted_reason", "pruned_at",
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Who gets a release first: so many percent of all clients, and those that are named. None at all: everybody."""

    percent: int = 0
    clients: tuple[str, ...] = ()

    @property
    def is_for_all(self) -> bool:
        """Whether nobody was chosen, so that everybody gets it at once."""
        return not self.percent and not self.clients


@dataclass(frozen=True)
class Numbers:
    """The next number, and what the store or clients say of numbers that cannot be."""

    following: int
    unbelievable: tuple[str, ...] = ()


def new_document(
    number: int,
    *,
    version: str,
    content_of: int,
    message: str,
    who: str,
    now: datetime,
    stage: Stage,
) -> Document:
    """What is kept of a release that is published now."""
    return {
        "_id": key(number),
        "release": number,
        "created_at": now,
        "created_by": who,
        "message": message,
        "version": version,
        "content_of": content_of,
        "stage": {"percent": stage.percent, "clients": list(stage.clients)},
        "promoted_at": now if stage.is_for_all else None,
        "halted_at": None,
        "halted_by": None,
        "halted_reason": None,
        "pruned_at": None,
    }


def newest_first(store: Store) -> list[Document]:
    """All releases, the newest first; what no release can say of itself is left out."""
    return [document for document in release_documents.newest_first(store) if document.keys() >= _FIELDS]


def one(store: Store, number: int) -> Document:
    """The document of a release. Raises UsageError when there is none."""
    document = store.collection(RELEASES).get(key(number))
    if document is None or not release_documents.is_sound(document) or not document.keys() >= _FIELDS:
        raise UsageError(f"there is no release {number}", hint="see: penguindome release list")
    return document


def state(document: Document) -> str:
    """In a few words, who has a release."""
    if document["pruned_at"]:
        return "pruned"
    if document["halted_at"]:
        return "halted"
    if document["promoted_at"]:
        return "for all"
    stage = document["stage"]
    parts = [f"{stage['percent']}%"] if stage["percent"] else []
    parts += [f"{len(stage['clients'])} named"] if stage["clients"] else []
    return f"canary: {' and '.join(parts) or 'nobody'}"


def before(documents: Sequence[Document]) -> Document:
    """The release whose content was in force before the newest one's: what a rollback goes back to.

    `documents` are the newest first: those of the store, or the entries of root's own record. What was never for all,
    what is halted and what has no packages is passed over, and a rollback counts for the release whose content it had.
    Raises UsageError when there is none.
    """
    bound = documents[0]["content_of"] if documents else 0
    for document in documents:
        passed_over = document["halted_at"] or document["pruned_at"] or not document["promoted_at"]
        if document["release"] < bound and not passed_over:
            return document
    raise UsageError("there is no older release to go back to", hint="see: penguindome release list")


def numbers(paths: Paths, store: Store) -> Numbers:
    """The number of the next release: above every one that was given out, lies on the disk, or runs on a client."""
    believed = max(on_disk(paths), default=0)
    bound = believed + BELIEVED_GAP
    unbelievable = []
    for whose, value in _said(store):
        said = _number(value)
        if said > bound:
            unbelievable.append(f"{whose} says that there is a release {said}, which cannot be")
        else:
            believed = max(believed, said)
    if believed >= HIGHEST:
        raise UsageError(f"there is no number left above {believed}")
    return Numbers(believed + 1, tuple(unbelievable))


def _said(store: Store) -> Iterator[tuple[str, Any]]:
    """Who says that there is a release of which number: the store itself, and clients."""
    yield "the store", (store.collection("server_state").get(STATE) or {}).get(FLOOR)
    for document in store.collection(RELEASES).find(fields=("release",)):
        yield "the store", document.get("release")
    for document in store.collection("clients").find(fields=("release", "hostname")):
        yield str(document.get("hostname")), document.get("release")


def burn(store: Store, number: int) -> None:
    """Never give this number out again, whatever becomes of the release that had it."""

    def raised(before: Document | None) -> Document:
        return {**(before or {}), FLOOR: max(number, _number((before or {}).get(FLOOR)))}

    store.collection("server_state").update(STATE, raised)


def on_disk(paths: Paths) -> Iterable[int]:
    """The numbers of the releases that lie in `Paths.releases`, in no order."""
    return [int(path.name) for path in paths.releases.glob("[1-9]*") if path.name.isdigit() and path.is_dir()]


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
