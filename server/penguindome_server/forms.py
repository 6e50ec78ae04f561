"""The body of a signed request: bounded reading, gunzip, and the two or three form fields with their exact bytes.

Rules, in order: no more than the limit is ever read, announced or not; no more than the limit ever comes out of gzip;
the body is `multipart/form-data` or `application/x-www-form-urlencoded`; it has the fields that the endpoint wants,
each once, and no other; no part is a file. A general form parser would spend more on a 15 kB report than its signature
costs, and accept much that no client of ours sends.
"""

from __future__ import annotations

import binascii
import re
import zlib
from collections.abc import Mapping
from typing import Any

from penguindome_server.refusals import Refusal

MAXIMUM_FIELDS = 8
MAXIMUM_PART_HEADERS = 1024
CHUNK = 65536

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,200})"|([^\s";,]{1,200}))', re.IGNORECASE)
_DISPOSITION = re.compile(
    rb'(?:^|\r\n)content-disposition:[ \t]*form-data;[ \t]*name="([a-z_]{1,32})"[ \t]*(?=\r\n|$)', re.IGNORECASE
)
_ENCODED = re.compile(rb"(?:^|\r\n)content-transfer-encoding:[ \t]*(?!7bit|8bit|binary)", re.IGNORECASE)


def read_form(environ: Mapping[str, Any], limit: int) -> dict[str, bytes]:
    """The form fields of a request. Raises Refusal: `too-large` or `malformed`."""
    body = _read_body(environ, limit)
    encoding = str(environ.get("HTTP_CONTENT_ENCODING", "")).strip().lower()
    if encoding in ("gzip", "x-gzip"):
        body = _gunzip(body, limit)
    elif encoding not in ("", "identity"):
        raise Refusal("malformed", "Content-Encoding is neither gzip nor absent")
    content_type = str(environ.get("CONTENT_TYPE", ""))
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _multipart(body, content_type)
    if kind == "application/x-www-form-urlencoded":
        return _urlencoded(body)
    raise Refusal("malformed", "Content-Type is neither multipart/form-data nor application/x-www-form-urlencoded")


def _read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    announced = environ.get("CONTENT_LENGTH")
    if announced:
        if not str(announced).isdecimal():
            raise Refusal("malformed", "Content-Length is not a number")
        if int(announced) > limit:
            raise _too_large(limit)
    stream = environ["wsgi.input"]
    if announced:
        body: bytes = stream.read(int(announced))
        if len(body) != int(announced):
            raise Refusal("malformed", "the body is shorter than Content-Length says")
        return body
    pieces: list[bytes] = []
    total = 0
    while piece := stream.read(CHUNK):
        total += len(piece)
        if total > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _gunzip(body: bytes, limit: int) -> bytes:
    decompressor = zlib.decompressobj(wbits=31)
    try:
        data = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refusal("malformed", "the body is not gzip") from error
    if len(data) > limit:
        raise _too_large(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise Refusal("malformed", "the body is not one whole gzip stream")
    return data


def _urlencoded(body: bytes) -> dict[str, bytes]:
    if body.count(b"&") >= MAXIMUM_FIELDS:
        raise Refusal("malformed", "too many form fields")
    fields: dict[str, bytes] = {}
    for pair in body.split(b"&"):
        name, equals, value = pair.partition(b"=")
        if not equals:
            raise Refusal("malformed", "a form field has no value")
        _add(fields, _unquoted(name), _unquoted(value))
    return fields


def _unquoted(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    if _BAD_ESCAPE.search(text):
        raise Refusal("malformed", "a form field has a broken escape")
    # Quoted-printable with another escape character: the one such decoder of the standard library that is written in C.
    return binascii.a2b_qp(text.replace(b"=", b"=3D").replace(b"%", b"="))


def _multipart(body: bytes, content_type: str) -> dict[str, bytes]:
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Refusal("malformed", "multipart/form-data without a boundary")
    try:
        delimiter = b"--" + (found[1] or found[2]).encode("ascii")
    except UnicodeEncodeError as error:
        raise Refusal("malformed", "the boundary is not ASCII") from error
    if not body.startswith(delimiter + b"\r\n"):
        raise Refusal("malformed", "the body does not begin with its boundary")
    parts = body[len(delimiter) :].split(b"\r\n" + delimiter, MAXIMUM_FIELDS + 1)
    if len(parts) > MAXIMUM_FIELDS + 1:
        raise Refusal("malformed", "too many form fields")
    if parts.pop() not in (b"--\r\n", b"--"):
        raise Refusal("malformed", "the body does not end with its boundary")
    fields: dict[str, bytes] = {}
    for part in parts:
        _add_part(fields, part)
    return fields


def _add_part(fields: dict[str, bytes], part: bytes) -> None:
    end = part.find(b"\r\n\r\n", 0, MAXIMUM_PART_HEADERS)
    if end < 0 or not part.startswith(b"\r\n"):
        raise Refusal("malformed", "a part of the form has no headers, or too many")
    headers = part[2:end]
    name = _DISPOSITION.search(headers)
    if name is None or _ENCODED.search(headers):
        raise Refusal("malformed", "a part of the form is not a plain field")
    _add(fields, name[1], part[end + 4 :])


def _add(fields: dict[str, bytes], name: bytes, value: bytes) -> None:
    key = name.decode("latin-1")
    if key in fields:
        raise Refusal("malformed", "a form field is repeated")
    fields[key] = value


def require_fields(fields: Mapping[str, bytes], names: frozenset[str]) -> None:
    """Raise Refusal unless the form has exactly these fields."""
    if fields.keys() != names:
        missing = sorted(names - fields.keys())
        what = (
            f"the form lacks the field {missing[0]}" if missing else "the form has a field that does not belong there"
        )
        raise Refusal("malformed", what)


def _too_large(limit: int) -> Refusal:
    return Refusal("too-large", f"the body is larger than {limit} bytes", limit=limit)
