"""YAML files that people write: settings and checks, read with the line of every value.

What is read is plainer than YAML 1.1, which has surprises: keys are always text; dates, and clock times such as `10:30`
(in YAML 1.1 a number to base 60), stay text; a date with time and zone is an aware datetime; tags that make objects,
keys given twice, NaN and infinities are errors. A file may have 1 MiB, and aliases may not multiply it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penguindome.errors import InvalidData, SettingsError
from penguindome.files import read_limited
from penguindome.times import parse_iso

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node, ScalarNode

MAXIMUM_SIZE = 1024 * 1024
MAXIMUM_VALUES = 100_000
MAXIMUM_DEPTH = 100

Route = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""


@dataclass(frozen=True)
class Document:
    """What a YAML text holds: `value`, where it came from, and on which line each part of it stands."""

    value: Any
    source: str
    lines: Mapping[Route, int]

    def line(self, *route: str | int) -> int:
        """The line of the value, or key, that `route` leads to; that of its nearest parent if it has none."""
        while route and route not in self.lines:
            route = route[:-1]
        return self.lines.get(route, 1)

    def where(self, *route: str | int) -> str:
        """`FILE:LINE`, for messages."""
        return f"{self.source}:{self.line(*route)}"


def load(path: Path) -> Document:
    """Read a YAML file; an empty one has the value None. Raises SettingsError with file and line."""
    try:
        contents = read_limited(path, MAXIMUM_SIZE)
    except InvalidData as error:
        raise SettingsError(error.message) from error
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    return parse(contents, str(path))


def load_mapping(path: Path) -> Document:
    """`load` of a file whose top level must be a mapping; an empty one is the mapping without keys."""
    document = load(path)
    if document.value is None:
        return Document({}, document.source, document.lines)
    if not isinstance(document.value, dict):
        raise SettingsError(f"{document.where()}: expected `name: value` lines, found {_kind(document.value)}")
    return document


def parse(text: str | bytes, source: str) -> Document:
    """Read YAML text (UTF-8); `source` names it in messages. Raises SettingsError with source and line."""
    import yaml

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1 if isinstance(text, bytes) else 1
        raise SettingsError(f"{source}:{line}: not UTF-8") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_depth(decoded, source, loader)
        node = yaml.compose(decoded, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context or "not YAML").split())
        if "\\t" in problem or "'\t'" in problem or _tab_at(decoded, mark.line if mark else 0):
            problem = "a tab where YAML wants spaces"
        # What misses its end is noticed behind the last line.
        line = min(mark.line, decoded.rstrip("\n").count("\n")) + 1 if mark else 1
        raise SettingsError(f"{source}:{line}: {problem}") from error
    except yaml.YAMLError as error:
        line = decoded.count("\n", 0, getattr(error, "position", 0) or 0) + 1
        raise SettingsError(f"{source}:{line}: {getattr(error, 'reason', None) or 'not YAML'}") from error
    except RecursionError as error:
        raise SettingsError(f"{source}:1: nested too deeply") from error
    return _Builder(source).document(node)


def dump(value: Any) -> str:
    """YAML text for plain values (dict, list, str, int, float, bool, None), keys in their order, one key a line."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000)


class _Builder:
    """Turns the nodes of one file into values and notes their lines."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Route, int] = {}

    def document(self, node: Node | None) -> Document:
        value = None if node is None else self.value(node, ())
        return Document(value, self.source, self.lines)

    def value(self, node: Node, route: Route) -> Any:
        from yaml.nodes import MappingNode, ScalarNode, SequenceNode

        self.lines.setdefault(route, node.start_mark.line + 1)
        if len(self.lines) > MAXIMUM_VALUES or len(route) > MAXIMUM_DEPTH:
            raise self.error(node, "too many values, or nested too deeply")
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        if isinstance(node, SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(child, (*route, number)) for number, child in enumerate(node.value)]
        if isinstance(node, MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self.mapping(node, route)
        raise self.error(node, f"the tag {node.tag!r} is not allowed here")

    def mapping(self, node: MappingNode, route: Route) -> dict[str, Any]:
        from yaml.nodes import ScalarNode

        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise self.error(key_node, "a key must be plain text")
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise self.error(key_node, "merging with `<<` is not allowed here")
            here = (*route, key)
            if key in result:
                raise self.error(key_node, f"{key!r} is given twice (first on line {self.lines[here]})")
            self.lines[here] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, here)
        return result

    def scalar(self, node: ScalarNode) -> Any:
        from yaml.constructor import SafeConstructor

        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text: str = node.value
        if kind in ("str", "value"):
            return text
        if kind == "timestamp":
            return parse_iso(text) or text
        if kind in ("int", "float") and ":" in text:
            return text
        if kind == "null":
            return None
        if kind not in ("int", "float", "bool"):
            raise self.error(node, f"the tag {node.tag!r} is not allowed here")
        try:
            value = getattr(SafeConstructor(), f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError) as error:
            raise self.error(node, f"{text[:40]!r} is not of the kind {kind}") from error
        if isinstance(value, float) and not isfinite(value):
            raise self.error(node, f"{text[:40]!r} is not a finite number")
        return value

    def error(self, node: Node, problem: str) -> SettingsError:
        return SettingsError(f"{self.source}:{node.start_mark.line + 1}: {problem}")


def _refuse_depth(text: str, source: str, loader: Any) -> None:
    """The C library composes by recursion and crashes on deep nesting, so that depth has to be looked at before."""
    import yaml

    if sum(text.count(character) for character in "[{-?:") <= MAXIMUM_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAXIMUM_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise SettingsError(f"{source}:{line}: nested too deeply")


def _tab_at(text: str, line: int) -> bool:
    lines = text.splitlines()
    return line < len(lines) and "\t" in lines[line][: len(lines[line]) - len(lines[line].lstrip())]


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "one value"
