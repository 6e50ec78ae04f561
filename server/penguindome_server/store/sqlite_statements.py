"""The SQL of the embedded store: tables and indexes from the schema, conditions and order from what `find` was asked.

A collection is a table `key, version, <a column for each indexed field>, document`; `document` comes last, so that
reading the others does not touch the pages that a long text overflows into. A column holds a value in SQLite's order
NULL, numbers, text, blobs; booleans and datetimes become blobs, so that this is MongoDB's order of types: null (or
missing), numbers, strings, booleans, datetimes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from penguindome_server.store.conditions import Condition, Operator, Order
from penguindome_server.store.paging import Position
from penguindome_server.store.schema import CollectionSchema, Index

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_BOOLEAN, _DATETIME = b"\x01", b"\x02"
_COMPARISONS = {
    Operator.LESS: "<",
    Operator.LESS_OR_EQUAL: "<=",
    Operator.GREATER: ">",
    Operator.GREATER_OR_EQUAL: ">=",
}
_UPWARDS = (Operator.GREATER, Operator.GREATER_OR_EQUAL)

Parameters = list[Any]


def column_value(value: Any) -> Any:
    """A scalar as it is kept in the column of an indexed field."""
    if type(value) is bool:
        return b"\x01\x01" if value else b"\x01\x00"
    if type(value) is datetime:
        return _DATETIME + struct.pack(">Q", (value - _EPOCH) // _MILLISECOND + (1 << 63))
    return value


def scalar_value(column: Any) -> Any:
    """What `column_value` was given."""
    if type(column) is not bytes:
        return column
    if column[:1] == _BOOLEAN:
        return column == b"\x01\x01"
    return _EPOCH + _MILLISECOND * (struct.unpack(">Q", column[1:])[0] - (1 << 63))


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def create_table(schema: CollectionSchema) -> str:
    """The statement that makes a collection's table."""
    columns = "".join(f", {quoted(field)}" for field in schema.indexed_fields)
    return (
        f"CREATE TABLE {quoted(schema.name)} "
        f"(key TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL{columns}, document TEXT NOT NULL)"
    )


def create_index(schema: CollectionSchema, index: Index) -> tuple[str, str]:
    """Name and statement of an index. All but unique ones end in the key, which orders equal values."""
    name = "-".join((schema.name, *index.fields, *(f"{field}={value}" for field, value in index.where.items())))
    columns = [*map(quoted, index.fields), *([] if index.unique else ["key"])]
    where = " AND ".join(f"{quoted(field)} = {_literal(value)}" for field, value in index.where.items())
    kind = "UNIQUE INDEX" if index.unique else "INDEX"
    statement = f"CREATE {kind} {quoted(name)} ON {quoted(schema.name)} ({', '.join(columns)})"
    return name, f"{statement} WHERE {where}" if where else statement


def conditions_sql(conditions: Iterable[Condition], *, by_index: bool = True) -> tuple[str, Parameters]:
    """What follows WHERE, and its parameters.

    Without `by_index` SQLite uses no index for them (a column with a plus is no column to its planner): for rows that
    are named by their keys, and whose conditions are only looked at again.
    """
    parameters: Parameters = []
    prefix = "" if by_index else "+"
    terms = [_term(prefix + column(condition.field), condition, parameters) for condition in conditions]
    return " AND ".join(terms) or "1", parameters


def order_sql(order: Order | None) -> str:
    """What follows ORDER BY."""
    if order is None:
        return "key"
    return f"{column(order.field)}{' DESC' if order.descending else ''}, key"


def position_sql(order: Order | None, position: Position) -> tuple[str, Parameters]:
    """The condition for what comes after a position in that order."""
    value, key = position
    if order is None:
        return "key > ?", [key]
    name = column(order.field)
    if value is None:
        return (f"({name} IS NULL AND key > ?)" + ("" if order.descending else f" OR {name} IS NOT NULL")), [key]
    if order.descending:
        return f"({name} = ? AND key > ?) OR {name} < ? OR {name} IS NULL", [value, key, value]
    return f"{name} >= ? AND ({name} > ? OR key > ?)", [value, value, key]


def column(field: str) -> str:
    """The column of an indexed field or of `_id`."""
    return "key" if field == "_id" else quoted(field)


def json_path(field: str) -> str:
    """SQLite's path to a dotted field that `parse_fields` has let through."""
    return "$" + "".join(f'."{name}"' for name in field.split("."))


def placeholders(values: Sequence[Any], parameters: Parameters) -> str:
    """`?, ?, ...` for these values. Padded to a power of two, so that few different statements have to be prepared."""
    width = 1 << (len(values) - 1).bit_length()
    parameters.extend(values)
    parameters.extend([values[-1]] * (width - len(values)))
    return ", ".join("?" * width)


def _literal(value: Any) -> str:
    value = column_value(value)
    if type(value) is str:
        return "'" + value.replace("'", "''") + "'"
    return f"x'{value.hex()}'" if type(value) is bytes else repr(value)


def _term(name: str, condition: Condition, parameters: Parameters) -> str:
    if condition.operator in _COMPARISONS:
        return _range(name, condition, parameters)
    return _TERMS[condition.operator](name, condition, parameters)


def _equal(name: str, condition: Condition, parameters: Parameters) -> str:
    if condition.value is None:
        return f"{name} IS NULL"
    parameters.append(column_value(condition.value))
    return f"{name} = ?"


def _not_equal(name: str, condition: Condition, parameters: Parameters) -> str:
    parameters.append(column_value(condition.value))
    return f"{name} IS NOT ?"


def _in(name: str, condition: Condition, parameters: Parameters) -> str:
    values = [column_value(value) for value in condition.value if value is not None]
    terms = [f"{name} IN ({placeholders(values, parameters)})"] if values else []
    if len(values) < len(condition.value):
        terms.append(f"{name} IS NULL")
    return f"({' OR '.join(terms)})" if terms else "0"


def _not_in(name: str, condition: Condition, parameters: Parameters) -> str:
    values = [column_value(value) for value in condition.value if value is not None]
    term = f"{name} NOT IN ({placeholders(values, parameters)})" if values else "1"
    if len(values) < len(condition.value):
        return f"({term} AND {name} IS NOT NULL)"
    return f"({term} OR {name} IS NULL)"


def _exists(name: str, condition: Condition, parameters: Parameters) -> str:
    if condition.field == "_id":
        return "1" if condition.value else "0"
    # A column is NULL for null and for missing; only then is the document looked into.
    parameters.append(json_path(condition.field))
    term = f"({name} IS NOT NULL OR json_type(document, ?) IS NOT NULL)"
    return term if condition.value else f"NOT {term}"


def _range(name: str, condition: Condition, parameters: Parameters) -> str:
    """A comparison holds among values of one type only, as in MongoDB: so the type's end is a bound too."""
    value = column_value(condition.value)
    parameters.append(value)
    term = f"{name} {_COMPARISONS[condition.operator]} ?"
    lowest, beyond = _bounds(value)
    if condition.operator in _UPWARDS:
        parameters.append(beyond)
        return f"{term} AND {name} < ?"
    if lowest is None:
        return term
    parameters.append(lowest)
    return f"{term} AND {name} >= ?"


def _bounds(value: Any) -> tuple[Any, Any]:
    """The lowest value of a column value's type (None: there is nothing lower), and the lowest of the next type."""
    if type(value) is str:
        return "", b""
    if type(value) is bytes:
        return (_BOOLEAN, _DATETIME) if value[:1] == _BOOLEAN else (_DATETIME, b"\x03")
    return None, ""


_TERMS: dict[Operator, Callable[[str, Condition, Parameters], str]] = {
    Operator.EQUAL: _equal,
    Operator.NOT_EQUAL: _not_equal,
    Operator.IN: _in,
    Operator.NOT_IN: _not_in,
    Operator.EXISTS: _exists,
}
