"""Dotted paths: which values of a document a path means.

MongoDB's rules, which surprise in three places:
- A path goes *through* arrays: `volumes.encrypted` means the field of every embedded document in the list `volumes`.
  Where an array holds no embedded document, the path means nothing there: not even a missing field.
- A number in a path is a key of a document *and* an index of an array.
- A path that ends at an array means each of its elements, and then the array as a whole (`spread`); some operators
  ($size, $elemMatch) look at the whole array only. An element named by its index (`ports.0`) is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penguindome_server.query.errors import Location, QueryError
from penguindome_server.query.values import MISSING, check_key

Test = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a dotted path; `index` is set when it can name an element of an array."""

    name: str
    index: int | None


Path = tuple[Step, ...]


def parse(path: object, location: Location) -> Path:
    """The steps of a dotted path. Raises QueryError for an empty one, or one with an empty part."""
    names = check_key(path, location).split(".")
    if not all(names):
        raise QueryError(location, "the path has an empty part" if len(names) > 1 else "the path is empty")
    return tuple(Step(name, _index(name)) for name in names)


def _index(name: str) -> int | None:
    if len(name) > 9 or not (name.isascii() and name.isdigit()) or (name[0] == "0" and name != "0"):
        return None
    return int(name)


def reach(path: Path, test: Test, *, spread: bool) -> Test:
    """A predicate over documents: whether `test` holds for any value that `path` means (see above for `spread`).

    `test` is given MISSING where there is none. A list is accepted as a document, whose keys are its indexes.
    """
    walk = _Walk(path, test, spread=spread).document
    names = tuple(step.name for step in path)

    def document_test(document: Any) -> bool:
        # Most paths lead through dicts alone, and this is called for every check and every report.
        value = document
        for name in names:
            if value.__class__ is not dict:
                return test(MISSING) if value is MISSING else walk(document)
            value = value.get(name, MISSING)
        return walk(document) if isinstance(value, list) else test(value)

    return document_test


def every(tests: Sequence[Test]) -> Test:
    """All of several predicates, asked in their order."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda value: first(value) and second(value)

    def holds(value: Any) -> bool:
        for test in tests:  # noqa: SIM110 - `all` over a generator takes twice as long
            if not test(value):
                return False
        return True

    return holds


def some(tests: Sequence[Test]) -> Test:
    """At least one of several predicates, asked in their order."""

    def holds(value: Any) -> bool:
        for test in tests:  # noqa: SIM110 - `any` over a generator takes twice as long
            if test(value):
                return True
        return False

    return holds


def opposite(test: Test) -> Test:
    """The negation of a predicate."""
    return lambda value: not test(value)


class _Walk:
    """Walks one path; `at` is everywhere the number of steps that are behind."""

    __slots__ = ("end", "path", "spread", "test")

    def __init__(self, path: Path, test: Test, *, spread: bool) -> None:
        self.path = path
        self.test = test
        self.spread = spread
        self.end = len(path)

    def document(self, container: Any, at: int = 0) -> bool:
        """From a document on."""
        value = container
        for step in self.path[at:] if at else self.path:
            at += 1
            if isinstance(container, dict):
                value = container.get(step.name, MISSING)
            elif isinstance(container, list):
                value = container[step.index] if step.index is not None and step.index < len(container) else MISSING
            else:
                return self.test(MISSING)
            if isinstance(value, list):
                return self.array(value, at)
            container = value
        return self.test(value)

    def array(self, array: list[Any], at: int) -> bool:
        """From an array on, which is no document: through its elements."""
        if at == self.end:
            return (self.spread and any(map(self.test, array))) or self.test(array)
        wanted = self.path[at].index
        for index, element in enumerate(array):
            if isinstance(element, dict) and self.document(element, at):
                return True
            if index == wanted and self.element(element, at + 1):
                return True
        return False

    def element(self, element: Any, at: int) -> bool:
        """From the element that a step named by its index on."""
        if at == self.end:
            return self.test(element)
        if isinstance(element, list):
            return self.array(element, at)
        return isinstance(element, dict) and self.document(element, at)
