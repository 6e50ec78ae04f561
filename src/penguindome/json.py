"""JSON in which keys ending in `_at` are datetimes: UTC, ISO 8601, milliseconds.

A drop-in for what plugins need of the standard library's `json` (`dumps`, `loads`, `dump`, `load`). NaN and infinities,
which are not JSON, are refused both ways. Nothing else is converted: `{}` stays `{}`, and text stays text.
"""

from __future__ import annotations

import json as _json
from datetime import datetime
from math import isinf
from typing import IO, Any, NoReturn

from penguindome.errors import InvalidData
from penguindome.times import isoformat, parse_iso

SUFFIX = "_at"


def dumps(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Compact JSON text (ASCII), or indented for people.

    Raises TypeError for a naive datetime, a datetime under a key that does not end in `_at`, or another type that JSON
    has not; ValueError for NaN, infinities, cycles and nesting beyond the interpreter's limit.
    """
    datetimes = 0

    def convert(item: Any) -> str:
        nonlocal datetimes
        if isinstance(item, datetime):
            datetimes += 1
            return isoformat(item)
        raise TypeError(f"{type(item).__name__} is not a type of JSON")

    separators = (",", ":") if indent is None else (",", ": ")
    try:
        text = _json.dumps(
            value, default=convert, separators=separators, allow_nan=False, indent=indent, sort_keys=sort_keys
        )
    except RecursionError as error:
        raise ValueError("nested too deeply for JSON") from error
    if datetimes:
        _refuse_misplaced_datetimes(value)
    return text


def dump(value: Any, file: IO[str], *, indent: int | None = None, sort_keys: bool = False) -> None:
    """Write `dumps(value)` to a text file."""
    file.write(dumps(value, indent=indent, sort_keys=sort_keys))


def loads(text: str | bytes) -> Any:
    """Parse JSON; texts under keys ending in `_at` that are ISO 8601 with a time zone become aware UTC datetimes.

    Raises InvalidData for anything that is not JSON in UTF-8, is nested too deeply, or holds NaN or a number that is
    infinite.
    """
    text = _decode(text)
    # An escape may spell the suffix; only a text with neither can do without the walk over every object.
    hook = revive_object if f'{SUFFIX}"' in text or "\\u" in text else None
    return _parse(text, hook)


def load(file: IO[str] | IO[bytes]) -> Any:
    """`loads` of what a file holds."""
    return loads(file.read())


def loads_plain(text: str | bytes) -> Any:
    """Parse JSON as `loads` does, but leave every text as it is; `revive` does the rest."""
    return _parse(_decode(text), None)


def revive_object(item: dict[str, Any]) -> dict[str, Any]:
    """Convert the `_at` texts of this one object, in place, and return it: for a caller that walks the tree itself."""
    for key, value in item.items():
        if key[-3:] == SUFFIX and isinstance(value, str):
            moment = parse_iso(value)
            if moment is not None:
                item[key] = moment
    return item


def revive(value: Any) -> Any:
    """Convert, in place and at any depth, what `loads` would have converted; returns `value`."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            revive_object(item)
            pending.extend(child for child in item.values() if isinstance(child, (dict, list)))
        elif isinstance(item, list):
            pending.extend(child for child in item if isinstance(child, (dict, list)))
    return value


def _decode(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidData(f"not UTF-8 at byte {error.start}") from error


def _parse(text: str, hook: Any) -> Any:
    try:
        return _json.loads(text, object_hook=hook, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise InvalidData("JSON nested too deeply") from error
    except ValueError as error:
        raise InvalidData(f"not JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError("a number is too large")
    return number


def _refuse_misplaced_datetimes(value: Any) -> None:
    """`value` is an acyclic tree: the encoder has been through it."""
    pending: list[Any] = [(value,)]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for key, child in item.items():
                if isinstance(child, (dict, list, tuple)):
                    pending.append(child)
                elif isinstance(child, datetime) and not (isinstance(key, str) and key.endswith(SUFFIX)):
                    raise TypeError(f"a datetime under {key!r}: its key must end in {SUFFIX}")
            continue
        for child in item:
            if isinstance(child, (dict, list, tuple)):
                pending.append(child)
            elif isinstance(child, datetime):
                raise TypeError(f"a datetime belongs under a key that ends in {SUFFIX}, not into a list or at the top")
