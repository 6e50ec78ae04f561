"""The operators that look at one value: comparison, `$in`, `$exists`, `$type`, `$mod`, `$size`, `$regex`.

Each function takes the operator's argument and its location in the query and returns a FieldTest; it raises QueryError
for an argument that mongod refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from penguindome_server.query.errors import Location, QueryError
from penguindome_server.query.paths import Path, Test, every, opposite, reach, some
from penguindome_server.query.regex import compile_regex
from penguindome_server.query.values import (
    KIND_ARRAY,
    KIND_BOOL,
    KIND_DATE,
    KIND_MISSING,
    KIND_NULL,
    KIND_NUMBER,
    KIND_OBJECT,
    KIND_STRING,
    MISSING,
    compare,
    kind,
    literal,
)


@dataclass(frozen=True, slots=True)
class FieldTest:
    """An operator with its argument: `single` tests one value, `at(path)` gives the predicate over whole documents."""

    single: Test
    at: Callable[[Path], Test]


def over_elements(test: Test) -> FieldTest:
    """A test of the elements of an array and of the array itself, or of the one value."""
    return FieldTest(test, lambda path: reach(path, test, spread=True))


def over_arrays(test: Callable[[list[Any]], bool]) -> FieldTest:
    """A test of arrays as a whole; it fails for every other value."""

    def single(value: Any) -> bool:
        return isinstance(value, list) and test(value)

    return FieldTest(single, lambda path: reach(path, single, spread=False))


def negated(test: FieldTest) -> FieldTest:
    """The opposite, for the document as a whole: `$ne` holds where no element is equal."""
    return FieldTest(opposite(test.single), lambda path: opposite(test.at(path)))


def all_of(tests: list[FieldTest]) -> FieldTest:
    """All of several tests, each of which may be met by another element of an array."""
    return FieldTest(every([test.single for test in tests]), lambda path: every([test.at(path) for test in tests]))


def equal(argument: object, location: Location) -> FieldTest:
    """`$eq`, and a plain value. Null is equal to a missing field too."""
    expected = literal(argument, location)
    return over_elements(_equality(expected))


def _equality(expected: Any) -> Test:
    expected_kind = kind(expected)
    if expected_kind == KIND_NULL:
        return lambda value: value is None or value is MISSING
    if expected_kind == KIND_BOOL:
        return lambda value: value is expected
    if expected_kind == KIND_STRING:
        return lambda value: bool(value == expected)
    if expected_kind == KIND_NUMBER and not math.isnan(expected):
        return lambda value: value == expected and value is not True and value is not False
    return lambda value: kind(value) == expected_kind and compare(value, expected) == 0


def _ordering(*, equality: bool, holds: Callable[[int], bool]) -> Callable[[object, Location], FieldTest]:
    def operator(argument: object, location: Location) -> FieldTest:
        bound = literal(argument, location)
        bound_kind = kind(bound)
        if bound_kind == KIND_NULL:
            return over_elements(lambda value: equality and (value is None or value is MISSING))
        if isinstance(bound, float) and math.isnan(bound):
            return over_elements(_equality(bound) if equality else lambda _: False)

        def test(value: Any) -> bool:
            # NaN is below no number and above none, although sorting puts it first.
            return kind(value) == bound_kind and value == value and holds(compare(value, bound))  # noqa: PLR0124 - NaN

        return over_elements(test)

    return operator


def regular_expression(argument: object) -> bool:
    """Whether this is a regular expression as a *value*: `{$regex: ..., $options: ...}` and no more."""
    return isinstance(argument, Mapping) and "$regex" in argument and argument.keys() <= {"$regex", "$options"}


REFERENCE: Final = frozenset({"$ref", "$id", "$db"})
"""The fields of a database reference: mongod takes them for fields, although their names start with `$`."""


def expression(argument: object, *, partial_reference: bool = False) -> bool:
    """Whether an embedded document holds operators (by its first key), and is not a database reference."""
    if not isinstance(argument, Mapping) or not str(next(iter(argument), "")).startswith("$"):
        return False
    if partial_reference:
        return not argument.keys() & REFERENCE
    return not argument.keys() >= {"$ref", "$id"}


def member(argument: object, location: Location) -> FieldTest:
    """`$in`: equal to one of the values, or matched by one of those that are `{$regex: ..., $options: ...}`."""
    if not isinstance(argument, list):
        raise QueryError(location, f"{location[-1]} needs a list")
    scalars: set[tuple[int, Any]] = set()
    others: list[Test] = []
    for index, item in enumerate(argument):
        place = (*location, index)
        if regular_expression(item):
            others.append(matched_by(item, place))
        elif expression(item):
            raise QueryError(place, f"operators cannot stand inside {location[-1]}")
        else:
            value = literal(item, place)
            if isinstance(value, list | dict) or value != value:  # noqa: PLR0124 - NaN
                others.append(_equality(value))
            else:
                scalars.add((kind(value), value))
    if (KIND_NULL, None) in scalars:
        scalars.add((KIND_MISSING, MISSING))

    others_hold = some(others)

    def test(value: Any) -> bool:
        found = kind(value)
        if found not in (KIND_OBJECT, KIND_ARRAY) and (found, value) in scalars:
            return True
        return others_hold(value)

    return over_elements(test)


def exists(argument: object, location: Location) -> FieldTest:
    """`$exists`: a field is there, be it null; with 0, false or null as argument: it is not."""
    present = over_elements(lambda value: value is not MISSING)
    value = literal(argument, location)
    wanted = value != 0 if kind(value) == KIND_NUMBER else value is not None and value is not False
    return present if wanted else negated(present)


def _int32(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _of_kind(wanted: int) -> Test:
    return lambda value: kind(value) == wanted


# Names and numbers of BSON. Documents hold no values of the types that have no test here.
_TYPES: Final[dict[str, tuple[int, Test | None]]] = {
    "double": (1, lambda value: isinstance(value, float)),
    "string": (2, _of_kind(KIND_STRING)),
    "object": (3, _of_kind(KIND_OBJECT)),
    "array": (4, _of_kind(KIND_ARRAY)),
    "binData": (5, None),
    "undefined": (6, None),
    "objectId": (7, None),
    "bool": (8, _of_kind(KIND_BOOL)),
    "date": (9, _of_kind(KIND_DATE)),
    "null": (10, lambda value: value is None),
    "regex": (11, None),
    "dbPointer": (12, None),
    "javascript": (13, None),
    "symbol": (14, None),
    "javascriptWithScope": (15, None),
    "int": (16, _int32),
    "timestamp": (17, None),
    "long": (18, lambda value: kind(value) == KIND_NUMBER and not isinstance(value, float) and not _int32(value)),
    "decimal": (19, None),
    "minKey": (-1, None),
    "maxKey": (127, None),
}
_TYPE_NUMBERS: Final = dict(_TYPES.values())


def of_type(argument: object, location: Location) -> FieldTest:
    """`$type`: a name or number of BSON, "number", or a list of those. An integer below 2³¹ is "int", else "long"."""
    wanted = argument if isinstance(argument, list) else [argument]
    if not wanted:
        raise QueryError(location, "$type needs at least one type")
    found = [_type_test(item, location) for item in wanted]
    tests = [test for test in found if test is not None]
    return over_elements(some(tests))


def _type_test(wanted: object, location: Location) -> Test | None:
    if wanted == "number":
        return _of_kind(KIND_NUMBER)
    if isinstance(wanted, str) and wanted in _TYPES:
        return _TYPES[wanted][1]
    if isinstance(wanted, int | float) and not isinstance(wanted, bool) and wanted in _TYPE_NUMBERS:
        return _TYPE_NUMBERS[int(wanted)]
    raise QueryError(location, f"$type knows no type {wanted!r}", hint=f"one of number, {', '.join(_TYPES)}")


def modulo(argument: object, location: Location) -> FieldTest:
    """`$mod: [divisor, remainder]`: fractions are cut off, the remainder has the sign of the value."""
    if not isinstance(argument, list) or len(argument) != 2:
        raise QueryError(location, "$mod needs a list of two numbers: [divisor, remainder]")
    divisor, remainder = (_whole(item, (*location, index)) for index, item in enumerate(argument))
    if divisor == 0:
        raise QueryError(location, "$mod cannot divide by 0")

    def test(value: Any) -> bool:
        if kind(value) != KIND_NUMBER or (isinstance(value, float) and not -(2.0**63) <= value < 2.0**63):
            return False
        number = int(value)
        rest = abs(number) % abs(divisor)
        return (-rest if number < 0 else rest) == remainder

    return over_elements(test)


def _whole(value: object, location: Location) -> int:
    if kind(value) != KIND_NUMBER:
        raise QueryError(location, "$mod needs numbers")
    assert isinstance(value, int | float)
    if isinstance(value, float) and not math.isfinite(value):
        raise QueryError(location, "$mod needs finite numbers")
    if not -(2**63) <= int(value) < 2**63:
        raise QueryError(location, "the number does not fit into 64 bits")
    return int(value)


def size(argument: object, location: Location) -> FieldTest:
    """`$size`: an array of exactly so many elements."""
    whole = isinstance(argument, int) or (isinstance(argument, float) and argument.is_integer())
    if kind(argument) != KIND_NUMBER or not whole or not 0 <= cast("float", argument) < 2**31:
        raise QueryError(location, "$size needs a whole number that is not negative")
    return over_arrays(lambda value: len(value) == argument)


def regex(siblings: Mapping[str, Any], location: Location) -> FieldTest:
    """`$regex` with the `$options` beside it: a string that holds a match."""
    return over_elements(matched_by(siblings, location))


def matched_by(siblings: Mapping[str, Any], location: Location) -> Test:
    """The test of one value by the `$regex` and `$options` among `siblings`."""
    pattern, options = siblings["$regex"], siblings.get("$options", "")
    if not isinstance(pattern, str):
        raise QueryError((*location, "$regex"), "$regex needs text")
    if not isinstance(options, str):
        raise QueryError((*location, "$options"), "$options needs text")
    search = compile_regex(pattern, options, location)
    return lambda value: isinstance(value, str) and search(value)


VALUE_OPERATORS: Final[dict[str, Callable[[object, Location], FieldTest]]] = {
    "$eq": equal,
    "$ne": lambda argument, location: negated(equal(argument, location)),
    "$gt": _ordering(equality=False, holds=lambda order: order > 0),
    "$gte": _ordering(equality=True, holds=lambda order: order >= 0),
    "$lt": _ordering(equality=False, holds=lambda order: order < 0),
    "$lte": _ordering(equality=True, holds=lambda order: order <= 0),
    "$in": member,
    "$nin": lambda argument, location: negated(member(argument, location)),
    "$exists": exists,
    "$type": of_type,
    "$mod": modulo,
    "$size": size,
}
"""The operators whose argument stands alone. `$regex` needs its `$options`; `$not`, `$all` and `$elemMatch` nest."""
