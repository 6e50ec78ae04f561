"""The store: collections of JSON-like documents behind one small interface, with two engines.

The engine is chosen by the setting `database.uri` (`open_store`). A document is a dict with a string `_id` and values of
None, bool, int (64 bits, signed), float (finite), str, aware UTC datetime (milliseconds), list and dict with string keys.
The store keeps a `_version` (int, from 1) in each document and raises it with each write.

This package knows nothing of Flask or of the domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

    All methods raise `StoreUnavailable` when the engine cannot be reached, is locked for too long or its disk is full.
    """

    name: str

    def get(self, key: str, *, fields: Sequence[str] | None = None) -> Document | None:
        """The document with this `_id`, or None. `fields` (dotted paths) limits what is fetched; `_id` and `_version` always come."""

    def insert(self, document: Document) -> None:
        """Add a new document (`_id` required). Raises `DuplicateKey`."""

    def insert_new(self, documents: Sequence[Document]) -> int:
        """Add those whose `_id` is not there yet, and leave the others as they are; returns how many were added."""

    def replace(self, before: Document, after: Document) -> bool:
        """Compare and swap: write `after` if the stored document still has the `_version` of `before`; says whether it did.

        `after` may share unchanged parts with `before`; neither is modified, but on success `after["_version"]` is set to the new version.
        Raises `DuplicateKey` when a unique index forbids it.
        """

    def clear(self, document: Document, field: str) -> bool:
        """Remove one top-level field, if the stored document still has the `_version` of `document`; says whether it did.

        On success the field is removed from `document` too and its `_version` is raised.
        """

    def update(self, key: str, change: Callable[[Document | None], Document | None]) -> Updated:
        """Atomic read-modify-write. `change` gets a copy of the document (None: there is none) and returns the new one, or None to
        leave it as it is. It must be pure: it runs again when another writer came first."""

    def find(
        self,
        where: Where | None = None,
        *,
        sort: str | None = None,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
        after: str | None = None,
    ) -> Iterator[Document]:
        """Documents that match `where`: equality, `$in`, `$nin`, `$lt`, `$lte`, `$gt`, `$gte`, `$ne`, `$exists` over `_id` and fields
        that the schema declares as indexed (another field or operator is a `StoreError`).

        Ordered by `sort` (an indexed field, `-` before it for descending) and then by `_id`; `after` is the `_id` after which to go on (in `_id` order
        only, without `sort`). Reads page by key, so that a long loop holds no transaction open.
        """

    def count(self, where: Where | None = None) -> int:
        """How many documents match."""

    def delete(self, where: Where) -> int:
        """Delete what matches; returns how many went. An empty `where` deletes all."""


class Store(Protocol):
    """An open store. Safe to use from several threads; opened after the fork, never across one."""

    uri: str  # without the password

    def collection(self, name: str) -> Collection:
        """A collection of the schema; another name is a `StoreError`."""

    def together(self, work: Callable[[], T]) -> T:
        """Run `work`, whose store calls (by this thread) share one durable commit, made before this returns.

        This saves time; what must hold after a crash is that *some prefix* of the writes of `work` is there, in order. SQLite: one savepoint, all or nothing, rolled back when `work`
        raises. MongoDB: each write is acknowledged by the primary, and the last one, or a barrier after it, is majority-durable.
        """

    def check(self) -> list[str]:
        """Problems found in structure and contents (empty: none): engine's own integrity check, indexes, undecodable documents."""

    def ping(self) -> None:
        """Raise `StoreUnavailable` when the store cannot serve reads now (within two seconds)."""

    def close(self) -> None:
        """Close all connections."""


def open_store(uri: str) -> Store:
    """Open the store that `uri` names (`sqlite:///absolute/path` or `mongodb://...`), making collections and indexes that are missing.

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
        f"database.uri: {uri.split(':', 1)[0]!r} is no known store", hint="use sqlite:///path or mongodb://host/database"
    )
