"""One connection of a worker: its socket, the bytes that have come, and until when what may happen. Non-blocking
throughout.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from penguindome import json
from penguindome_server.framing import BadRequest, Framing
from penguindome_server.sending import Outgoing

READ_BYTES = 65536
READ_AT_ONCE = 16
SLOWEST_BYTES_PER_SECOND = 500
LONGEST_EXTENSION = 600.0

_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Connection:
    """A connection of one client.

    `buffer` holds what came and was not handed on yet; `started` is when its first byte came since the connection was
    made or answered, be it only one of the empty lines that may precede a request.
    """

    __slots__ = (
        "accounted",
        "buffer",
        "framing",
        "fresh",
        "handshaking",
        "limit",
        "lingering",
        "memory",
        "outgoing",
        "peer",
        "pending",
        "server",
        "sock",
        "started",
    )

    def __init__(self, sock: socket.socket, peer: Any, server: Any, *, limit: int) -> None:
        self.sock = sock
        self.peer = peer
        self.server = server
        self.limit = limit
        self.buffer = bytearray()
        self.framing = Framing(limit)
        self.started: float | None = None
        self.handshaking = isinstance(sock, ssl.SSLSocket)
        self.lingering = False
        # Whoever connected a moment ago is about to ask; who was answered and asks nothing can connect anew.
        self.fresh = True
        # The whole request that is being answered, empty while none is.
        self.pending = b""
        # The answer that is being sent, if one is.
        self.outgoing: Outgoing | None = None
        # What requests of this connection leave for those that follow.
        self.memory: dict[str, Any] = {}
        # What the worker's budget knows of `held_bytes`.
        self.accounted = 0

    def receive(self) -> bool:
        """Take what has come, without waiting. False at the end of the stream. Raises OSError."""
        for _ in range(READ_AT_ONCE):
            try:
                piece = self.sock.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return True
            if not piece:
                return False
            if not self.lingering:
                self.buffer += piece
            # A TLS socket may hold decrypted bytes that no selector knows of, so it is read until it has none.
            if len(piece) < READ_BYTES and not (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()):
                return True
        return True

    def take_request(self) -> bool:
        """Whether a whole request is here; it is then moved to `pending`. Raises BadRequest."""
        end = self.framing.end(self.buffer) if self.buffer else None
        if end is None:
            return False
        self.pending = bytes(self.buffer[:end])
        del self.buffer[:end]
        self.framing = Framing(self.limit)
        return True

    def deadline(self, request_seconds: float) -> float:
        """Until when the rest of the request that has begun must be here."""
        assert self.started is not None
        return self.started + request_seconds + min(len(self.buffer) / SLOWEST_BYTES_PER_SECOND, LONGEST_EXTENSION)

    @property
    def held_bytes(self) -> int:
        """How many bytes from and for its client this keeps in memory."""
        outgoing = 0 if self.outgoing is None else self.outgoing.held_bytes
        return len(self.buffer) + len(self.pending) + outgoing

    def say(self, data: bytes) -> None:
        """Send a few bytes if the socket takes them at once; else they are lost, which a connection that is closed next
        survives.
        """
        try:
            self.sock.send(data)
        except OSError:
            pass

    def end_writing(self) -> None:
        """Tell the other end that nothing more will come, so that it reads the answer to the end."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """Close the socket, and the file that was being sent."""
        if self.outgoing is not None:
            self.outgoing.close()
        try:
            self.sock.close()
        except OSError:
            pass


class Output:
    """Stands for the socket where gunicorn writes an answer, and gathers it, so that it goes out in one piece."""

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        """Gather one piece."""
        self.pieces.append(bytes(data))

    def send(self, data: bytes) -> int:
        """Gather one piece."""
        self.pieces.append(bytes(data))
        return len(data)

    def answer(self) -> bytes:
        """All pieces."""
        return b"".join(self.pieces)


def refusal_answer(refusal: BadRequest) -> bytes:
    """The answer to bytes that never became a request of the application: in JSON like all others, and the last one of
    its connection.
    """
    body = json.dumps({"error": {"code": refusal.code, "message": refusal.message}}).encode()
    retry = "Retry-After: 15\r\n" if refusal.status == 503 else ""
    head = (
        f"HTTP/1.1 {refusal.status} {_REASONS[refusal.status]}\r\nConnection: close\r\n{retry}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body
