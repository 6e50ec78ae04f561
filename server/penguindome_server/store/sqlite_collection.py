"""One collection of the embedded store: a table."""

# ruff: noqa: S608 - identifiers in statements come from the schema; whatever comes from outside is a parameter

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from penguindome_server.store import Document, DuplicateKey, StoreError, Updated, Where
from penguindome_server.store.conditions import Condition, Order, checked_limit, parse_fields, parse_sort, parse_where
from penguindome_server.store.documents import (
    decoded,
    decoded_part,
    encoded,
    indexed_values,
    place,
    size_limit,
    text_of_part,
)
from penguindome_server.store.paging import Position, stream
from penguindome_server.store.rules import (
    Changes,
    checked,
    checked_changes,
    checked_key,
    checked_version,
    field_value,
)
from penguindome_server.store.schema import CollectionSchema
from penguindome_server.store.sqlite_statements import (
    Parameters,
    column,
    column_value,
    conditions_sql,
    json_path,
    order_sql,
    placeholders,
    position_sql,
    quoted,
)
from penguindome_server.store.sqlite_writer import T, Work, Writer

_DELETE_AT_ONCE = 500
_INSERT_AT_ONCE = 16


class Reader(Protocol):
    """Runs a work on a connection that may read."""

    def __call__(self, work: Work[T]) -> T:
        """The result of the work."""


class SqliteCollection:
    """One table."""

    def __init__(self, read: Reader, writer: Writer, schema: CollectionSchema) -> None:
        self.name = schema.name
        self._read = read
        self._writer = writer
        self._schema = schema
        self._table = table = quoted(schema.name)
        columns = ["key", "version", *map(quoted, schema.indexed_fields), "document"]
        self._width = len(columns)
        self._get = f"SELECT version, document FROM {table} WHERE key = ?"
        self._insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "

    def get(self, key: str, *, fields: Sequence[str] | None = None) -> Document | None:
        """The document with this `_id`, or None."""
        checked_key(key, self.name)
        wanted = parse_fields(fields)
        if wanted is None:
            row = self._read(lambda connection: connection.execute(self._get, (key,)).fetchone())
            return None if row is None else decoded(key, *row)
        query = f"SELECT version{self._parts(wanted)} FROM {self._table} WHERE key = ?"
        parameters = [*map(json_path, wanted), key]
        row = self._read(lambda connection: connection.execute(query, parameters).fetchone())
        return None if row is None else _assembled(key, row, wanted)

    def insert(self, document: Document) -> None:
        """Add a new document. Raises `DuplicateKey`."""
        row = self._row(document, 1)
        self._write(self._insert + self._values(1), row)
        document["_version"] = 1

    def insert_new(self, documents: Sequence[Document]) -> int:
        """Add those whose `_id` is not there yet; returns how many were added."""
        return self._insert_rows([self._row(document, 1) for document in documents], " ON CONFLICT (key) DO NOTHING")

    def load(self, documents: Sequence[Document]) -> None:
        """Add documents as another store had them, `_version` and all. Raises `DuplicateKey`, and then adds none."""
        self._insert_rows([self._row(document, checked_version(document)) for document in documents], "")

    def replace(self, before: Document, after: Document) -> bool:
        """Compare and swap by the `_version` of `before`."""
        return self._swap(before, after, checked_changes(before, after, self._schema))

    def _swap(self, before: Document, after: Document, changes: Changes | None) -> bool:
        """Write `after` over `before`: by its changes if they are given."""
        version = checked_version(before)
        key = checked_key(before.get("_id"), self.name)
        if after.get("_id") != key:
            raise StoreError(f"{self.name}: {key!r} cannot become {after.get('_id')!r}")
        columns, values = self._changed_columns(before, after)
        done = changes is not None and self._replace_parts(before, after, changes, columns, values)
        if not done and not self._replace_whole(before, after, columns, values):
            return False
        after["_version"] = version + 1
        return True

    def clear(self, document: Document, field: str) -> bool:
        """Remove one top-level field, by the `_version` of `document`."""
        key, version = checked_key(document.get("_id"), self.name), checked_version(document)
        if parse_fields([field]) != (field,) or "." in field:
            raise StoreError(f"{self.name}: {field!r} cannot be cleared")
        null = f", {quoted(field)} = NULL" if field in self._schema.indexed_fields else ""
        statement = (
            f"UPDATE {self._table} SET version = version + 1, document = json_remove(document, ?){null} "
            "WHERE key = ? AND version = ?"
        )
        if self._write(statement, [json_path(field), key, version]) == 0:
            return False
        document.pop(field, None)
        document["_version"] = version + 1
        return True

    def update(self, key: str, change: Callable[[Document | None], Document | None]) -> Updated:
        """Atomic read-modify-write; first without holding others up, then, when another writer came first, alone."""
        checked_key(key, self.name)
        if self._writer.joined is None:
            updated = self._try_update(key, change)
            if updated is not None:
                return updated
        updated = self._writer.run(lambda _connection: self._try_update(key, change), atomic=False)
        if updated is None:
            raise StoreError(f"{self.name}: {key!r} changed within a transaction")
        return updated

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
        condition, parameters = conditions_sql(parse_where(where, self._schema))
        query = f"SELECT count(*) FROM {self._table} WHERE {condition}"
        return int(self._read(lambda connection: connection.execute(query, parameters).fetchone())[0])

    def delete(self, where: Where) -> int:
        """Delete what matches, some hundred at a time, so that others have their turn between."""
        condition, parameters = conditions_sql(parse_where(where, self._schema))
        some = f"SELECT rowid FROM {self._table} WHERE {condition} LIMIT {_DELETE_AT_ONCE}"
        deleted = 0
        while True:
            count = self._write(f"DELETE FROM {self._table} WHERE rowid IN ({some})", parameters)
            deleted += count
            if count < _DELETE_AT_ONCE:
                return deleted

    def problems(self) -> Iterator[str]:
        """What is wrong with the documents of this collection."""
        last = 0
        columns = "".join(f", {quoted(field)}" for field in self._schema.indexed_fields)
        query = (
            f"SELECT rowid, key, version, document{columns} FROM {self._table} WHERE rowid > ? ORDER BY rowid LIMIT 100"
        )
        while True:
            start = last
            rows = self._read(lambda connection: connection.execute(query, (start,)).fetchall())  # noqa: B023 - at once
            if not rows:
                return
            for _rowid, key, version, text, *values in rows:
                yield from self._problems_of_row(key, version, text, values)
            last = rows[-1][0]

    def _problems_of_row(self, key: Any, version: Any, text: Any, values: list[Any]) -> Iterator[str]:
        try:
            document = decoded(key, version, text)
            checked(document, self._schema)
            if list(map(column_value, indexed_values(document, self._schema))) != values:
                yield f"{self.name}: {key!r}: an indexed column is not what the document says"
            checked_version(document)
        except (StoreError, TypeError) as error:
            yield f"{self.name}: {key!r}: {error}"

    def _try_update(self, key: str, change: Callable[[Document | None], Document | None]) -> Updated | None:
        """The outcome, or None when another writer came between."""
        row = self._read(lambda connection: connection.execute(self._get, (key,)).fetchone())
        before = None if row is None else decoded(key, *row)
        after = change(None if row is None else decoded(key, *row))
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

    def _write(self, statement: str, parameters: Parameters) -> int:
        return self._writer.run(lambda connection: connection.execute(statement, parameters).rowcount, atomic=True)

    def _row(self, document: Document, version: int) -> Parameters:
        checked(document, self._schema)
        text = encoded(document, self._schema)
        return [document["_id"], version, *map(column_value, indexed_values(document, self._schema)), text]

    def _values(self, rows: int) -> str:
        row = f"({', '.join('?' * self._width)})"
        return ", ".join([row] * rows)

    def _insert_rows(self, rows: list[Parameters], conflict: str) -> int:
        """Insert all in one transaction, with few steps: each lets another thread of the process run."""
        if not rows:
            return 0
        chunks = [rows[start : start + _INSERT_AT_ONCE] for start in range(0, len(rows), _INSERT_AT_ONCE)]

        def insert(connection: sqlite3.Connection) -> int:
            return sum(
                connection.execute(
                    self._insert + self._values(len(chunk)) + conflict, [value for row in chunk for value in row]
                ).rowcount
                for chunk in chunks
            )

        return self._writer.run(insert, atomic=len(chunks) == 1)

    def _changed_columns(self, before: Document, after: Document) -> tuple[str, Parameters]:
        """Only the columns that change: SQLite rewrites the indexes of each column that an UPDATE names."""
        assignments, values = "", []
        for field, value in zip(self._schema.indexed_fields, indexed_values(after, self._schema), strict=True):
            old = field_value(before, field)
            if value is None or after is before or type(old) is not type(value) or old != value:
                assignments += f", {quoted(field)} = ?"
                values.append(column_value(value))
        return assignments, values

    def _replace_whole(self, before: Document, after: Document, columns: str, values: Parameters) -> bool:
        text = encoded(checked(after, self._schema), self._schema)
        statement = (
            f"UPDATE {self._table} SET version = version + 1, document = ?{columns} WHERE key = ? AND version = ?"
        )
        return self._write(statement, [text, *values, before["_id"], before["_version"]]) == 1

    def _replace_parts(
        self, before: Document, after: Document, changes: Changes, columns: str, values: Parameters
    ) -> bool:
        """Let SQLite write the changed parts into the text: a third of the time that a new text of 15 kB takes.

        False when the stored document has another version, or might become too large: `_replace_whole` finds out.
        """
        parameters: Parameters = []
        text = "document"
        if changes.removed:
            text = f"json_remove({text}{', ?' * len(changes.removed)})"
            parameters.extend(map(json_path, changes.removed))
        grows = 0
        if changes.written:
            text = f"json_set({text}{', ?, json(?)' * len(changes.written)})"
            for path, value in changes.written.items():
                part = text_of_part(path, value, self._schema)
                parameters += [json_path(path), part]
                grows += len(path) + 4 * len(part) + 4
        statement = (
            f"UPDATE {self._table} SET version = version + 1, document = {text}{columns} "
            "WHERE key = ? AND version = ? AND length(CAST(document AS BLOB)) <= ?"
        )
        parameters += [*values, before["_id"], before["_version"], size_limit(after, self._schema) - grows]
        return self._write(statement, parameters) == 1

    def _keys(
        self, conditions: Sequence[Condition], order: Order | None, position: Position | None, count: int
    ) -> Sequence[Position]:
        condition, parameters = conditions_sql(conditions)
        if position is not None:
            further, more = position_sql(order, position)
            condition, parameters = f"{condition} AND ({further})", parameters + more
        value = column(order.field) if order else "NULL"
        query = f"SELECT {value}, key FROM {self._table} WHERE {condition} ORDER BY {order_sql(order)} LIMIT ?"
        return self._read(lambda connection: connection.execute(query, [*parameters, count]).fetchall())

    def _documents(
        self, conditions: Sequence[Condition], keys: Sequence[str], wanted: tuple[str, ...] | None
    ) -> tuple[Mapping[str, Document], int]:
        """Conditions are looked at again: a document may have changed since its key was read."""
        parameters: Parameters = [] if wanted is None else [json_path(field) for field in wanted]
        parts = ", document" if wanted is None else self._parts(wanted)
        keys_sql = placeholders(keys, parameters)
        condition, more = conditions_sql(conditions, by_index=False)
        query = f"SELECT key, version{parts} FROM {self._table} WHERE key IN ({keys_sql}) AND {condition}"
        rows = self._read(lambda connection: connection.execute(query, parameters + more).fetchall())
        size = sum(len(text) for row in rows for text in row[2:] if text is not None)
        if wanted is None:
            return {row[0]: decoded(*row) for row in rows}, size
        return {row[0]: _assembled(row[0], row[1:], wanted) for row in rows}, size

    @staticmethod
    def _parts(wanted: Sequence[str]) -> str:
        return ", document -> ?" * len(wanted)


def _assembled(key: str, row: Sequence[Any], wanted: Sequence[str]) -> Document:
    document: Document = {"_id": key, "_version": row[0]}
    for field, text in zip(wanted, row[1:], strict=True):
        if text is not None:
            place(document, field, decoded_part(field, text))
    return document
