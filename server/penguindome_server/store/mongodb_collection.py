"""One collection in MongoDB."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection as PyMongoCollection
from pymongo.errors import BulkWriteError

from penguindome_server.store import Document, DuplicateKey, StoreError, StoreUnavailable, Updated, Where
from penguindome_server.store.conditions import Condition, Order, checked_limit, parse_fields, parse_sort, parse_where
from penguindome_server.store.documents import encoded, indexed_values, projected, size_limit
from penguindome_server.store.mongodb_connection import OPTIONS, Guard
from penguindome_server.store.mongodb_statements import Filter, both, filter_of, position_of, sort_of
from penguindome_server.store.paging import Position, stream
from penguindome_server.store.rules import (
    Changes,
    checked,
    checked_changes,
    checked_key,
    checked_version,
    explain,
    field_value,
)
from penguindome_server.store.schema import CollectionSchema

UPDATE_SECONDS = 20.0
_INSERT_AT_ONCE = 1000
_DELETE_AT_ONCE = 1000
_DUPLICATE_KEY = 11000
_JSON_PER_BSON = 6
"""A byte of BSON is never more than so many of JSON (a control character: `\\u0000`)."""

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


class Group:
    """What a thread has written within `Store.together`: whether all of it is durable, and which server, by which
    election, took it.
    """

    def __init__(self) -> None:
        self.is_durable = True
        self.primary = ""


@dataclass(frozen=True)
class Wires:
    """The ways to one collection: `durable`; and for within `Store.together` `quick`, whose writes the primary alone
    acknowledges and whose reads see them, and `last`, which waits until these and its own write are durable.

    `group` says what the thread has done within `together` (None outside); `stay` is called before each write there,
    and after the last: it raises StoreUnavailable when another primary was elected since the first.
    """

    guard: Guard
    durable: PyMongoCollection[Document]
    quick: PyMongoCollection[Document]
    last: PyMongoCollection[Document]
    group: Callable[[], Group | None]
    stay: Callable[[Group], None]

    def for_reading(self) -> PyMongoCollection[Document]:
        """The way for a read of this thread."""
        return self.quick if self.group() else self.durable

    def for_writing(self) -> PyMongoCollection[Document]:
        """The way for a write of this thread."""
        group = self.group()
        if group is None:
            return self.durable
        self.stay(group)
        group.is_durable = False
        return self.quick

    @contextmanager
    def for_last_write(self) -> Iterator[PyMongoCollection[Document]]:
        """The way for a write that usually is the last of a group, which saves waiting for durability apart from it."""
        group = self.group()
        if group is None:
            yield self.durable
            return
        self.stay(group)
        group.is_durable = False
        yield self.last
        self.stay(group)
        group.is_durable = True


class MongoCollection:
    """One collection."""

    def __init__(self, schema: CollectionSchema, wires: Wires) -> None:
        self.name = schema.name
        self._schema = schema
        self._wires = wires

    def get(self, key: str, *, fields: Sequence[str] | None = None) -> Document | None:
        """The document with this `_id`, or None."""
        checked_key(key, self.name)
        wanted = parse_fields(fields)
        with self._call():
            document = self._wires.for_reading().find_one({"_id": {"$eq": key}}, _projection(wanted))
        return document if document is None or wanted is None else projected(document, wanted)

    def insert(self, document: Document) -> None:
        """Add a new document. Raises `DuplicateKey`."""
        new = {**self._fit(document), "_version": 1}
        with self._call():
            self._wires.for_writing().insert_one(new)
        document["_version"] = 1

    def insert_new(self, documents: Sequence[Document]) -> int:
        """Add those whose `_id` is not there yet; returns how many were added."""
        new = [{**self._fit(document), "_version": 1} for document in documents]
        inserted = 0
        for start in range(0, len(new), _INSERT_AT_ONCE):
            inserted += self._insert_some(new[start : start + _INSERT_AT_ONCE])
        return inserted

    def load(self, documents: Sequence[Document]) -> None:
        """Add documents as another store had them, `_version` and all. Raises `DuplicateKey`."""
        new = [{**self._fit(document), "_version": checked_version(document)} for document in documents]
        for start in range(0, len(new), _INSERT_AT_ONCE):
            with self._call():
                self._wires.for_writing().insert_many(new[start : start + _INSERT_AT_ONCE])

    def replace(self, before: Document, after: Document) -> bool:
        """Compare and swap by the `_version` of `before`; sends only the parts that changed."""
        return self._swap(before, after, checked_changes(before, after, self._schema))

    def _swap(self, before: Document, after: Document, changes: Changes | None) -> bool:
        """Write `after` over `before`: by its changes if they are given."""
        key, version = checked_key(before.get("_id"), self.name), checked_version(before)
        if after.get("_id") != key:
            raise StoreError(f"{self.name}: {key!r} cannot become {after.get('_id')!r}")
        self._check_size(after)
        expected: Filter = {"_id": key, "_version": version}
        with self._call():
            collection = self._wires.for_writing()
            if changes is None:
                result = collection.replace_one(expected, {**self._fit(after), "_version": version + 1})
            else:
                result = collection.update_one(expected, _update(changes.written, changes.removed, version + 1))
        if result.matched_count == 0:
            return False
        after["_version"] = version + 1
        return True

    def clear(self, document: Document, field: str) -> bool:
        """Remove one top-level field, by the `_version` of `document`."""
        key, version = checked_key(document.get("_id"), self.name), checked_version(document)
        if parse_fields([field]) != (field,) or "." in field:
            raise StoreError(f"{self.name}: {field!r} cannot be cleared")
        expected: Filter = {"_id": key, "_version": version}
        with self._call(), self._wires.for_last_write() as collection:
            result = collection.update_one(expected, _update({}, [field], version + 1))
        if result.matched_count == 0:
            return False
        document.pop(field, None)
        document["_version"] = version + 1
        return True

    def update(self, key: str, change: Callable[[Document | None], Document | None]) -> Updated:
        """Atomic read-modify-write, tried again with growing pauses while other writers come first."""
        checked_key(key, self.name)
        until = time.monotonic() + UPDATE_SECONDS
        longest = 0.002
        while time.monotonic() < until:
            updated = self._try_update(key, change)
            if updated is not None:
                return updated
            time.sleep(random.uniform(0, longest))  # noqa: S311 - spreads writers, protects nothing
            longest = min(longest * 2, 0.1)
        raise StoreUnavailable(f"{self.name}: {key!r} is written by others all the time")

    def find(
        self,
        where: Where | None = None,
        *,
        sort: str | None = None,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
        after: str | None = None,
    ) -> Iterator[Document]:
        """Documents that match `where`, read a few at a time."""
        conditions = parse_where(where, self._schema)
        order = parse_sort(sort, self._schema, after=after)
        wanted = parse_fields(fields)
        if after is not None:
            conditions += parse_where({"_id": {"$gt": after}}, self._schema)

        def read_keys(position: Position | None, count: int) -> Sequence[Position]:
            return self._keys(conditions, order, position, count)

        def read_documents(keys: Sequence[str]) -> tuple[Mapping[str, Document], int]:
            return self._documents(conditions, keys, wanted)

        return stream(read_keys, read_documents, limit=checked_limit(limit))

    def count(self, where: Where | None = None) -> int:
        """How many documents match."""
        condition = filter_of(parse_where(where, self._schema))
        with self._call():
            if not condition:
                return self._wires.for_reading().count_documents({}, hint="_id_")
            return self._wires.for_reading().count_documents(condition)

    def delete(self, where: Where) -> int:
        """Delete what matches, some at a time, so that a fail-over between costs nothing."""
        conditions = parse_where(where, self._schema)
        deleted = 0
        while keys := [key for _, key in self._keys(conditions, None, None, _DELETE_AT_ONCE)]:
            with self._call():
                found = both({"_id": {"$in": keys}}, filter_of(conditions))
                deleted += self._wires.for_writing().delete_many(found).deleted_count
        return deleted

    def problems(self) -> Iterator[str]:
        """What is wrong with the documents of this collection."""
        last: Filter = {}
        while True:
            with self._call():
                cursor = self._wires.durable.with_options(codec_options=_RAW).find(last).sort("_id", 1).limit(100)
                found = list(cursor)
            for raw in found:
                yield from self._problems_of(raw)
            if not found:
                return
            last = {"_id": {"$gt": found[-1]["_id"]}}

    def _problems_of(self, raw: RawBSONDocument) -> Iterator[str]:
        try:
            document = bson.decode(raw.raw, OPTIONS)
            checked(document, self._schema)
            checked_version(document)
            indexed_values(document, self._schema)
        except (StoreError, BSONError) as error:
            yield f"{self.name}: {raw['_id']!r}: {error}"

    def _try_update(self, key: str, change: Callable[[Document | None], Document | None]) -> Updated | None:
        """The outcome, or None when another writer came between."""
        before = self.get(key)
        after = change(None if before is None else bson.decode(bson.encode(before), OPTIONS))
        if after is None:
            return Updated(before, before)
        if after.setdefault("_id", key) != key:
            raise StoreError(f"{self.name}: {key!r} cannot become {after['_id']!r}")
        if before is not None:
            # It was made of another copy, so that nothing is shared whose writing could be spared.
            return Updated(before, after) if self._swap(before, after, None) else None
        try:
            self.insert(after)
        except DuplicateKey:
            if self.get(key, fields=()) is None:
                raise
            return None
        return Updated(None, after)

    def _call(self) -> AbstractContextManager[None]:
        return self._wires.guard.call()

    def _fit(self, document: Document) -> Document:
        """The document, when both engines could store it."""
        checked(document, self._schema)
        self._check_size(document)
        return document

    def _check_size(self, document: Document) -> None:
        indexed_values(document, self._schema)
        try:
            size = len(bson.encode(document))
        except (BSONError, UnicodeEncodeError, OverflowError, ValueError) as error:
            explain(document, self.name)
            raise StoreError(f"{self.name}: {document.get('_id')!r} cannot be stored: {error}") from error
        if size * _JSON_PER_BSON > size_limit(document, self._schema):
            encoded(document, self._schema)

    def _insert_some(self, documents: Sequence[Document]) -> int:
        with self._call():
            try:
                return len(self._wires.for_writing().insert_many(documents, ordered=False).inserted_ids)
            except BulkWriteError as error:
                errors = error.details.get("writeErrors", [])
                if error.timeout or error.details.get("writeConcernErrors") or not all(map(_is_of_key, errors)):
                    raise
                return int(error.details["nInserted"])

    def _keys(
        self, conditions: Sequence[Condition], order: Order | None, position: Position | None, count: int
    ) -> Sequence[Position]:
        condition = filter_of(conditions)
        if position is not None:
            condition = both(condition, position_of(order, position))
        names = ["_id", *([order.field] if order else [])]
        pipeline: list[Mapping[str, Any]] = [
            {"$match": condition},
            {"$sort": sort_of(order)},
            {"$limit": count},
            {"$project": dict.fromkeys(names, 1)},
        ]
        if count == 0:
            return []
        with (
            self._call(),
            self._wires.for_reading().aggregate(pipeline, allowDiskUse=True, batchSize=count) as cursor,
        ):
            return [(field_value(found, order.field) if order else None, found["_id"]) for found in cursor]

    def _documents(
        self, conditions: Sequence[Condition], keys: Sequence[str], wanted: tuple[str, ...] | None
    ) -> tuple[Mapping[str, Document], int]:
        """Conditions are looked at again: a document may have changed since its key was read."""
        condition = both({"_id": {"$in": list(keys)}}, filter_of(conditions))
        found: list[Document] = []
        size = 0
        with self._call():
            raw = self._wires.for_reading().find_raw_batches(condition, _projection(wanted), batch_size=len(keys))
            with raw as batches:
                for batch in batches:
                    data = cast("bytes", batch)  # pymongo calls it a document
                    size += len(data)
                    found.extend(bson.decode_all(data, OPTIONS))
        if wanted is not None:
            found = [projected(document, wanted) for document in found]
        return {document["_id"]: document for document in found}, size


def _projection(wanted: tuple[str, ...] | None) -> dict[str, int] | None:
    return None if wanted is None else dict.fromkeys(("_version", *wanted), 1)


def _is_of_key(error: Mapping[str, Any]) -> bool:
    return error.get("code") == _DUPLICATE_KEY and list(error.get("keyPattern", ())) == ["_id"]


def _update(written: Mapping[str, Any], removed: Sequence[str], version: int) -> Mapping[str, Any]:
    update: dict[str, Any] = {"$set": {**written, "_version": version}}
    if removed:
        update["$unset"] = dict.fromkeys(removed, "")
    return update
