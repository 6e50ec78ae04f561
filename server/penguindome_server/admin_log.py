"""The log of administrative acts: who did what, when, on whom, and how it went. Without I/O.

Each entry of the collection `admin_log` carries its number in the log, the hash of the entry before it, and a hash over
all of itself, so that the entries form a chain. Anybody who may write to the database can make such a chain; what he
cannot make is one that ends as root's signed head says (`admin_log_head.py`). `ChainCheck` holds the one to the other.

An entry: `_id` (its number, twelve digits), `sequence`, `act_id` (random, of the act), `done_at`, `who`, `login` (the
name under which that person logged in, when the kernel knows it), `host`, `act`, `targets` (the first of them),
`targets_in_all`, `targets_sha256` (over all of them, when not all are listed), `details`, `outcome` (`done`,
`failed: ...`, `aborted`, `interrupted`, `unknown: ...`), `previous`, `hash`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from math import isfinite
from typing import Any

from penguindome import json
from penguindome.times import to_milliseconds
from penguindome_server.store import Document

COLLECTION = "admin_log"
FIRST_PREVIOUS = "0" * 64
"""What the first entry names as the hash of the entry before it."""

Ends = tuple[int, str] | None
"""Where the log ends as root's head says: the number of its entries, and the hash of the last. None: not known."""

MOST_TARGETS = 200
LONGEST_TEXT = 300
LARGEST_DETAILS = 16 * 1024
MOST_PROBLEMS = 20

_BEGINNING = 8 * 1024
_DEEPEST = 8
_ID = re.compile("[0-9]{12}")
_FULL_STOP, _DOLLAR = "\uff0e", "\uff04"
_INTEGERS = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Act:
    """An administrative act that has ended, as it shall be told. `details` hold no secrets."""

    act_id: str
    act: str
    who: str
    login: str | None
    host: str
    targets: Sequence[str]
    details: Mapping[str, Any]
    outcome: str
    done_at: datetime


def make_entry(act: Act, *, sequence: int, previous: str) -> Document:
    """The entry of an act that follows the entry whose hash is `previous`: bounded, storable, and hashed."""
    targets = [_bounded(target) for target in act.targets]
    entry: Document = {
        "_id": entry_id(sequence),
        "sequence": sequence,
        "act_id": _bounded(act.act_id),
        "done_at": to_milliseconds(act.done_at),
        "who": _bounded(act.who),
        "login": None if act.login is None else _bounded(act.login),
        "host": _bounded(act.host),
        "act": _bounded(act.act),
        "targets": targets[:MOST_TARGETS],
        "targets_in_all": len(targets),
        "targets_sha256": None if len(targets) <= MOST_TARGETS else _sha256(json.dumps(targets)),
        "details": bounded_details(act.details),
        "outcome": _bounded(act.outcome),
        "previous": previous,
    }
    return {**entry, "hash": entry_hash(entry)}


def entry_id(sequence: int) -> str:
    """The `_id` of the entry with this number: ids have the order of the log."""
    return f"{sequence:012d}"


def entry_hash(entry: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the canonical JSON of an entry: keys sorted, ASCII, compact; all but `hash` and `_version`.

    Raises TypeError or ValueError for what is no JSON.
    """
    rest = {name: value for name, value in entry.items() if name not in ("hash", "_version")}
    return _sha256(json.dumps(rest, sort_keys=True))


def bounded_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """Details that the store takes, of `LARGEST_DETAILS` bytes at most: of larger ones the beginning and a hash."""
    storable: dict[str, Any] = _storable(details, 0)
    text = json.dumps(storable, sort_keys=True)
    if len(text) <= LARGEST_DETAILS:
        return storable
    return {"truncated": True, "bytes": len(text), "sha256": _sha256(text), "beginning": text[:_BEGINNING]}


def _storable(value: Any, depth: int) -> Any:
    """As the store and JSON take it: moments under their keys alone, no dots in keys, no number too large."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        items = ((_key(str(name)), child) for name, child in value.items())
        return json.revive_object({name: _storable_under(name, child, depth + 1) for name, child in items})
    if isinstance(value, (list, tuple, set, frozenset)) and depth < _DEEPEST:
        return [
            _storable(child, depth + 1)
            for child in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)
        ]
    if value is None or isinstance(value, bool):
        return value
    if (type(value) is int and value in _INTEGERS) or (type(value) is float and isfinite(value)):
        return value
    return _text(str(value))


def _storable_under(name: str, value: Any, depth: int) -> Any:
    if isinstance(value, datetime) and value.utcoffset() is not None and name.endswith(json.SUFFIX):
        return to_milliseconds(value)
    return _storable(value, depth)


def _key(name: str) -> str:
    name = _text(name).replace(".", _FULL_STOP).replace("\0", "") or "-"
    return _DOLLAR + name[1:] if name.startswith("$") else name


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _bounded(text: str) -> str:
    text = _text(str(text))
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@dataclass
class Problems:
    """What is wrong with a log: the first of it in words, and how much there is in all."""

    found: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        """Note one more."""
        self.count += 1
        if len(self.found) < MOST_PROBLEMS:
            self.found.append(problem)


@dataclass
class ChainCheck:
    """Takes the entries of the store in the order of their ids, and says what is wrong with them."""

    problems: Problems = field(default_factory=Problems)
    count: int = 0
    """The number of the last entry that was seen."""
    hash: str = FIRST_PREVIOUS
    seen: int = 0
    """How many documents were seen."""

    def take_all(self, documents: Iterable[Document], *, ends: Ends) -> None:
        """Look at entries, and hold the one at which the log ends to its hash."""
        for document in documents:
            self.take(document, ends=ends)

    def take(self, document: Document, *, ends: Ends) -> None:
        """Look at one entry."""
        self.seen += 1
        sequence = _sequence_of(document)
        if sequence is None:
            self.problems.add(f"there is an entry {_shown(document.get('_id'))} that is none of the log's")
            return
        follows = sequence == self.count + 1
        if not follows:
            self.problems.add(_missing(self.count + 1, sequence - 1))
        if not _is_whole(document):
            self.problems.add(f"entry {sequence} was edited: it is not what its hash says")
        elif follows and document.get("previous") != self.hash:
            self.problems.add(f"entry {sequence} does not follow from the entry before it: one of them was replaced")
        self.count, self.hash = sequence, str(document.get("hash"))
        if ends is None:
            return
        last, last_hash = ends
        if sequence > last:
            self.problems.add(f"entry {sequence} was added: root's head ends with entry {last}")
        elif sequence == last and self.hash != last_hash:
            self.problems.add(f"entry {sequence} is another than the one that root's head names: the log was replaced")

    def end(self, ends: Ends) -> None:
        """All entries were looked at: say what is missing at the end."""
        if ends is not None and self.count < ends[0]:
            self.problems.add(_missing(self.count + 1, ends[0]))


def _sequence_of(document: Document) -> int | None:
    key = document.get("_id")
    if not isinstance(key, str) or not _ID.fullmatch(key) or not key.isascii():
        return None
    sequence = int(key)
    same = type(document.get("sequence")) is int and document["sequence"] == sequence
    return sequence if same and sequence > 0 else None


def _is_whole(document: Document) -> bool:
    try:
        return entry_hash(document) == document.get("hash")
    except (TypeError, ValueError):
        return False


def is_entry(document: Document) -> bool:
    """Whether a document is an entry that fits its own id and hash."""
    return _sequence_of(document) is not None and _is_whole(document)


def _missing(first: int, last: int) -> str:
    return f"entry {first} is missing" if first == last else f"entries {first} to {last} are missing"


def _shown(key: Any) -> str:
    return repr(key)[:80]
