"""The sockets that the server listens on, made before anything else, so that a port in use is one clear line."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from penguindome.errors import PenguinDomeError

BACKLOG = 1024
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def listen_all(address: str, ports: Iterable[int]) -> list[socket.socket]:
    """A listening socket for each port. Raises PenguinDomeError for the first that cannot be had; none is open then."""
    listeners: list[socket.socket] = []
    try:
        for port in ports:
            listeners.append(listen(address, port))  # noqa: PERF401  those before a failure are closed
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def listen(address: str, port: int) -> socket.socket:
    """A listening socket. `::` takes IPv4 too, or IPv4 alone where there is no IPv6. Raises PenguinDomeError."""
    try:
        return _listen(address, port)
    except OSError as error:
        if address == "::" and error.errno in _NO_IPV6:
            return listen("0.0.0.0", port)  # noqa: S104  the administrator asked for all addresses
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        hint = {
            errno.EADDRINUSE: "another program has it; see: ss -ltnp, or change listen.port or ports",
            errno.EADDRNOTAVAIL: "set listen.address to an address of this machine",
            errno.EACCES: "ports below 1024 need a privilege, which `penguindome setup` gives the service",
        }.get(error.errno or 0)
        raise PenguinDomeError(f"cannot listen on {shown}: {error.strerror or error}", hint=hint) from error


def _listen(address: str, port: int) -> socket.socket:
    family, kind, protocol, _name, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
