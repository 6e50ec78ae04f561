"""The store: collections of JSON-like documents behind one small interface, with two engines.

The engine is chosen by the setting `database.uri` (`open_store`). A document is a dict with a string `_id` and values
of None, bool, int (64 bits, signed), float (finite), str, aware datetime (kept in UTC, to the millisecond, and only
under keys that end in `_at`), list and dict with string keys (no dots, no NUL, no `$` in front), nested 64 deep at
most, and of 1 MB at most (`packages`, and a document with an `outbox`: 4 MB). Anything else is refused with a
StoreError that names the place, tuples and subclasses too. The store keeps a `_version` (int, from 1) in each
document and raises it with each write.

This package knows nothing of Flask or of the domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from penguindome.errors import PenguinDomeError

Document = dict[str, Any]
Where = Mapping[str, Any]
T = TypeVar("T")


class StoreError(PenguinDomeError):
    """The store refused or failed; nothing of the operation was kept."""

    code: ClassVar[str] = "store"


class StoreUnavailable(StoreError):
    """The store cannot be reached or written just now; the same operation may work later."""

    code = "store-unavailable"


class DuplicateKey(StoreError):
    """A document with this `_id`, or with these values of a unique index, is there already."""

    code = "duplicate-key"


@dataclass(frozen=True)
class Updated:
    """The document before and after an `update`; `before` is None when it was made, equal objects when left alone."""

    before: Document | None
    after: Document | None


class Collection(Protocol):
    """One collection. Every write is on disk (SQLite `synchronous=FULL`; MongoDB `w: majority, j: true`) when its call
    returns, except inside `Store.together`, where all writes are on disk when `together` returns.

    All methods raise `StoreUnavailable` when the engine cannot be reached, is locked for too long or its disk is full;
    `StoreError` for a key that is no text, and for a document or condition that is not as it must be.
    """

    name: str

    def get(self, key: str, *, fields: Sequence[str] | None = None) -> Document | None:
        """The document with this `_id`, or None. `fields` (dotted paths through dicts) limits what is fetched.

        `_id` and `_version` always come. A path that leads into a list brings nothing.
        """

    def insert(self, document: Document) -> None:
        """Add a new document (`_id` required); sets its `_version` to 1. Raises `DuplicateKey`."""

    def insert_new(self, documents: Sequence[Document]) -> int:
        """Add those whose `_id` is not there yet, and leave the others as they are; returns how many were added.

        Raises `DuplicateKey` for a conflict in a unique index (MongoDB may have added some by then).
        """

    def load(self, documents: Sequence[Document]) -> None:
        """Add new documents as another store had them, with their `_version`. Raises `DuplicateKey`."""

    def replace(self, before: Document, after: Document) -> bool:
        """Compare and swap: write `after` if the stored document still has the `_version` of `before`; says whether.

        `before` is a whole document as it was read. `after` may share unchanged parts with it, and should: what is the
        same object (down to the second level: `plugins.sshd`) is neither checked nor written again. So nothing of
        `before` may have been modified in place. On success `after["_version"]` is set to the new version.
        Raises `DuplicateKey` when a unique index forbids it.
        """

    def clear(self, document: Document, field: str) -> bool:
        """Remove one top-level field, if the stored document still has the `_version` of `document`; says whether.

        On success the field is removed from `document` too and its `_version` is raised.
        """

    def update(self, key: str, change: Callable[[Document | None], Document | None]) -> Updated:
        """Atomic read-modify-write. `change` gets a copy of the document (None: there is none) and returns the new one,
        or None to leave it as it is. It must be pure: it runs again when another writer came first.
        """

    def find(
        self,
        where: Where | None = None,
        *,
        sort: str | None = None,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
        after: str | None = None,
    ) -> Iterator[Document]:
        """Documents that match `where`: equality, `$in`, `$nin`, `$lt`, `$lte`, `$gt`, `$gte`, `$ne`, `$exists` over
        `_id` and fields that the schema declares as indexed (another field or operator is a `StoreError`).

        They mean what they mean in MongoDB: null also matches a missing field, and `$lt` and its like match values of
        the same type alone. Ordered by `sort` (an indexed field, `-` before it for descending; null and missing are
        lowest, text goes by code point) and then by `_id`; `after` is the `_id` after which to go on (in `_id` order
        only, without `sort`). Reads some keys, then some documents at a time, and holds nothing open between, so that
        the loop may take its time; a document that changes meanwhile comes as it is when its turn comes.
        """

    def count(self, where: Where | None = None) -> int:
        """How many documents match."""

    def delete(self, where: Where) -> int:
        """Delete what matches; returns how many went. An empty `where` deletes all."""


class Store(Protocol):
    """An open store. Safe to use from several threads; opened after the fork, never across one."""

    uri: str  # without the password

    @property
    def atomic(self) -> bool:
        """Whether what `together` writes is there wholly or not at all after a crash."""

    def collection(self, name: str) -> Collection:
        """A collection of the schema; another name is a `StoreError`."""

    def together(self, work: Callable[[], T]) -> T:
        """Run `work`, whose store calls share one durable commit, made before this returns.

        This saves time; what must hold after a crash is that *some prefix* of the writes of `work` is there, in order.
        SQLite: all or nothing, rolled back when `work` raises. It may be run by another thread that commits just then,
        so it must not wait for a lock nor use what belongs to a thread, and it should do little but store calls: all
        writers wait. MongoDB: each write is acknowledged by the primary, and all are majority-durable at the end.
        """

    def check(self) -> list[str]:
        """Problems in structure and contents (empty: none): the engine's own check, indexes, unreadable documents."""

    def snapshot(self, path: Path) -> bool:
        """Write all documents, as they are at one moment, into a new embedded store in the file `path` (0600), while
        others read and write; False, and nothing done, where the engine cannot do that.
        """

    def ping(self) -> None:
        """Raise `StoreUnavailable` when the store cannot serve reads now (within two seconds)."""

    def close(self) -> None:
        """Close all connections."""


def open_store(uri: str) -> Store:
    """Open the store that `uri` names (`sqlite:///absolute/path` or `mongodb://...`), making what of it is missing.

    Raises `StoreError` for an unknown scheme, `StoreUnavailable` when it cannot be reached.
    """
    if uri.startswith("sqlite:"):
        from penguindome_server.store.sqlite import SqliteStore

        return SqliteStore(uri)
    if uri.startswith(("mongodb:", "mongodb+srv:")):
        # pymongo costs 30 MB and 0.2 s: a server with the embedded store does not pay for it.
        from penguindome_server.store.mongodb import MongoStore

        return MongoStore(uri)
    raise StoreError(
        f"database.uri: {uri.split(':', 1)[0]!r} is no known store",
        hint="use sqlite:///path or mongodb://host/database",
    )


def require_access(uri: str) -> None:
    """Raise `StoreUnavailable`, or `StoreError` that says why, unless the database that `uri` names lets us in.

    Changes nothing there. An embedded store needs no access.
    """
    if uri.startswith(("mongodb:", "mongodb+srv:")):
        from penguindome_server.store.mongodb_connection import require_access as of_mongodb

        of_mongodb(uri)
