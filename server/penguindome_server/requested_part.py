"""Which part of a file a request gets: RFC 9110's conditions and ranges, as a decision without I/O.

Order: If-Match or If-Unmodified-Since, If-None-Match or If-Modified-Since, then Range if If-Range agrees. What cannot
be understood is as if it had not been said; of several ranges none is served, but all of the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)
_TAGS = re.compile(r'(W/)?("[^"]*")')


@dataclass(frozen=True)
class Part:
    """What is to be answered: 200 or 206 with these bytes, or 304, 412, 416 without any."""

    status: int
    offset: int = 0
    length: int = 0


def http_date(seconds: int) -> str:
    """A time as headers have it."""
    return formatdate(seconds, usegmt=True)


def choose(environ: Mapping[str, Any], *, size: int, etag: str, modified_at: int) -> Part:
    """The part of a file of `size` bytes. `etag` is strong and has its quotes, `modified_at` is in whole seconds."""
    if _is_another(environ, etag, modified_at):
        return Part(412)
    if _is_known(environ, etag, modified_at):
        return Part(304)
    wanted = str(environ.get("HTTP_RANGE", ""))
    if environ["REQUEST_METHOD"] != "GET" or not wanted or not _range_counts(environ, etag, modified_at):
        return Part(200, 0, size)
    return _range(wanted, size)


def _is_another(environ: Mapping[str, Any], etag: str, modified_at: int) -> bool:
    tags = environ.get("HTTP_IF_MATCH")
    if tags is not None:
        return tags.strip() != "*" and not any(not weak and tag == etag for weak, tag in _TAGS.findall(tags))
    since = _seconds(environ.get("HTTP_IF_UNMODIFIED_SINCE"))
    return since is not None and modified_at > since


def _is_known(environ: Mapping[str, Any], etag: str, modified_at: int) -> bool:
    tags = environ.get("HTTP_IF_NONE_MATCH")
    if tags is not None:
        return bool(tags.strip() == "*" or any(tag == etag for _, tag in _TAGS.findall(tags)))
    since = _seconds(environ.get("HTTP_IF_MODIFIED_SINCE"))
    return since is not None and modified_at <= since


def _range_counts(environ: Mapping[str, Any], etag: str, modified_at: int) -> bool:
    """Whether what the other end has a part of is still the same."""
    condition = environ.get("HTTP_IF_RANGE")
    if condition is None:
        return True
    condition = condition.strip()
    return bool(condition == etag if condition.endswith('"') else _seconds(condition) == modified_at)


def _range(text: str, size: int) -> Part:
    found = _RANGE.fullmatch(text.strip())
    if found is None or not (found[1] or found[2]):
        return Part(200, 0, size)
    if not found[1]:
        length = min(int(found[2]), size)
        return Part(206, size - length, length) if length else Part(416)
    first = int(found[1])
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    if found[2] and int(found[2]) < first:
        return Part(200, 0, size)
    return Part(206, first, last - first + 1) if first < size else Part(416)


def _seconds(text: str | None) -> int | None:
    if not text:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
