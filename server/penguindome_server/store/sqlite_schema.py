"""Making and changing the tables of the embedded store, so that they are as the schema says."""

# ruff: noqa: S608 - identifiers in statements come from the schema

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from penguindome_server.store import StoreError
from penguindome_server.store.documents import decoded, indexed_values
from penguindome_server.store.schema import CollectionSchema
from penguindome_server.store.sqlite_statements import column_value, create_index, create_table, quoted

FORMAT = 1
"""Kept as `user_version`; raised when an older program could not read the file."""


def is_current(connection: sqlite3.Connection, schema: Mapping[str, CollectionSchema]) -> bool:
    """Whether nothing has to be made or changed. Raises StoreError for a file of a newer program."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > FORMAT:
        raise StoreError(
            f"the store was made by a newer PenguinDome (format {found}, not {FORMAT})",
            hint="upgrade the server package",
        )
    return found == FORMAT and not any(_missing(connection, collection) for collection in schema.values())


def bring_up_to_date(connection: sqlite3.Connection, schema: Mapping[str, CollectionSchema]) -> None:
    """Make what is missing, within the transaction of the caller. Documents are left as they are."""
    for collection in schema.values():
        columns = _columns(connection, collection)
        if not columns:
            connection.execute(create_table(collection))
        else:
            _add_columns(connection, collection, columns)
        wanted = dict(create_index(collection, index) for index in collection.indexes)
        found = _indexes(connection, collection)
        for name in found.keys() - wanted.keys() | {name for name in wanted if found.get(name, "") != wanted[name]}:
            connection.execute(f"DROP INDEX IF EXISTS {quoted(name)}")
        for name, statement in wanted.items():
            if found.get(name) != statement:
                connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def problems_of_schema(connection: sqlite3.Connection, schema: Mapping[str, CollectionSchema]) -> Iterator[str]:
    """What of the schema the file lacks."""
    for collection in schema.values():
        for name in _missing(connection, collection):
            yield f"{collection.name}: {name} is missing or not as the schema says"


def _missing(connection: sqlite3.Connection, collection: CollectionSchema) -> list[str]:
    columns = _columns(connection, collection)
    if not columns:
        return ["the table"]
    found = _indexes(connection, collection)
    wanted = dict(create_index(collection, index) for index in collection.indexes)
    return [
        *(f"the column {field}" for field in collection.indexed_fields if field not in columns),
        *(f"the index {name}" for name, statement in wanted.items() if found.get(name) != statement),
    ]


def _columns(connection: sqlite3.Connection, collection: CollectionSchema) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({quoted(collection.name)})")]


def _indexes(connection: sqlite3.Connection, collection: CollectionSchema) -> dict[str, str]:
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
    return dict(connection.execute(query, (collection.name,)).fetchall())


def _add_columns(connection: sqlite3.Connection, collection: CollectionSchema, columns: list[str]) -> None:
    missing = [field for field in collection.indexed_fields if field not in columns]
    if not missing:
        return
    table = quoted(collection.name)
    for field in missing:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(field)}")
    assignments = ", ".join(f"{quoted(field)} = ?" for field in collection.indexed_fields)
    rowid = 0
    while True:
        query = f"SELECT rowid, key, version, document FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT 100"
        rows = connection.execute(query, (rowid,)).fetchall()
        for rowid, key, version, text in rows:
            values = map(column_value, indexed_values(decoded(key, version, text), collection))
            connection.execute(f"UPDATE {table} SET {assignments} WHERE rowid = ?", (*values, rowid))
        if not rows:
            return
