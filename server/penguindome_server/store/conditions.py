"""The shared reading of `where`, `sort` and `fields`: what both engines accept, and refuse, in the same way.

An engine never sees a `where` as it was given, only `Condition`s made here: a field that the schema declares, one of
nine operators, and scalars. So nothing that came with a request can become an operator of a database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from math import isfinite
from typing import Any

from penguindome_server.store import StoreError, Where
from penguindome_server.store.rules import MAX_INTEGER, MIN_INTEGER, SCALARS
from penguindome_server.store.schema import CollectionSchema


class Operator(Enum):
    """The operators of `where`, by their names in MongoDB."""

    EQUAL = "$eq"
    NOT_EQUAL = "$ne"
    IN = "$in"
    NOT_IN = "$nin"
    LESS = "$lt"
    LESS_OR_EQUAL = "$lte"
    GREATER = "$gt"
    GREATER_OR_EQUAL = "$gte"
    EXISTS = "$exists"


_LISTS = frozenset((Operator.IN, Operator.NOT_IN))
_RANGES = frozenset((Operator.LESS, Operator.LESS_OR_EQUAL, Operator.GREATER, Operator.GREATER_OR_EQUAL))
_MAX_VALUES = 30_000
_NAME = r"[^.$\x00-\x1f\"\\][^.\x00-\x1f\"\\]*"
_FIELD = re.compile(rf"{_NAME}(\.{_NAME})*")


@dataclass(frozen=True)
class Condition:
    """One condition on one field. `value` is a scalar, a tuple of scalars (IN, NOT_IN) or a bool (EXISTS)."""

    field: str
    operator: Operator
    value: Any


@dataclass(frozen=True)
class Order:
    """The field to sort by, before `_id`."""

    field: str
    descending: bool = False


def parse_where(where: Where | None, schema: CollectionSchema) -> tuple[Condition, ...]:
    """The conditions, all of which must hold. Raises StoreError for a field that is not indexed, an unknown operator or
    a value that is no scalar.
    """
    conditions: list[Condition] = []
    for field, wanted in (where or {}).items():
        if field != "_id" and field not in schema.indexed_fields:
            raise StoreError(f"{schema.name} cannot be searched by {field!r}: it is not an indexed field")
        if isinstance(wanted, Mapping):
            if not wanted:
                raise StoreError(f"{schema.name}.{field}: an empty condition")
            conditions.extend(_condition(schema, field, name, value) for name, value in wanted.items())
        else:
            conditions.append(_condition(schema, field, "$eq", wanted))
    return tuple(conditions)


def parse_sort(sort: str | None, schema: CollectionSchema, *, after: str | None) -> Order | None:
    """The order that `find` was asked for; None is that of `_id`. Raises StoreError for a field that is not indexed."""
    if sort is None or sort == "_id":
        return None
    if after is not None:
        raise StoreError("after goes with the order of _id only, not with sort")
    order = Order(sort.removeprefix("-"), descending=sort.startswith("-"))
    if order.field != "_id" and order.field not in schema.indexed_fields:
        raise StoreError(f"{schema.name} cannot be sorted by {order.field!r}: it is not an indexed field")
    return order


def parse_fields(fields: Sequence[str] | None) -> tuple[str, ...] | None:
    """The dotted paths to fetch, without those that another covers; None for all."""
    if fields is None:
        return None
    for field in fields:
        if type(field) is not str or not _FIELD.fullmatch(field):
            raise StoreError(f"{field!r} is no dotted path to a field")
    wanted = set(fields) - {"_id", "_version"}
    return tuple(
        field
        for field in dict.fromkeys(fields)
        if field in wanted and not any(field.startswith(f"{other}.") for other in wanted)
    )


def checked_limit(limit: int | None) -> int | None:
    """The limit itself, when it is None or not negative."""
    if limit is not None and (type(limit) is not int or limit < 0):
        raise StoreError(f"{limit!r} is no limit")
    return limit


def _condition(schema: CollectionSchema, field: str, name: Any, value: Any) -> Condition:
    try:
        operator = Operator(name)
    except ValueError as error:
        raise StoreError(f"{schema.name}.{field}: {name!r} is no operator of find") from error
    if operator is Operator.EXISTS:
        if type(value) is not bool:
            raise StoreError(f"{schema.name}.{field}: $exists takes true or false")
        return Condition(field, operator, value)
    if operator in _LISTS:
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise StoreError(f"{schema.name}.{field}: {name} takes a list")
        values = tuple(_scalar(schema, field, item) for item in value)
        if len(values) > _MAX_VALUES:
            raise StoreError(f"{schema.name}.{field}: {name} with {len(values)} values; {_MAX_VALUES} are allowed")
        return Condition(field, operator, values)
    scalar = _scalar(schema, field, value)
    if scalar is None and operator in _RANGES:
        raise StoreError(f"{schema.name}.{field}: {name} takes no null")
    return Condition(field, operator, scalar)


def _scalar(schema: CollectionSchema, field: str, value: Any) -> Any:
    kind = type(value)
    if kind not in SCALARS or (field == "_id" and kind is not str):
        raise StoreError(f"{schema.name}.{field}: cannot be compared with a value of type {kind.__name__}")
    if kind is int and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise StoreError(f"{schema.name}.{field}: an integer of more than 64 bits")
    if kind is float and not isfinite(value):
        raise StoreError(f"{schema.name}.{field}: {value} compares with nothing")
    if kind is datetime and value.utcoffset() is None:
        raise StoreError(f"{schema.name}.{field}: a datetime without time zone")
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"{schema.name}.{field}: a lone surrogate") from error
    return value
