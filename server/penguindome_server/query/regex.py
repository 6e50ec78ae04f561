"""Searching text for a regular expression in time proportional to the length of the text, whatever the pattern.

The text comes from machines that may be hostile, so nothing here backtracks: the pattern becomes a nondeterministic
automaton (Thompson's construction), and a deterministic one is built from it while searching, each state when it is
first reached (as RE2 does). A pattern of more than MAXIMUM_NODES nodes is refused. Text longer than MAXIMUM_TEXT
characters has no match: it is no fact about a machine, and reading it would cost more than it can tell.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from penguindome_server.query import characters
from penguindome_server.query.errors import Location, QueryError
from penguindome_server.query.patterns import Boundary, Choice, One, Pattern, PatternError, Place, Repeat, parse
from penguindome_server.query.values import check_text

MAXIMUM_NODES: Final = 500
MAXIMUM_TEXT: Final = 100_000
_MAXIMUM_STATES: Final = 1000
_CACHED_CHARACTERS: Final = 4096


def compile_regex(pattern: str, options: str, location: Location) -> Callable[[str], bool]:
    """A predicate: whether a text holds a match. `options`: any of `imsx`. Raises QueryError."""
    check_text(pattern, (*location, "$regex"))
    try:
        return _search(pattern, options)
    except PatternError as error:
        hint = None
        if "not supported" in str(error):
            hint = "regular expressions here have no look-around and no back-references; $not negates"
        raise QueryError((*location, "$regex"), str(error), hint=hint) from error


@functools.lru_cache(maxsize=256)
def _search(pattern: str, options: str) -> Callable[[str], bool]:
    return _Automaton(_Program(parse(pattern, options))).search


class _Node:
    """A node of the nondeterministic automaton.

    It takes a character of `symbols`, or passes where `boundary` holds, or goes on to all of `targets` at once.
    """

    __slots__ = ("boundary", "ranges", "symbols", "targets")

    def __init__(self, targets: list[_Node]) -> None:
        self.targets = targets
        self.ranges: characters.Ranges | None = None
        self.symbols: frozenset[int] = frozenset()
        self.boundary: Boundary | None = None


class _Program:
    """The nondeterministic automaton of a pattern, built from its end to its start."""

    def __init__(self, pattern: Pattern) -> None:
        self.nodes: list[_Node] = []
        self.accept = self.node([])
        self.start = self.build(pattern, self.accept)

    def node(self, targets: list[_Node]) -> _Node:
        if len(self.nodes) >= MAXIMUM_NODES:
            raise PatternError(f"the pattern is too large (more than {MAXIMUM_NODES} parts, repetitions written out)")
        self.nodes.append(_Node(targets))
        return self.nodes[-1]

    def build(self, pattern: Pattern, then: _Node) -> _Node:
        """The node at which `pattern` starts, when `then` follows it."""
        if isinstance(pattern, One):
            node = self.node([then])
            node.ranges = pattern.ranges
            return node
        if isinstance(pattern, Place):
            node = self.node([then])
            node.boundary = pattern.boundary
            return node
        if isinstance(pattern, Choice):
            return self.node([self.build(part, then) for part in pattern.parts])
        if isinstance(pattern, Repeat):
            return self.repeat(pattern, then)
        for part in reversed(pattern.parts):
            then = self.build(part, then)
        return then

    def repeat(self, pattern: Repeat, then: _Node) -> _Node:
        if pattern.most is None:
            loop = self.node([then])
            loop.targets.append(self.build(pattern.part, loop))
            then = loop
        else:
            end = then
            for _ in range(pattern.most - pattern.least):
                then = self.node([end, self.build(pattern.part, then)])
        for _ in range(pattern.least):
            start = self.build(pattern.part, then)
            if start is then:
                break  # what stands for nothing stands for nothing however often
            then = start
        return then


class _State:
    """A state of the deterministic automaton: the nodes it may be at before the next symbol, and the symbol before."""

    __slots__ = ("before", "moves", "nodes")

    def __init__(self, nodes: frozenset[_Node], before: int) -> None:
        self.nodes = nodes
        self.before = before
        self.moves: dict[int, _State | bool] = {}


class _Symbols(dict[str, int]):
    """The symbol of each character: characters that no part of the pattern tells apart share one."""

    def __init__(self, starts: list[int]) -> None:
        super().__init__()
        self.starts = starts

    def __missing__(self, character: str) -> int:
        symbol = bisect_right(self.starts, ord(character)) - 1
        if len(self) < _CACHED_CHARACTERS:
            self[character] = symbol
        return symbol


class _Automaton:
    """Searches texts. Threads may share it: whatever they compute twice is equal."""

    def __init__(self, program: _Program) -> None:
        self.program = program
        used = [node.ranges for node in program.nodes if node.ranges is not None]
        edges = {0}
        for ranges in (*used, characters.NEWLINE, characters.WORD):
            edges.update(edge for first, last in ranges for edge in (first, last + 1))
        starts = sorted(edges)
        self.symbols = _Symbols(starts)
        for node in program.nodes:
            if node.ranges is not None:
                node.symbols = _symbols_of(node.ranges, starts)
        self.words = _symbols_of(characters.WORD, starts)
        self.newline = self.symbols["\n"]
        # Beside the symbols of characters: a newline that is the last character, the end, and what is before the start.
        self.last_newline, self.end, self.nothing = len(starts), len(starts) + 1, -1
        self.states: dict[tuple[frozenset[_Node], int], _State] = {}
        self.start = _State(frozenset((program.start,)), self.nothing)

    def search(self, text: str) -> bool:
        """Whether the text holds a match."""
        if len(text) > MAXIMUM_TEXT:
            return False
        symbols = self.symbols
        state = self.start
        for character in text[:-1]:
            symbol = symbols[character]
            move = state.moves.get(symbol)
            if move is None:
                move = self.step(state, symbol)
            if move is True or move is False:
                return move
            state = move
        for symbol in (self.last_newline if text[-1] == "\n" else symbols[text[-1]], self.end) if text else (self.end,):
            move = state.moves.get(symbol)
            if move is None:
                move = self.step(state, symbol)
            if move is True or move is False:
                return move
            state = move
        return False

    def step(self, state: _State, symbol: int) -> _State | bool:
        """Where `symbol` leads to: True when a match ends before it, False when there can be none any more."""
        move = self.compute(state, symbol)
        state.moves[symbol] = move
        return move

    def compute(self, state: _State, symbol: int) -> _State | bool:
        reached = self.reachable(state, symbol)
        if self.program.accept in reached:
            return True
        if symbol == self.end:
            return False
        taken = self.newline if symbol == self.last_newline else symbol
        following = {node.targets[0] for node in reached if taken in node.symbols}
        following.add(self.program.start)
        key = (frozenset(following), taken)
        found = self.states.get(key)
        if found is None:
            if len(self.states) >= _MAXIMUM_STATES:
                self.forget()
            found = self.states[key] = _State(*key)
        return found

    def forget(self) -> None:
        """Bound the memory: states are built again when they are reached again."""
        self.states = {}
        self.start = _State(self.start.nodes, self.nothing)

    def reachable(self, state: _State, following: int) -> set[_Node]:
        """All nodes that can be reached without taking a character, when `following` is the next symbol."""
        reached: set[_Node] = set()
        waiting = list(state.nodes)
        while waiting:
            node = waiting.pop()
            if node in reached:
                continue
            reached.add(node)
            if node.ranges is None and (node.boundary is None or self.holds(node.boundary, state.before, following)):
                waiting.extend(node.targets)
        return reached

    def holds(self, boundary: Boundary, before: int, following: int) -> bool:
        """Whether a boundary holds between two symbols."""
        at_end = following == self.end
        match boundary:
            case Boundary.TEXT_START:
                return before == self.nothing
            case Boundary.LINE_START:
                # As in PCRE: not after a newline that ends the text.
                return before == self.nothing or (before == self.newline and not at_end)
            case Boundary.TEXT_END:
                return at_end
            case Boundary.LAST_LINE_END:
                return at_end or following == self.last_newline
            case Boundary.LINE_END:
                return at_end or following in (self.last_newline, self.newline)
            case Boundary.WORD:
                return (before in self.words) != (following in self.words)
            case Boundary.NOT_WORD:
                return (before in self.words) == (following in self.words)


def _symbols_of(ranges: characters.Ranges, starts: list[int]) -> frozenset[int]:
    return frozenset(
        symbol
        for first, last in ranges
        for symbol in range(bisect_right(starts, first) - 1, bisect_right(starts, last))
    )
