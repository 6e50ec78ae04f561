"""Values as MongoDB sees them: which kind they are, how they compare, and which of them a query may hold.

The order of kinds and the rules of comparison are those of BSON (MongoDB manual, "Comparison/Sort Order"): values of
different kinds never compare equal, int and float are one kind, bool is another; embedded documents compare pair by
pair in the order of their keys (kind, then key, then value), arrays element by element; strings by their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timezone
from typing import Any, Final, final

from penguindome_server.query.errors import Location, QueryError

MAXIMUM_DEPTH: Final = 100  # mongod's own limit for the nesting of a query


@final
class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""What a path finds where a document has nothing; not the same as None (null)."""

KIND_MISSING: Final = 0
KIND_NULL: Final = 5
KIND_NUMBER: Final = 10
KIND_STRING: Final = 15
KIND_OBJECT: Final = 20
KIND_ARRAY: Final = 25
KIND_BOOL: Final = 40
KIND_DATE: Final = 45
_KIND_UNKNOWN: Final = -1

_KINDS: Final[dict[type, int]] = {
    _Missing: KIND_MISSING,
    type(None): KIND_NULL,
    int: KIND_NUMBER,
    float: KIND_NUMBER,
    str: KIND_STRING,
    dict: KIND_OBJECT,
    list: KIND_ARRAY,
    bool: KIND_BOOL,
    datetime: KIND_DATE,
}


def kind(value: object) -> int:
    """The kind of a value: one of the KIND constants, in MongoDB's order."""
    found = _KINDS.get(type(value))
    if found is not None:
        return found
    # Subclasses, such as the 64-bit integers of the MongoDB driver.
    return next((number for known, number in _KINDS.items() if isinstance(value, known)), _KIND_UNKNOWN)


def compare(left: Any, right: Any) -> int:
    """Negative, zero or positive: the order of two values of any kind."""
    left_kind = kind(left)
    if difference := left_kind - kind(right):
        return difference
    if left_kind == KIND_NUMBER:
        return _compare_numbers(left, right)
    if left_kind == KIND_OBJECT:
        return _compare_objects(left, right)
    if left_kind == KIND_ARRAY:
        return _compare_arrays(left, right)
    if left_kind == KIND_DATE:
        left, right = _aware(left), _aware(right)
    if left_kind <= KIND_NULL or left == right:
        return 0
    return -1 if left < right else 1


def _compare_numbers(left: float, right: float) -> int:
    if left == right:
        return 0
    if left < right:
        return -1
    if left > right:
        return 1
    # One of them is NaN, which is equal to itself and below every other number.
    return math.isnan(right) - math.isnan(left)


def _compare_objects(left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    for (left_key, left_value), (right_key, right_value) in zip(left.items(), right.items(), strict=False):
        if difference := kind(left_value) - kind(right_value):
            return difference
        if left_key != right_key:
            return -1 if left_key < right_key else 1
        if difference := compare(left_value, right_value):
            return difference
    return len(left) - len(right)


def _compare_arrays(left: list[Any], right: list[Any]) -> int:
    for left_value, right_value in zip(left, right, strict=False):
        if difference := compare(left_value, right_value):
            return difference
    return len(left) - len(right)


def _aware(value: datetime) -> datetime:
    return value if value.tzinfo is not None else value.replace(tzinfo=timezone.utc)


def literal(value: object, location: Location) -> Any:
    """The copy of a value that a query compares with, as MongoDB would store it: datetimes in UTC and milliseconds.

    Dates without a time of day are midnight UTC, as YAML defines them. Raises QueryError for what MongoDB cannot store.
    """
    if isinstance(value, Mapping):
        return {check_key(key, location): literal(item, (*location, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item, (*location, index)) for index, item in enumerate(value)]
    return _scalar(value, location)


def _scalar(value: object, location: Location) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise QueryError(location, "the number does not fit into 64 bits")
        return value
    if isinstance(value, str):
        check_text(value, location)
        return value
    if isinstance(value, datetime):
        utc = _aware(value).astimezone(timezone.utc)
        return utc.replace(microsecond=utc.microsecond // 1000 * 1000)
    if isinstance(value, date):
        return datetime.combine(value, time(), timezone.utc)
    raise QueryError(location, f"a document cannot hold a value of type {type(value).__name__}")


def check_text(text: str, location: Location) -> None:
    """Raise QueryError for text that is no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(location, "the text holds half a character (a lone surrogate)") from error


def check_key(key: object, location: Location) -> str:
    """A key of a query or an embedded document. Raises QueryError if it is not text, or holds NUL."""
    if not isinstance(key, str):
        raise QueryError(location, f"the key {key!r} is not text", hint="put it into quotes")
    if "\0" in key:
        raise QueryError(location, "a key cannot hold NUL")
    check_text(key, location)
    return key


def check_depth(query: object, location: Location = ()) -> None:
    """Raise QueryError for a query that is nested too deeply to be answered."""
    if len(location) > MAXIMUM_DEPTH:
        raise QueryError(location[:5], f"nested more than {MAXIMUM_DEPTH} levels deep")
    if isinstance(query, Mapping):
        for key, item in query.items():
            check_depth(item, (*location, key))
    elif isinstance(query, list):
        for index, item in enumerate(query):
            check_depth(item, (*location, index))
