"""An SMTP server for tests: takes mail by the rules of RFC 5321, or refuses it, and keeps what it took."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any


@dataclass
class SmtpPeer:
    """The server: its port, and the mails with their envelopes. A `refusal` is the answer to each recipient."""

    port: int = 0
    refusal: str = ""
    mails: list[EmailMessage] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)


@contextmanager
def smtp_peer() -> Iterator[SmtpPeer]:
    """A running server on the loopback."""
    peer = SmtpPeer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _converse(peer, self)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        peer.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield peer
        finally:
            server.shutdown()
            thread.join()


def _converse(peer: SmtpPeer, connection: Any) -> None:
    def say(text: str) -> None:
        connection.wfile.write(f"{text}\r\n".encode())

    say("220 test")
    recipients: list[str] = []
    for line in connection.rfile:
        verb = line.split()[0].upper()
        if verb == b"RCPT" and peer.refusal:
            say(peer.refusal)
        elif verb == b"RCPT":
            recipients.append(line.decode().partition(":")[2].strip().strip("<>"))
            say("250 ok")
        elif verb == b"DATA":
            say("354 go on")
            _keep(peer, connection, recipients)
            say("250 taken")
        elif verb == b"QUIT":
            say("221 bye")
            return
        else:
            say("250 ok")


def _keep(peer: SmtpPeer, connection: Any, recipients: list[str]) -> None:
    lines = []
    while (line := connection.rfile.readline()) not in (b".\r\n", b""):
        lines.append(line.removeprefix(b"."))
    raw = b"".join(lines)
    peer.raw.append(raw)
    peer.mails.append(email.message_from_bytes(raw, policy=email.policy.default))  # type: ignore[arg-type]  # typeshed
    peer.recipients.append(recipients)
