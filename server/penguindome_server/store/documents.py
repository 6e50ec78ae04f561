"""The text of a document in the embedded store, and the parts of a document: values at dotted paths, projections."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from penguindome.json import SUFFIX
from penguindome.times import isoformat, parse_iso
from penguindome_server.store import Document, StoreError
from penguindome_server.store.rules import OUTSIDE_THE_TEXT, SCALARS, explain, field_value, is_unicode, kind_of
from penguindome_server.store.schema import CollectionSchema

MAX_BYTES = 1 << 20
MAX_BYTES_LARGE = 4 << 20
"""For a collection of large documents, and for a document while it carries an `outbox`."""

_LARGE_COLLECTIONS = frozenset(("packages",))


def encoded(document: Document, schema: CollectionSchema) -> str:
    """The JSON text of a checked document, without `_id` and `_version`. Raises StoreError when it is too large."""
    text = _text_of({key: value for key, value in document.items() if key not in OUTSIDE_THE_TEXT})
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        explain(document, schema.name)
        raise StoreError(f"{schema.name}: {document['_id']!r} has a lone surrogate") from error
    limit = size_limit(document, schema)
    if size > limit:
        raise StoreError(f"{schema.name}: {document['_id']!r} has {size} bytes, more than {limit} are not stored")
    return text


def text_of_part(path: str, value: Any, schema: CollectionSchema) -> str:
    """The JSON text of a checked part of a document. Raises StoreError for a lone surrogate."""
    text = _text_of(value)
    if not is_unicode(text):
        part: Document = {}
        place(part, path, value)
        explain(part, schema.name)
        raise StoreError(f"{schema.name}: {path!r} has a lone surrogate")
    return text


def decoded(key: str, version: int, text: str) -> Document:
    """The document that `encoded` made a text of. Raises StoreError for what is none."""
    try:
        value = _decode(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"the stored document {key!r} is damaged: {error}") from error
    if type(value) is not dict:
        raise StoreError(f"the stored document {key!r} is damaged: it is {kind_of(value)}")
    return {"_id": key, "_version": version, **value}


def decoded_part(field: str, text: str) -> Any:
    """The part of a document that lies at a dotted path, from its JSON text."""
    value = _decode(text)
    return _moment(value) or value if type(value) is str and field.endswith(SUFFIX) else value


def size_limit(document: Document, schema: CollectionSchema) -> int:
    """How many bytes of JSON this document may have."""
    return MAX_BYTES_LARGE if schema.name in _LARGE_COLLECTIONS or "outbox" in document else MAX_BYTES


def indexed_values(document: Document, schema: CollectionSchema) -> list[Any]:
    """The values of the schema's indexed fields, in its order. Raises StoreError for one that is not a scalar."""
    values = [field_value(document, field) for field in schema.indexed_fields]
    for field, value in zip(schema.indexed_fields, values, strict=True):
        if type(value) not in SCALARS:
            raise StoreError(f"{schema.name}: {field} is indexed and takes no {kind_of(value)}")
    return values


def projected(document: Document, fields: Sequence[str]) -> Document:
    """What of a document lies at these dotted paths, with `_id` and `_version`. A path does not lead into a list."""
    result: Document = {name: document[name] for name in OUTSIDE_THE_TEXT if name in document}
    for field in fields:
        *parents, name = field.split(".")
        source: Any = document
        for parent in parents:
            source = source.get(parent) if type(source) is dict else None
        if type(source) is dict and name in source:
            place(result, field, source[name])
    return result


def place(document: Document, field: str, value: Any) -> None:
    """Put a value at a dotted path, making the dicts on the way."""
    *parents, name = field.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[name] = value


def _decode(text: str) -> Any:
    """Parse a text that `encoded` made. How often a text lies under a key in `_at` shows in it, so the walk that
    converts those to datetimes ends with the last; the long lists further down are not entered.
    """
    value = _parse(text)
    left = text.count(f'{SUFFIX}":"')
    level: list[Any] = [value]
    while left and level:
        following: list[Any] = []
        for item in level:
            if type(item) is dict:
                if SUFFIX in "".join(item):
                    left -= _revive(item)
                following.extend(item.values())
            else:
                following.extend(item)
        level = [item for item in following if type(item) is dict or type(item) is list]
    return value


def _revive(item: dict[str, Any]) -> int:
    """Convert the texts under keys in `_at` of one dict; returns how many there were."""
    count = 0
    for key, value in item.items():
        if key.endswith(SUFFIX) and type(value) is str:
            count += 1
            item[key] = _moment(value) or value
    return count


def _moment(text: str) -> datetime | None:
    """What `parse_iso` says, at a tenth of the time for the form that we write."""
    if len(text) == 24 and text[10] == "T" and text[19] == "." and text[23] == "Z" and text[4] == text[7] == "-":
        try:
            return datetime.fromisoformat(f"{text[:23]}+00:00")
        except ValueError:
            return None
    return parse_iso(text)


_text_of: Callable[[Any], str] = json.JSONEncoder(
    default=isoformat, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode
_parse: Callable[[str], Any] = json.JSONDecoder().decode
