"""What a document may hold, the same for both engines.

A document is a dict of None, bool, int (64 bits, signed), float (finite), str (no lone surrogates), aware datetimes
(under keys that end in `_at`, nowhere else), list and dict. Keys are str without `.` and NUL, and do not begin with
`$`, as MongoDB wants them; at the top they are not empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from math import isfinite
from types import NoneType
from typing import Any

from penguindome.json import SUFFIX
from penguindome.times import isoformat, parse_iso
from penguindome_server.store import Document, StoreError
from penguindome_server.store.schema import CollectionSchema

MAX_DEPTH = 64
MAX_CHANGES = 30
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
SCALARS = frozenset((NoneType, bool, int, float, str, datetime))
OUTSIDE_THE_TEXT = ("_id", "_version")

_TYPES = SCALARS | {list, dict}
_MISSING = object()
_SIMPLE_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?")


def checked(document: Any, schema: CollectionSchema) -> Document:
    """The document itself, when it may be stored. Raises StoreError that names the place of what may not."""
    if type(document) is not dict:
        raise StoreError(f"{schema.name}: a document is a dict, not {kind_of(document)}")
    checked_key(document.get("_id"), schema.name)
    if not _looks_good(document):
        explain(document, schema.name)
    _check_unique(document, schema)
    return document


def checked_key(key: Any, collection: str) -> str:
    """The key itself, when it is a str that is not empty: nothing else, an operator least of all, reaches a query."""
    if type(key) is not str or not key:
        raise StoreError(f"{collection}: an _id is text that is not empty, not {kind_of(key)}")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"{collection}: an _id has a lone surrogate") from error
    return key


def checked_version(document: Mapping[str, Any]) -> int:
    """The `_version` of a document that was read from the store."""
    version = document.get("_version")
    if type(version) is not int or version < 1:
        raise StoreError(f"{document.get('_id')!r} has no _version: it was not read from the store")
    return version


@dataclass(frozen=True)
class Changes:
    """What makes one document of another: parts at the top and one level below, by dotted path."""

    written: Mapping[str, Any]
    removed: Sequence[str]


def checked_changes(before: Document, after: Document, schema: CollectionSchema) -> Changes | None:
    """The parts in which `after` differs, when they may be stored. What both share as one object is not looked into.

    None: not to be said in parts; the document has to be written whole, and checked by `checked`. Raises StoreError.
    """
    if after is before:
        return None
    written: dict[str, Any] = {}
    removed = [key for key in before if key not in after and key not in OUTSIDE_THE_TEXT]
    parts: Document = {"_id": after.get("_id")}
    for key, value in after.items():
        old = before.get(key, _MISSING)
        if _is_same(old, value) or key in OUTSIDE_THE_TEXT:
            continue
        if type(old) is dict and type(value) is dict:
            inner = {name: child for name, child in value.items() if not _is_same(old.get(name, _MISSING), child)}
            parts[key] = inner
            written.update((f"{key}.{name}", child) for name, child in inner.items())
            removed.extend(f"{key}.{name}" for name in old if name not in value)
        else:
            parts[key] = written[key] = value
    if not _looks_good(parts):
        explain(parts, schema.name)
    _check_unique(after, schema)
    simple = all(map(_SIMPLE_PATH.fullmatch, (*written, *removed)))
    return Changes(written, removed) if simple and len(written) + len(removed) <= MAX_CHANGES else None


def field_value(document: Mapping[str, Any], field: str) -> Any:
    """The value at a dotted path through dicts; None where there is none."""
    if "." not in field:
        return document.get(field)
    value: Any = document
    for name in field.split("."):
        if type(value) is not dict:
            return None
        value = value.get(name)
    return value


def _is_same(old: Any, new: Any) -> bool:
    """Whether nothing has to be written: the same object, or equal text, bool or null (numbers have several types)."""
    return old is new or (type(old) is str and type(new) is str and old == new)


def _looks_good(document: Document) -> bool:
    """A quick look, level by level; False says that `explain` has to find out."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        keys: list[Any] = []
        values: list[Any] = []
        for item in level:
            if type(item) is dict:
                keys.extend(item)
                values.extend(item.values())
            else:
                values.extend(item)
        kinds = set(map(type, values))
        if not (kinds <= _TYPES and _keys_look_good(keys) and _numbers_are_good(values, kinds)):
            return False
        if not _moments_look_good(level, keys, kinds):
            return False
        level = [value for value in values if type(value) is dict or type(value) is list]
        if not level:
            return "" not in document
    return False


def _keys_look_good(keys: list[Any]) -> bool:
    try:
        joined = "\n".join(keys)
    except TypeError:
        return False
    return not ("." in joined or "\0" in joined or "$" in joined)


def _numbers_are_good(values: list[Any], kinds: Iterable[type]) -> bool:
    if int in kinds:
        integers = [value for value in values if type(value) is int]
        if max(integers) > MAX_INTEGER or min(integers) < MIN_INTEGER:
            return False
    return float not in kinds or all(isfinite(value) for value in values if type(value) is float)


def _moments_look_good(level: list[Any], keys: list[str], kinds: Iterable[type]) -> bool:
    if datetime not in kinds and not any(key.endswith(SUFFIX) for key in keys if SUFFIX in key):
        return True
    for item in level:
        if type(item) is list:
            if any(type(value) is datetime for value in item):
                return False
        else:
            for key, value in item.items():
                # Spelt out: this loop sees every field of every document that is written.
                if (type(value) is datetime or key.endswith(SUFFIX)) and not _fits_its_key(key, value):
                    return False
    return True


def _fits_its_key(key: str, value: Any) -> bool:
    if type(value) is datetime:
        return key.endswith(SUFFIX) and _is_representable(value)
    return type(value) is not str or not key.endswith(SUFFIX) or parse_iso(value) is None


def _is_representable(moment: datetime) -> bool:
    if moment.tzinfo is timezone.utc:
        return True
    try:
        return parse_iso(isoformat(moment)) is not None
    except (TypeError, OverflowError):
        return False


def explain(document: Document, collection: str) -> None:
    """Raise a StoreError that names the first thing that may not be stored, if there is one."""
    pending: list[tuple[str, int, str, Any]] = [("", 1, "", document)]
    while pending:
        path, depth, key, value = pending.pop()
        problem = _problem_of_value(key, value, depth, inside_list=path.endswith("]"))
        if problem is None and type(value) is dict:
            problem = next(filter(None, (_problem_of_key(name, top=depth == 1) for name in value)), None)
        if problem:
            where = f": {path[:200]!r}" if path else ""
            raise StoreError(f"{collection}{where}: {problem}")
        if type(value) is dict:
            pending.extend((f"{path}.{name}".lstrip("."), depth + 1, name, child) for name, child in value.items())
        elif type(value) is list:
            pending.extend((f"{path}[{number}]", depth + 1, "", child) for number, child in enumerate(value))


def _problem_of_key(key: Any, *, top: bool) -> str | None:
    if type(key) is not str:
        return f"a key is text, not {kind_of(key)}"
    if "." in key or "\0" in key or key.startswith("$"):
        return f"the key {key[:100]!r} cannot be stored: no dots, no NUL, no $ in front"
    if not key and top:
        return "an empty key cannot be stored at the top"
    return None if is_unicode(key) else f"the key {key[:100]!r} has a lone surrogate"


def _problem_of_value(key: str, value: Any, depth: int, *, inside_list: bool) -> str | None:
    kind = type(value)
    if kind not in _TYPES:
        return f"{kind_of(value)} cannot be stored"
    if kind in (dict, list):
        return f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else None
    if kind is int and not MIN_INTEGER <= value <= MAX_INTEGER:
        return "an integer of more than 64 bits cannot be stored"
    if kind is float and not isfinite(value):
        return f"{value} cannot be stored"
    if kind is str and not is_unicode(value):
        return "text with a lone surrogate cannot be stored"
    if kind is datetime and (inside_list or not key.endswith(SUFFIX)):
        return f"a datetime is stored under a key that ends in {SUFFIX}, nowhere else"
    if kind is datetime and value.utcoffset() is None:
        return "a datetime without time zone cannot be stored"
    if not inside_list and not _fits_its_key(key, value):
        return f"{value!r} cannot be stored under {key[:100]!r}: a moment is an aware datetime"
    return None


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_unique(document: Document, schema: CollectionSchema) -> None:
    for index in schema.indexes:
        if index.unique and all(field_value(document, field) == value for field, value in index.where.items()):
            for field in index.fields:
                if field_value(document, field) is None:
                    raise StoreError(f"{schema.name}: {field} is missing, and it is part of a unique index")


def kind_of(value: Any) -> str:
    """What a value is, for a message."""
    if value == "":
        return "empty text"
    names: dict[type, str] = {NoneType: "null", dict: "a dict", list: "a list", str: "text"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
