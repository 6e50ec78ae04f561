"""Answers on their way out: bytes, or regions of files, as fast as their readers take them and without a thread that
waits.

What one reader can hold is bounded: within each span of time it has to take a certain number of bytes, counted where
they left our socket's queue; while more than a number of large files are being read, new readers take the places of
those who are slower than a bad line is, or are told to come back; and a file is read piece by piece, from the disk
into the socket.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import termios
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome_server.connections import Connection

log = get_logger(__name__)

PIECE_BYTES = 16384  # one record of TLS: what could not be sent must be offered again as it was
SHARE_BYTES = 64 << 10
SMALL_BYTES = 256 << 10
WAITING_IN_SOCKET = 128 << 10
SLOWEST_BYTES_PER_SECOND = 500
PLACES = 400
CROWDED_BYTES_PER_SECOND = 16_000
SETTLED_SECONDS = 10.0


class FileRegion:
    """A part of an open file as the body of an answer: `length` bytes from `offset`. It owns the descriptor.

    Iterating yields the bytes, which is what any WSGI server does; ours sends them by itself. `ended` is told, once,
    how many bytes were sent and whether those were all.
    """

    def __init__(
        self, descriptor: int, offset: int, length: int, ended: Callable[[int, bool], None] = lambda _sent, _all: None
    ) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.left = length
        self.length = length
        self._ended: Callable[[int, bool], None] | None = ended

    def __iter__(self) -> Iterator[bytes]:
        while self.left:
            piece = self.read(PIECE_BYTES)
            if not piece:
                raise OSError("the file became shorter while it was being sent")
            self.took(len(piece))
            yield piece

    def read(self, size: int) -> bytes:
        """The next bytes, without passing over them."""
        return os.pread(self.descriptor, min(size, self.left), self.offset)

    def took(self, count: int) -> None:
        """So many of the next bytes are sent."""
        self.offset += count
        self.left -= count

    def close(self) -> None:
        """Close the file."""
        if self._ended is not None:
            ended, self._ended = self._ended, None
            os.close(self.descriptor)
            ended(self.length - self.left, self.left == 0)


class Outgoing:
    """One answer that is being sent: its bytes, and then the region of a file if it has one."""

    __slots__ = ("_data", "_position", "began", "broken", "checked", "done", "given", "keep", "region")

    def __init__(self, data: bytes, region: FileRegion | None = None, *, keep: bool) -> None:
        self._data = data
        self._position = 0
        self.region = region
        # Whether the connection may bring another request afterwards.
        self.keep = keep
        self.done = False
        self.broken = False
        self.given = 0
        # When sending began; and what had been taken when that was last looked at.
        self.began = time.monotonic()
        self.checked = 0

    @property
    def is_large(self) -> bool:
        """Whether this takes one of the places for large files."""
        return self.region is not None and self.region.length > SMALL_BYTES

    @property
    def held_bytes(self) -> int:
        """How many bytes this keeps in memory."""
        return len(self._data)

    def push(self, sock: socket.socket) -> None:
        """Send as much as the socket takes now, and not more than a fair share; then `done` or `broken` may be set.

        All sizes follow from the position alone: TLS wants what it could not send to be offered again unchanged.
        """
        until = self.given + SHARE_BYTES
        try:
            while self.given < until:
                if self._position < len(self._data):
                    self._send_data(sock)
                elif self.region is not None and self.region.left:
                    self._send_region(sock, self.region)
                else:
                    break
            self.done = not self._data and not (self.region is not None and self.region.left)
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        except OSError as error:  # SSLWantReadError too: who negotiates in the middle of an answer is no client
            log.debug("an answer was not taken: {}", error)
            self.broken = True

    def _send_data(self, sock: socket.socket) -> None:
        # Without TLS all of it is offered, as often as it takes.
        size = PIECE_BYTES if isinstance(sock, ssl.SSLSocket) else len(self._data)
        sent = sock.send(memoryview(self._data)[self._position : self._position + size])
        self._position += sent
        self.given += sent
        if self._position == len(self._data):
            self._data, self._position = b"", 0

    def _send_region(self, sock: socket.socket, region: FileRegion) -> None:
        if isinstance(sock, ssl.SSLSocket):
            piece = region.read(PIECE_BYTES)
            sent = sock.send(piece) if piece else 0
        else:
            sent = os.sendfile(sock.fileno(), region.descriptor, region.offset, min(SHARE_BYTES, region.left))
        if not sent:
            raise OSError("the file became shorter while it was being sent")
        region.took(sent)
        self.given += sent

    def taken(self, sock: socket.socket) -> int:
        """How many bytes the other end has acknowledged."""
        return self.given - _queued(sock)

    def close(self) -> None:
        """Let the file go."""
        self._data, self._position = b"", 0
        if self.region is not None:
            self.region.close()


class Readers:
    """The connections whose answers are being sent, with the time when each is looked at next."""

    def __init__(self, span_seconds: float) -> None:
        self._span_seconds = span_seconds
        self._looks: dict[Connection, float] = {}

    def __bool__(self) -> bool:
        return bool(self._looks)

    def __len__(self) -> int:
        return len(self._looks)

    def __contains__(self, connection: object) -> bool:
        return connection in self._looks

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._looks))

    def add(self, connection: Connection, now: float) -> None:
        """Begin to watch a connection."""
        self._looks[connection] = now + self._span_seconds

    def remove(self, connection: Connection) -> None:
        """Watch no more."""
        del self._looks[connection]

    def too_slow(self, now: float) -> list[Connection]:
        """Those that took too little since they were last looked at."""
        found = []
        for connection in [one for one, look in self._looks.items() if look <= now]:
            outgoing = connection.outgoing
            assert outgoing is not None
            taken = outgoing.taken(connection.sock)
            if taken - outgoing.checked < SLOWEST_BYTES_PER_SECOND * self._span_seconds:
                found.append(connection)
            outgoing.checked = taken
            self._looks[connection] = now + self._span_seconds
        return found

    def who_gives_way(self, now: float) -> Connection | None:
        """When all places for large files are taken: the slowest of their readers, if it is slow indeed."""
        slowest, least = None, float(CROWDED_BYTES_PER_SECOND)
        for connection in self._looks:
            outgoing = connection.outgoing
            if outgoing is not None and outgoing.is_large and now - outgoing.began >= SETTLED_SECONDS:
                rate = outgoing.taken(connection.sock) / (now - outgoing.began)
                if rate < least:
                    slowest, least = connection, rate
        return slowest

    def is_full(self) -> bool:
        """Whether all places for large files are taken."""
        if len(self._looks) < PLACES:
            return False
        return sum(one.outgoing is not None and one.outgoing.is_large for one in self._looks) >= PLACES


def hold_little(sock: socket.socket) -> None:
    """Keep the kernel from taking much more of a file than the line carries: that is memory, and progress comes late to
    be seen.
    """
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, WAITING_IN_SOCKET)
    except OSError:
        pass


def _queued(sock: socket.socket) -> int:
    """How many bytes wait in the socket's queue, sent but not acknowledged ones among them."""
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), "little")
    except OSError:
        return 0
