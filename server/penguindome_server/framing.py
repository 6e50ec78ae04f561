"""Where a request ends in the bytes of a connection, found as they come, without I/O.

A request is handed on when it is here whole, and refused as soon as it can be seen that it is not one of HTTP/1, or too
large. What this accepts is then parsed by gunicorn, which is as strict or stricter, from exactly these bytes: a
disagreement about where a request ends cannot make one request out of two.
"""

from __future__ import annotations

import re

MAXIMUM_HEADERS = 32768
MAXIMUM_CHUNK_LINE = 256
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_FRAMING_HEADER = re.compile(rb"\r\n(content-length|transfer-encoding|expect)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect[ \t]*:[^\r\n]*", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")


class BadRequest(Exception):
    """The bytes are refused with this HTTP status and code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Framing:
    """Follows the bytes of one request. `expects_continue`: the client waits for leave to send its body."""

    def __init__(self, body_limit: int) -> None:
        self._body_limit = body_limit
        self._scanned = 0
        self._body_start = 0
        self._end: int | None = None
        self._chunk_at: int | None = None
        self._chunked_bytes = 0
        self.expects_continue = False

    def end(self, buffer: bytearray) -> int | None:
        """How many bytes of `buffer` are the request, or None as long as more has to come. Raises BadRequest."""
        if not self._body_start:
            self._find_body(buffer)
        if self._chunk_at is not None:
            self._follow_chunks(buffer)
        return self._end if self._end is not None and len(buffer) >= self._end else None

    def _find_body(self, buffer: bytearray) -> None:
        if not self._scanned:
            while buffer.startswith(b"\r\n"):
                del buffer[:2]
        found = buffer.find(b"\r\n\r\n", max(self._scanned - 3, 0), MAXIMUM_HEADERS)
        self._scanned = len(buffer)
        if found < 0:
            if len(buffer) >= MAXIMUM_HEADERS:
                raise BadRequest(431, "malformed", f"the headers are longer than {MAXIMUM_HEADERS} bytes")
            return
        self._body_start = found + 4
        head = bytes(buffer[:found])
        headers = [(name.lower(), value.strip()) for name, value in _FRAMING_HEADER.findall(head)]
        lengths = [value for name, value in headers if name == b"content-length"]
        codings = [value for name, value in headers if name == b"transfer-encoding"]
        if len(lengths) + len(codings) > 1 or any(value.lower() != b"chunked" for value in codings):
            raise BadRequest(400, "malformed", "it is not clear where the body ends")
        if codings:
            self._chunk_at = self._body_start
        else:
            self._end = self._body_start + self._length(lengths)
        if any(name == b"expect" for name, _ in headers):
            self._drop_expect(buffer, head)

    def _length(self, lengths: list[bytes]) -> int:
        if not lengths:
            return 0
        if not lengths[0].isdigit() or len(lengths[0]) > 18:
            raise BadRequest(400, "malformed", "Content-Length is not a number")
        length = int(lengths[0])
        if length > self._body_limit:
            raise BadRequest(413, "too-large", f"the body is larger than {self._body_limit} bytes")
        return length

    def _drop_expect(self, buffer: bytearray, head: bytes) -> None:
        """The expectation is met here, so it is taken out of what is handed on."""
        self.expects_continue = True
        rest = _EXPECT.sub(b"", head)
        gone = len(head) - len(rest)
        buffer[: len(head)] = rest
        self._body_start -= gone
        if self._end is not None:
            self._end -= gone
        if self._chunk_at is not None:
            self._chunk_at -= gone

    def _follow_chunks(self, buffer: bytearray) -> None:
        while self._chunk_at is not None and self._chunk_at < len(buffer):
            line_end = buffer.find(b"\r\n", self._chunk_at, self._chunk_at + MAXIMUM_CHUNK_LINE)
            if line_end < 0:
                if len(buffer) - self._chunk_at >= MAXIMUM_CHUNK_LINE:
                    raise BadRequest(400, "malformed", "a chunk has no size")
                return
            size = _CHUNK_SIZE.fullmatch(buffer, self._chunk_at, line_end)
            if size is None:
                raise BadRequest(400, "malformed", "a chunk has no size")
            length = int(size[1], 16)
            if length == 0:
                self._find_trailers_end(buffer, line_end)
                return
            self._chunked_bytes += length
            if self._chunked_bytes > self._body_limit:
                raise BadRequest(413, "too-large", f"the body is larger than {self._body_limit} bytes")
            self._chunk_at = line_end + 2 + length + 2

    def _find_trailers_end(self, buffer: bytearray, line_end: int) -> None:
        """The last chunk's line ends at `line_end`; trailers, if any, end with an empty line."""
        found = buffer.find(b"\r\n\r\n", line_end)
        if found >= 0:
            self._end = found + 4
            self._chunk_at = None
        elif len(buffer) - line_end > MAXIMUM_HEADERS:
            raise BadRequest(431, "malformed", "the trailers are too long")
