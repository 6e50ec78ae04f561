"""Sets of characters as sorted, disjoint ranges of code points, and what equals what when case does not count."""

from __future__ import annotations

import functools
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

Ranges = tuple[tuple[int, int], ...]
"""Inclusive ranges of code points: sorted, not touching."""

_LAST: Final = sys.maxunicode
_LAST_CASED: Final = 0x1E943  # Adlam is the last script of Unicode with two cases
_ASCII_EQUALS: Final = {"k": "\u212a", "s": "\u017f"}  # the sign for kelvin, the long s
_TURKISH: Final = frozenset("İı")  # equal to no other letter, unless the language is known


def ranges(*parts: str | tuple[str, str]) -> Ranges:
    """A set from single characters (each of a string) and pairs (first, last)."""
    found: list[tuple[int, int]] = []
    for part in parts:
        if isinstance(part, tuple):
            found.append((ord(part[0]), ord(part[1])))
        else:
            found.extend((ord(character), ord(character)) for character in part)
    return union(found)


def union(parts: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted and merged."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(parts):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def complement(taken: Ranges) -> Ranges:
    """Every other character."""
    free: list[tuple[int, int]] = []
    start = 0
    for first, last in taken:
        if start < first:
            free.append((start, first - 1))
        start = last + 1
    if start <= _LAST:
        free.append((start, _LAST))
    return tuple(free)


def both_cases(taken: Ranges) -> Ranges:
    """With everything that equals one of the characters when case does not count (by Unicode's simple folding)."""
    if all(last < 128 for _, last in taken):
        letters = [chr(point) for first, last in taken for point in range(first, last + 1) if chr(point).isalpha()]
        swapped = "".join(letter.swapcase() + _ASCII_EQUALS.get(letter.lower(), "") for letter in letters)
        return union((*taken, *ranges(swapped)))
    points, partners = _cased()
    added: list[tuple[int, int]] = []
    for first, last in taken:
        for point in points[bisect_left(points, first) :]:
            if point > last:
                break
            added.extend((other, other) for other in partners[point])
    return union((*taken, *added))


@functools.cache
def _cased() -> tuple[list[int], dict[int, tuple[int, ...]]]:
    """The characters that have another case, sorted, and for each its equals."""
    groups: defaultdict[str, set[int]] = defaultdict(set)
    for point in range(_LAST_CASED + 1):
        character = chr(point)
        if character not in _TURKISH:
            groups[_folded(character)].add(point)
    partners = {point: tuple(group) for group in groups.values() if len(group) > 1 for point in group}
    return sorted(partners), partners


def _folded(character: str) -> str:
    """One representative of all the cases of a character."""
    for turned in (str.upper, str.lower):
        other = turned(character)
        if len(other) == 1:
            character = other
    return character


DIGITS: Final = ranges(("0", "9"))
LOWER: Final = ranges(("a", "z"))
UPPER: Final = ranges(("A", "Z"))
LETTERS: Final = union(LOWER + UPPER)
WORD: Final = union((*LETTERS, *DIGITS, *ranges("_")))
SPACE: Final = ranges(" \t\n\r\f\v")
NEWLINE: Final = ranges("\n")
ANY: Final = complement(())
NOT_NEWLINE: Final = complement(NEWLINE)
HORIZONTAL: Final = ranges("\t \xa0\u1680\u180e", ("\u2000", "\u200a"), "\u202f\u205f\u3000")
VERTICAL: Final = ranges("\n\v\f\r\x85\u2028\u2029")
_PUNCTUATION: Final = ranges(("!", "/"), (":", "@"), ("[", "`"), ("{", "~"))

POSIX: Final[dict[str, Ranges]] = {
    "alnum": union(LETTERS + DIGITS),
    "alpha": LETTERS,
    "ascii": ranges(("\0", "\x7f")),
    "blank": ranges(" \t"),
    "cntrl": ranges(("\0", "\x1f"), "\x7f"),
    "digit": DIGITS,
    "graph": ranges(("!", "~")),
    "lower": LOWER,
    "print": ranges((" ", "~")),
    "punct": _PUNCTUATION,
    "space": SPACE,
    "upper": UPPER,
    "word": WORD,
    "xdigit": ranges(("0", "9"), ("a", "f"), ("A", "F")),
}
"""The classes that are written `[:name:]`."""

ESCAPES: Final[dict[str, Ranges]] = {
    "d": DIGITS,
    "D": complement(DIGITS),
    "w": WORD,
    "W": complement(WORD),
    "s": SPACE,
    "S": complement(SPACE),
    "h": HORIZONTAL,
    "H": complement(HORIZONTAL),
    "v": VERTICAL,
    "V": complement(VERTICAL),
}
"""The classes that are written with a backslash. They know ASCII only, as in PCRE without its option UCP."""
