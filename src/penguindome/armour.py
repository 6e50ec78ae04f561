"""The outside of OpenPGP data: ASCII armour and packet headers (RFC 4880, sections 4.2 and 6.2), read strictly.

Looked at before a library sees a byte, so that what is not exactly one signature or one certificate goes no further.
Nothing is interpreted, decompressed or decrypted here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

SIGNATURE, SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY, USER_ID, PUBLIC_SUBKEY, USER_ATTRIBUTE = 2, 5, 6, 7, 13, 14, 17
"""Tags of packets (RFC 4880, section 4.3)."""

_ARMOUR = re.compile(
    rb"\s*-----BEGIN PGP ([A-Z ]+)-----[ \t]*\r?\n"
    rb"(?:[A-Za-z]+: [^\r\n]*\r?\n)*[ \t]*\r?\n"
    rb"([A-Za-z0-9+/\r\n]+={0,2})"
    rb"(?:\r?\n=[A-Za-z0-9+/]{4})?[ \t]*\r?\n"
    rb"-----END PGP \1-----\s*"
)


def contents(text: str | bytes, kind: str, *, limit: int) -> bytes:
    """The bytes inside one armour of this kind (`SIGNATURE`), with nothing but white space around it.

    Raises ValueError, with a text that repeats nothing of the data, for anything else or more than `limit` bytes.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(data) > limit:
        raise ValueError(f"it is longer than {limit} bytes")
    found = _ARMOUR.fullmatch(data)
    if not found or found[1] != kind.encode("ascii"):
        raise ValueError(f"expected one armoured {kind.lower()} and nothing else")
    try:
        return base64.b64decode(b"".join(found[2].split()), validate=True)
    except binascii.Error as error:
        raise ValueError("its base64 is damaged") from error


def tags(raw: bytes) -> list[int]:
    """The tags of the packets in order. Raises ValueError unless all lengths are definite and add up."""
    return [tag for tag, _ in packets(raw)]


def packets(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The packets as (tag, body). Raises ValueError as `tags` does."""
    at = 0
    while at < len(raw):
        tag, start, length = _header(raw, at)
        if start + length > len(raw):
            raise ValueError("an OpenPGP packet is cut short")
        yield tag, raw[start : start + length]
        at = start + length


def _header(raw: bytes, at: int) -> tuple[int, int, int]:
    """Tag, where the body starts, and its length."""
    first = raw[at]
    if not first & 0x80:
        raise ValueError("this is not OpenPGP data")
    header = raw[at + 1 : at + 6].ljust(5, b"\xff")
    if not first & 0x40:
        size = {0: 1, 1: 2, 2: 4}.get(first & 3)
        if size is None:
            raise ValueError("an OpenPGP packet has no definite length")
        return (first >> 2) & 15, at + 1 + size, int.from_bytes(header[:size], "big")
    tag, length = first & 63, header[0]
    if length < 192:
        return tag, at + 2, length
    if length < 224:
        return tag, at + 3, ((length - 192) << 8) + header[1] + 192
    if length == 255:
        return tag, at + 6, int.from_bytes(header[1:5], "big")
    raise ValueError("an OpenPGP packet has no definite length")
