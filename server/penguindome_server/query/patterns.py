"""The syntax of regular expressions: PCRE's, as mongod uses it, parsed into a small tree.

Covered is what a finite automaton can decide: literals, classes, `.`, anchors, word boundaries, groups, alternatives,
repetition (greedy or lazy, which makes no difference to whether there is a match), the options i, m, s and x, for the
whole or inline, comments and quoting. Everything else is refused by name: back-references, look-around, possessive
and atomic groups, recursion, conditions, verbs, Unicode properties.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from penguindome_server.query import characters
from penguindome_server.query.characters import ESCAPES, POSIX, Ranges

MAXIMUM_LENGTH: Final = 32764  # mongod's limit for a pattern
_MAXIMUM_COUNT: Final = 65535
_MAXIMUM_NESTING: Final = 50


class PatternError(ValueError):
    """The pattern is malformed, or uses what is not covered. The message says what and where."""


class Boundary(Enum):
    """Conditions on a place between two characters."""

    TEXT_START = auto()
    LINE_START = auto()
    TEXT_END = auto()
    LAST_LINE_END = auto()  # the end, or before a newline that is the end
    LINE_END = auto()
    WORD = auto()
    NOT_WORD = auto()


@dataclass(frozen=True, slots=True)
class One:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Place:
    """No character, but a condition."""

    boundary: Boundary


@dataclass(frozen=True, slots=True)
class Sequence:
    """All parts, one after the other."""

    parts: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the parts."""

    parts: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`least` to `most` times (None: without limit)."""

    part: Pattern
    least: int
    most: int | None


Pattern = One | Place | Sequence | Choice | Repeat

_CHARACTERS: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "e": "\x1b", "a": "\a"}
_BOUNDARIES: Final = {
    "A": Boundary.TEXT_START,
    "Z": Boundary.LAST_LINE_END,
    "z": Boundary.TEXT_END,
    "b": Boundary.WORD,
    "B": Boundary.NOT_WORD,
}
_COUNT: Final = re.compile(r"\{(\d+)(?:(,)(\d*))?\}", re.ASCII)
_POSIX: Final = re.compile(r"\[:(\^?)([a-z]+):\]")
_GROUP_NAME: Final = re.compile(r"\?(?:P?<([A-Za-z_]\w{0,31})>|'([A-Za-z_]\w{0,31})')", re.ASCII)
_GROUP_OPTIONS: Final = re.compile(r"\?([imsx]*)(?:(-)([imsx]*))?([:)])")
_HEXADECIMAL: Final = re.compile(r"\{([0-9A-Fa-f]{1,6})\}|([0-9A-Fa-f]{0,2})")
_OCTAL: Final = re.compile(r"[0-7]{0,2}")
_FREE_SPACE: Final = re.compile(r"(?:[ \t\n\v\f\r]|#[^\n]*\n)*")


def parse(pattern: str, options: str) -> Pattern:
    """The tree of a pattern with the options `imsx`. Raises PatternError."""
    if len(pattern) > MAXIMUM_LENGTH:
        raise PatternError(f"the pattern is longer than {MAXIMUM_LENGTH} characters")
    if "\0" in pattern:
        raise PatternError("the pattern holds NUL")
    if wrong := set(options) - set("imsxu"):
        raise PatternError(f"unknown option {min(wrong)!r}: there are i, m, s and x")
    return _Parser(pattern, frozenset(options)).parse()


class _Parser:
    """Recursive descent over one pattern; `options` are those in force at the position."""

    def __init__(self, text: str, options: frozenset[str]) -> None:
        self.text = text
        self.at = 0
        self.options = options
        self.quoting = False
        self.nesting = 0
        self.names: set[str] = set()

    def parse(self) -> Pattern:
        found = self.choice()
        if self.at < len(self.text):
            raise self.error("unmatched )")
        if self.quoting:
            raise self.error("\\Q without \\E")
        return found

    def error(self, reason: str) -> PatternError:
        return PatternError(f"{reason} (at character {self.at + 1} of the pattern)")

    def ahead(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if self.ahead(text):
            self.at += len(text)
            return True
        return False

    def match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        if found := expression.match(self.text, self.at):
            self.at = found.end()
        return found

    def choice(self) -> Pattern:
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def sequence(self) -> Pattern:
        parts: list[Pattern] = []
        while self.skip() and (self.quoting or self.text[self.at] not in "|)"):
            if (part := self.atom()) is not None:
                parts.append(self.repeated(part))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def skip(self) -> bool:
        """Skip what stands for nothing; says whether anything is left."""
        before = -1
        while before != self.at:
            before = self.at
            if self.quoting:
                self.quoting = not self.take("\\E")
                continue
            if "x" in self.options:
                self.match(_FREE_SPACE)
                if self.ahead("#"):
                    raise self.error("a comment without a newline after it")
            if self.take("\\E"):
                continue
            self.quoting = self.take("\\Q")
        return self.at < len(self.text)

    def repeated(self, part: Pattern) -> Pattern:
        self.skip()
        count = None if self.quoting else self.quantifier()
        if count is None:
            return part
        if isinstance(part, Place):
            raise self.error("an anchor cannot be repeated")
        if self.take("+"):
            raise self.error("possessive repetition is not supported")
        self.take("?")
        least, most = count
        return Repeat(part, least, most)

    def quantifier(self) -> tuple[int, int | None] | None:
        for sign, count in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                return count
        found = self.match(_COUNT)
        if found is None:
            return None
        least = int(found[1])
        most = least if not found[2] else int(found[3]) if found[3] else None
        if max(least, most or 0) > _MAXIMUM_COUNT:
            raise self.error(f"a number of repetitions above {_MAXIMUM_COUNT}")
        if most is not None and most < least:
            raise self.error("the numbers of repetitions are out of order")
        return least, most

    def atom(self) -> Pattern | None:
        """The next item; None for one that stands for nothing (an option, a comment)."""
        if not self.quoting and self.quantifier() is not None:
            raise self.error("there is nothing to repeat")
        character = self.text[self.at]
        self.at += 1
        if self.quoting:
            return self.literal(character)
        special = _SPECIAL.get(character)
        return self.literal(character) if special is None else special(self)

    def literal(self, character: str) -> One:
        single = characters.ranges(character)
        return One(characters.both_cases(single) if "i" in self.options else single)

    def dot(self) -> Pattern:
        return One(characters.ANY if "s" in self.options else characters.NOT_NEWLINE)

    def caret(self) -> Pattern:
        return Place(Boundary.LINE_START if "m" in self.options else Boundary.TEXT_START)

    def dollar(self) -> Pattern:
        return Place(Boundary.LINE_END if "m" in self.options else Boundary.LAST_LINE_END)

    def escape(self) -> Pattern:
        if self.at < len(self.text):
            name = self.text[self.at]
            if name in ESCAPES or name == "N":
                self.at += 1
                if name == "N" and self.ahead("{"):
                    raise self.error("\\N{...} is not supported")
                return One(ESCAPES.get(name, characters.NOT_NEWLINE))
            if name in _BOUNDARIES:
                self.at += 1
                return Place(_BOUNDARIES[name])
        return self.literal(self.escaped_character())

    def escaped_character(self) -> str:
        """The character that an escape means, in a class or outside; the backslash is taken already."""
        if self.at == len(self.text):
            raise self.error("a \\ at the end")
        name = self.text[self.at]
        self.at += 1
        if not (name.isascii() and name.isalnum()):
            return name
        if name in _CHARACTERS:
            return _CHARACTERS[name]
        if name == "0":
            octal = self.match(_OCTAL)
            return chr(int("0" + octal[0], 8)) if octal else "\0"
        if name == "x":
            digits = self.match(_HEXADECIMAL)
            assert digits is not None
            if self.ahead("{") and not digits[0]:
                raise self.error("malformed \\x{...}")
            return self.character(int(digits[1] or digits[2] or "0", 16))
        if name.isdigit():
            raise self.error("back-references and octal numbers (write \\x{...}) are not supported")
        raise self.error(f"\\{name} is not supported")

    def character(self, point: int) -> str:
        if point > 0x10FFFF or 0xD800 <= point < 0xE000:
            raise self.error("no such character")
        return chr(point)

    def group(self) -> Pattern | None:
        if self.ahead("*"):
            raise self.error("verbs (*...) are not supported")
        if self.take("?#"):
            end = self.text.find(")", self.at)
            if end < 0:
                raise self.error("a comment without )")
            self.at = end + 1
            return None
        outside = self.options
        if name := self.match(_GROUP_NAME):
            self.name(name[1] or name[2])
        elif options := self.match(_GROUP_OPTIONS):
            self.options = (outside | frozenset(options[1])) - frozenset(options[3] or "")
            if options[4] == ")":
                if options[0] in ("?)", "?-)"):
                    raise self.error("an empty option")
                return None
        elif self.ahead("?"):
            raise self.error(f"({self.text[self.at : self.at + 3]}...) is not supported")
        return self.inside(outside)

    def name(self, name: str) -> None:
        if name in self.names:
            raise self.error(f"two groups are named {name}")
        self.names.add(name)

    def inside(self, outside: frozenset[str]) -> Pattern:
        self.nesting += 1
        if self.nesting > _MAXIMUM_NESTING:
            raise self.error(f"groups are nested more than {_MAXIMUM_NESTING} deep")
        found = self.choice()
        if not self.take(")"):
            raise self.error("missing )")
        self.nesting -= 1
        self.options = outside
        # A group may be repeated even if an anchor is all that it holds.
        return Sequence((found,))

    def character_class(self) -> Pattern:
        negative = self.take("^")
        found: list[tuple[int, int]] = []
        first = True
        while first or not self.ahead("]"):
            first = False
            item = self.class_item()
            if isinstance(item, tuple):
                found.extend(item)
                continue
            last = item
            if self.ahead("-") and not self.ahead("-]"):
                self.at += 1
                end = self.class_item()
                if isinstance(end, tuple) or ord(end) < ord(item):
                    raise self.error("a range in a class is out of order, or ends with a class")
                last = end
            part = characters.ranges((item, last))
            found.extend(characters.both_cases(part) if "i" in self.options else part)
        self.at += 1
        taken = characters.union(found)
        return One(characters.complement(taken) if negative else taken)

    def class_item(self) -> str | Ranges:
        """One character of a class, or a class inside it."""
        if self.at >= len(self.text):
            raise self.error("missing ]")
        if posix := self.match(_POSIX):
            return self.posix(negative=bool(posix[1]), name=posix[2])
        if self.ahead("[:") or self.ahead("[.") or self.ahead("[="):
            raise self.error("[:, [. and [= in a class are not supported; write \\[")
        character = self.text[self.at]
        self.at += 1
        if character != "\\":
            return character
        if self.at < len(self.text) and self.text[self.at] in ESCAPES:
            self.at += 1
            return ESCAPES[self.text[self.at - 1]]
        return "\b" if self.take("b") else self.escaped_character()

    def posix(self, *, negative: bool, name: str) -> Ranges:
        if name not in POSIX:
            raise self.error(f"unknown class [:{name}:]")
        if "i" in self.options and name in ("lower", "upper"):
            name = "alpha"
        return characters.complement(POSIX[name]) if negative else POSIX[name]


_SPECIAL: Final[dict[str, Callable[[_Parser], Pattern | None]]] = {
    ".": _Parser.dot,
    "^": _Parser.caret,
    "$": _Parser.dollar,
    "\\": _Parser.escape,
    "(": _Parser.group,
    "[": _Parser.character_class,
}
