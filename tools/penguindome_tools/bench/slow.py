"""What 500 connections that are idle, or send one byte a second, do to everybody else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from penguindome_tools.bench.load import export_bundle, fleet, measure
from penguindome_tools.fleet.simulator import summary
from penguindome_tools.scratch_site import ScratchSite

CONNECTIONS = 500
HEAD = b"POST /penguindome/v1/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n"


class SlowCrowd:
    """Half of the connections say nothing; of the others every second one trickles its headers, and one its body."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self.done = threading.Event()
        self.sockets = [self._open(number) for number in range(CONNECTIONS)]
        self.thread = threading.Thread(target=self._trickle, daemon=True)
        self.thread.start()

    def _open(self, number: int) -> socket.socket:
        connection = socket.create_connection(self.address, timeout=10)
        if number % 4 == 1:
            connection.sendall(HEAD + b"X-Slow: ")
        elif number % 4 == 3:
            connection.sendall(HEAD + b"\r\n")
        return connection

    def _trickle(self) -> None:
        while not self.done.wait(1.0):
            for number, connection in enumerate(self.sockets):
                if number % 2:
                    self._send_byte(number, connection)

    def _send_byte(self, number: int, connection: socket.socket) -> None:
        try:
            connection.send(b"x", socket.MSG_DONTWAIT)
        except OSError:
            # The server hung up on it, as it should: a patient attacker comes again.
            connection.close()
            with contextlib.suppress(OSError):
                self.sockets[number] = self._open(number)

    def close(self) -> None:
        """Hang up all of them."""
        self.done.set()
        self.thread.join()
        for connection in self.sockets:
            connection.close()


def measure_slow(site: ScratchSite, seconds: float) -> Iterator[dict[str, Any]]:
    """A row without and one with the slow crowd."""
    with site.server():
        bundle = export_bundle(site)
        devices = fleet(bundle, 32)
        yield {"slow_connections": 0, **summary(measure(bundle, devices, "submit", 8, seconds), seconds)}
        address = urlsplit(bundle.server_url)
        crowd = SlowCrowd(address.hostname or "localhost", address.port or 80)
        try:
            tally = measure(bundle, devices, "submit", 8, seconds)
            yield {"slow_connections": CONNECTIONS, **summary(tally, seconds)}
        finally:
            crowd.close()
