"""What MongoDB is asked: filters and orders made of checked conditions alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from penguindome_server.store.conditions import Condition, Operator, Order
from penguindome_server.store.paging import Position

Filter = dict[str, Any]

# The order of the types of indexed values, lowest first; null and missing come before all.
_TYPES: Sequence[tuple[tuple[type, ...], list[str]]] = (
    ((int, float), ["number"]),
    ((str,), ["string"]),
    ((bool,), ["bool"]),
    ((datetime,), ["date"]),
)


def filter_of(conditions: Iterable[Condition]) -> Filter:
    """The filter for these conditions, every one with its operator spelled out."""
    terms = [{condition.field: _term(condition)} for condition in conditions]
    return {"$and": terms} if terms else {}


def both(first: Filter, second: Filter) -> Filter:
    """A filter for what matches both."""
    return {"$and": [first, second]} if first and second else first or second


def sort_of(order: Order | None) -> Mapping[str, int]:
    """The order for `$sort`."""
    return {"_id": 1} if order is None or (order.field == "_id" and not order.descending) else _sort(order)


def position_of(order: Order | None, position: Position) -> Filter:
    """A filter for what comes after a position in that order."""
    value, key = position
    if order is None:
        return {"_id": {"$gt": key}}
    if order.field == "_id":
        return {"_id": {"$lt" if order.descending else "$gt": key}}
    field = order.field
    same: Filter = {field: {"$eq": value}, "_id": {"$gt": key}}
    if value is None:
        return same if order.descending else {"$or": [same, {field: {"$ne": None}}]}
    rank = next(number for number, (types, _) in enumerate(_TYPES) if type(value) in types)
    beyond = _TYPES[:rank] if order.descending else _TYPES[rank + 1 :]
    others = [name for _, names in beyond for name in names]
    terms = [same, {field: {"$lt" if order.descending else "$gt": value}}]
    if others:
        terms.append({field: {"$type": others}})
    if order.descending:
        terms.append({field: {"$eq": None}})
    return {"$or": terms}


def _sort(order: Order) -> Mapping[str, int]:
    if order.field == "_id":
        return {"_id": -1}
    return {order.field: -1 if order.descending else 1, "_id": 1}


def _term(condition: Condition) -> Mapping[str, Any]:
    value = condition.value
    if condition.operator in (Operator.IN, Operator.NOT_IN):
        value = list(value)
    return {condition.operator.value: value}
