"""Why a query matches a document, or not: the same predicates, asked part by part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from penguindome_server.query import paths
from penguindome_server.query.compiler import LOGICAL, compile_query, field_tests
from penguindome_server.query.operators import expression
from penguindome_server.query.values import MISSING

_PLAIN: Final = re.compile(r"[A-Za-z][\w./ -]*")


@dataclass(frozen=True)
class Explanation:
    """One part of a query: its `depth` below the top, its text, and whether it holds.

    `found` are the values that `path` means (none: the document has nothing there). Logical operators have no path.
    """

    depth: int
    part: str
    matches: bool
    path: str | None = None
    found: tuple[Any, ...] = ()


def explain(query: Mapping[str, Any], document: Mapping[str, Any]) -> list[Explanation]:
    """Each part of the query in the order in which it is written. Raises QueryError as `compile_query` does."""
    compile_query(query)
    return list(_explain(query, document, 0))


def _explain(query: Mapping[str, Any], document: Mapping[str, Any], depth: int) -> Iterator[Explanation]:
    for key, value in query.items():
        if key in LOGICAL:
            yield Explanation(depth, key, compile_query({key: value})(document))
            for item in value:
                several = len(item) != 1
                if several:
                    yield Explanation(depth + 1, "all of", compile_query(item)(document))
                yield from _explain(item, document, depth + 1 + several)
        elif key != "$comment":
            yield from _field(key, value, document, depth)


def _field(key: str, value: Any, document: Mapping[str, Any], depth: int) -> Iterator[Explanation]:
    path = paths.parse(key, ())
    found = _found(path, document)
    if not expression(value):
        yield Explanation(depth, f"{key}: {_spelled(value)}", _holds(path, value, document), key, found)
        return
    for name, argument in value.items():
        if name == "$options":
            continue
        condition = {name: argument}
        if name == "$regex" and "$options" in value:
            condition["$options"] = value["$options"]
        holds = _holds(path, condition, document)
        shown = _matching_elements(condition, found) if name == "$elemMatch" and holds else found
        yield Explanation(depth, f"{key}: {_spelled(condition)}", holds, key, shown)


def _holds(path: paths.Path, condition: object, document: Mapping[str, Any]) -> bool:
    return all(test.at(path)(document) for test in field_tests(condition, ()))


def _matching_elements(condition: object, found: tuple[Any, ...]) -> tuple[Any, ...]:
    """The elements of arrays that made `$elemMatch` hold."""
    (test,) = field_tests(condition, ())
    arrays = (value for value in found if isinstance(value, list))
    return tuple(element for array in arrays for element in array if test.single([element]))


def _found(path: paths.Path, document: Mapping[str, Any]) -> tuple[Any, ...]:
    values: list[Any] = []

    def note(value: Any) -> bool:
        if value is not MISSING:
            values.append(value)
        return False

    paths.reach(path, note, spread=False)(document)
    return tuple(values)


def _spelled(value: object) -> str:
    """A condition on one line, as YAML's flow style would have it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value not in ("true", "false", "null"):
        return value
    return json.dumps(value, ensure_ascii=False)
