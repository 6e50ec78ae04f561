"""What a client sent, made harmless for everything behind: the one walk over a report before any of it is used.

Rules, in order:
1. The text is JSON in UTF-8: else `malformed`.
2. Its top is an object: else `invalid`; so is every break of the rules below.
3. Objects and lists nest no deeper than `depth`, and there are no more than `keys` keys and list items in all.
4. A key has at most `key_length` characters.
5. Integers fit into 64 bits with sign; floats are finite.
6. No text, key or value, holds NUL or half of a surrogate pair.
7. In keys, `.` becomes U+FF0E and a leading `$` becomes U+FF04, so that every store can hold them, and no key is an
   operator or a path. Two keys that become one are refused.
8. Texts under keys ending in `_at` that are ISO 8601 with a time zone become datetimes.

Nothing here does I/O. Only objects are looked at one by one where a scan of the whole text (in C) has shown that
nothing in it can break the other rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData
from penguindome_server.refusals import Refusal

FULL_STOP = "\uff0e"
DOLLAR = "\uff04"
INTEGER_BITS = 63
_CONTAINERS = frozenset((dict, list))

# An escape is the only way to spell NUL or half a surrogate pair in JSON, and nineteen digits are the fewest of an
# integer beyond 64 bits. (Translating all digits to one and searching is ten times as fast as a regular expression.)
_ESCAPE = b"\\u"
_ANY_DIGIT = bytes(ord("0") if chr(byte).isdecimal() and byte < 128 else byte for byte in range(256))
_LONG_NUMBER = b"0" * 19


@dataclass(frozen=True)
class Limits:
    """The limits of the walk."""

    depth: int = 32
    keys: int = 100_000
    key_length: int = 256


def parse(data: bytes, limits: Limits) -> dict[str, Any]:
    """Parse and clean one JSON object. Raises Refusal: `malformed` or `invalid`."""
    try:
        value = json.loads_plain(data)
    except InvalidData as error:
        if "deeply" in error.message:
            raise _invalid(f"nested deeper than {limits.depth}") from error
        raise Refusal("malformed", "data is not JSON") from error
    if type(value) is not dict:
        raise _invalid("data is not an object")
    thorough = _ESCAPE in data or _LONG_NUMBER in data.translate(_ANY_DIGIT)
    _walk(value, limits, _check_value if thorough else None)
    return value


def _walk(top: dict[str, Any], limits: Limits, check: Callable[[Any], None] | None) -> None:
    """Visit the containers level by level, so that depth is the number of rounds and no recursion is needed."""
    level: list[Any] = [top]
    count = 0
    shapes: dict[tuple[str, ...], bool] = {}
    for _depth in range(limits.depth):
        count += sum(map(len, level))
        if count > limits.keys:
            raise _invalid(f"more than {limits.keys} keys and values")
        values: list[Any] = []
        for container in level:
            if type(container) is list:
                values += container
                continue
            # Most objects of a report have the keys of another one, whose keys are known to be good.
            shape = tuple(container)
            plain = shapes.get(shape)
            if plain is None:
                plain = shapes[shape] = _keys_are_plain(shape, limits.key_length)
            if not plain:
                _clean_object(container)
            values += container.values()
        if check is not None:
            for value in values:
                check(value)
        level = [value for value in values if type(value) in _CONTAINERS]
        if not level:
            return
    raise _invalid(f"nested deeper than {limits.depth}")


def _keys_are_plain(keys: tuple[str, ...], key_length: int) -> bool:
    """Rules 4 and 6 for the keys of an object; False if rule 7 or 8 has work to do on objects with these keys."""
    together = "\n".join(keys)
    if len(together) > key_length and max(map(len, keys)) > key_length:
        raise _invalid(f"a key is longer than {key_length} characters")
    if "\0" in together or not _encodable(together):
        raise _invalid("a key holds NUL or half of a surrogate pair")
    return not ("." in together or "$" in together or json.SUFFIX in together)


def _clean_object(container: dict[str, Any]) -> None:
    """Rules 7 and 8 for one object."""
    if any("." in key or key.startswith("$") for key in container):
        _map_keys(container)
    json.revive_object(container)


def _map_keys(container: dict[str, Any]) -> None:
    items = [(_mapped(key), value) for key, value in container.items()]
    container_size = len(container)
    container.clear()
    container.update(items)
    if len(container) != container_size:
        raise _invalid("two keys of an object become the same")


def _mapped(key: str) -> str:
    key = key.replace(".", FULL_STOP)
    return DOLLAR + key[1:] if key.startswith("$") else key


def _check_value(value: Any) -> None:
    if type(value) is int:
        if value.bit_length() > INTEGER_BITS and value != -(1 << INTEGER_BITS):
            raise _invalid("an integer does not fit into 64 bits")
    elif type(value) is str and ("\0" in value or not _encodable(value)):
        raise _invalid("a text holds NUL or half of a surrogate pair")


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _invalid(message: str) -> Refusal:
    return Refusal("invalid", message)


def text_field(data: dict[str, Any], name: str, *, longest: int, optional: bool = False) -> str:
    """A text of an object, at most `longest` characters and without control characters; "" for one that is optional and
    null or missing.
    """
    value = data.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str) or not value or len(value) > longest or not value.isprintable():
        raise _invalid(f"{name} is missing, not a text, too long, or has control characters")
    return value


def integer_field(data: dict[str, Any], name: str, *, maximum: int = (1 << 63) - 1) -> int:
    """An integer of an object from 0 to `maximum`."""
    value = data.get(name)
    if type(value) is not int or not 0 <= value <= maximum:
        raise _invalid(f"{name} is missing or not an integer from 0 to {maximum}")
    return value


def object_field(data: dict[str, Any], name: str) -> dict[str, Any]:
    """An object within an object."""
    value = data.get(name)
    if not isinstance(value, dict):
        raise _invalid(f"{name} is missing or not an object")
    return value


_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def hostname_field(data: dict[str, Any]) -> str:
    """The host name, in lower case: RFC 1123 syntax, at most 253 characters."""
    value = data.get("hostname")
    if not isinstance(value, str) or len(value) > 253 or _HOSTNAME.fullmatch(value) is None:
        raise _invalid("hostname is not a host name (RFC 1123)")
    return value.lower()
