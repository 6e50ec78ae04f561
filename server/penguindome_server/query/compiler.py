"""Queries as a whole: the logical operators, the operators that hold queries, and what the keys of a query mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from penguindome_server.query import operators, paths
from penguindome_server.query.errors import Location, QueryError
from penguindome_server.query.operators import VALUE_OPERATORS, FieldTest, all_of, negated, over_arrays, over_elements
from penguindome_server.query.paths import Test
from penguindome_server.query.values import check_depth, check_key

LOGICAL: Final = ("$and", "$or", "$nor")


def compile_query(query: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
    """A predicate over documents that says what `find(query)` of MongoDB would: compile once, call often.

    It is safe in threads and never raises for documents of the store. Raises QueryError for a query that mongod would
    refuse, and for operators that only a server can answer ($where, $expr, $text, $jsonSchema, geometry, bits).
    """
    check_depth(query)
    return _document(query, ())


def _document(query: object, location: Location) -> Test:
    if not isinstance(query, Mapping):
        raise QueryError(location, "a query must be a mapping of fields to conditions")
    parts = [part for key, value in query.items() for part in _part(key, value, location)]
    return paths.every(parts)


def _part(key: object, value: object, location: Location) -> list[Test]:
    name = check_key(key, location)
    place = (*location, name)
    if name == "$comment":
        return []
    if name in LOGICAL:
        return [_logical(name, value, place)]
    if name in operators.REFERENCE:
        return [operators.equal(value, place).at(paths.parse(name, place))]
    if name.startswith("$"):
        raise QueryError(place, f"unknown operator {name} at the top of a query", hint=_hint(name))
    path = paths.parse(name, place)
    return [test.at(path) for test in field_tests(value, place)]


def _hint(name: str) -> str | None:
    if name == "$not":
        return "$not stands below a field; to negate several fields use $nor: [...]"
    if name in VALUE_OPERATORS:
        return f"{name} stands below a field: 'field: {{{name}: ...}}'"
    return f"there are {', '.join(LOGICAL)} and $comment"


def _logical(name: str, argument: object, location: Location) -> Test:
    if not isinstance(argument, list) or not argument:
        raise QueryError(location, f"{name} needs a list of queries that is not empty")
    parts = [_document(item, (*location, index)) for index, item in enumerate(argument)]
    if name == "$and":
        return paths.every(parts)
    return paths.some(parts) if name == "$or" else paths.opposite(paths.some(parts))


def field_tests(condition: object, location: Location) -> list[FieldTest]:
    """The tests that the value of a key of a query stands for: operators, or a plain value to be equal to."""
    if operators.expression(condition):
        assert isinstance(condition, Mapping)
        return _operators(condition, location)
    return [operators.equal(condition, location)]


def _operators(condition: Mapping[str, Any], location: Location) -> list[FieldTest]:
    tests = []
    for key, argument in condition.items():
        name = check_key(key, location)
        place = (*location, name)
        if name in VALUE_OPERATORS:
            tests.append(VALUE_OPERATORS[name](argument, place))
        elif name in _NESTING:
            tests.append(_NESTING[name](argument, place))
        elif name == "$regex":
            tests.append(operators.regex(condition, location))
        elif name != "$options":
            raise QueryError(place, f"unknown operator {name}")
        elif "$regex" not in condition:
            raise QueryError(place, "$options needs a $regex beside it")
    return tests


def _not(argument: object, location: Location) -> FieldTest:
    if not isinstance(argument, Mapping) or not argument:
        raise QueryError(location, "$not needs operators: {$not: {$gt: 5}}")
    return negated(all_of(_operators(argument, location)))


def _all(argument: object, location: Location) -> FieldTest:
    if not isinstance(argument, list):
        raise QueryError(location, "$all needs a list")
    if not argument:
        return over_elements(lambda _: False)
    if _holds_element_match(argument[0]):
        return all_of([_all_element_match(item, (*location, index)) for index, item in enumerate(argument)])
    return all_of([_all_value(item, (*location, index)) for index, item in enumerate(argument)])


def _holds_element_match(item: object) -> bool:
    return isinstance(item, Mapping) and next(iter(item), None) == "$elemMatch"


def _all_element_match(item: Any, location: Location) -> FieldTest:
    if not _holds_element_match(item):
        raise QueryError(location, "$all holds either values or $elemMatch, not both")
    return _element_match(item["$elemMatch"], (*location, "$elemMatch"))


def _all_value(item: object, location: Location) -> FieldTest:
    if operators.regular_expression(item):
        assert isinstance(item, Mapping)
        return operators.regex(item, location)
    if operators.expression(item):
        raise QueryError(location, "operators other than $elemMatch cannot stand inside $all")
    return operators.equal(item, location)


def _element_match(argument: object, location: Location) -> FieldTest:
    """Both forms: operators for one element (`{$gt: 5}`), and a query over one that is a document (or an array)."""
    if not isinstance(argument, Mapping):
        raise QueryError(location, "$elemMatch needs operators or a query")
    first = next(iter(argument), None)
    if operators.expression(argument, partial_reference=True) and first not in (*LOGICAL, "$comment"):
        single = all_of(_operators(argument, location)).single
        return over_arrays(lambda array: any(map(single, array)))
    matches = _document(argument, location)
    return over_arrays(lambda array: any(isinstance(item, dict | list) and matches(item) for item in array))


_NESTING: Final[dict[str, Callable[[object, Location], FieldTest]]] = {
    "$not": _not,
    "$all": _all,
    "$elemMatch": _element_match,
}
