"""Clients that take an answer slowly, or not at all, hold nobody else up, cost little memory, and do not stay."""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penguindome_tools.scratch_site import free_port
from published import publish
from web_server import PREFIX, Server, certificate, until

PACKAGE = os.urandom(1 << 20) * 20
MEDIUM = PACKAGE[: 4 << 20]
PATH = "repo/apt/pool/main/large.deb"
CROWD = 500
PLACES = 400


def request(path: str = PATH, *lines: str) -> bytes:
    return "\r\n".join([f"GET {PREFIX}{path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two threads, whose deadlines are long; tests leave it working."""
    yield from serving(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with short deadlines."""
    yield from serving(tmp_path_factory.mktemp("impatient"), timeouts__answer="2s")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with TLS on a second port, `ports[0]`."""
    root = tmp_path_factory.mktemp("secure")
    crt, key = certificate(root, "own")
    yield from serving(root, ports={free_port(): {"certificate": str(crt), "key": str(key)}})


def serving(root: Path, **settings: object) -> Iterator[Server]:
    server = Server(root, f"sqlite://{root}/store.sqlite")
    settings = {"timeouts__answer": "10m", **settings}
    publish(server.paths.repository, 1, {"apt/pool/main/large.deb": PACKAGE, "apt/pool/main/medium.deb": MEDIUM})
    try:
        yield server.start(
            workers=1, threads=2, enrolment__policy="automatic", metrics__ipranges=["127.0.0.1"], **settings
        )
    finally:
        server.kill()


def connect(server: Server, port: int | None = None) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port or server.port))
    return connection


def connect_secure(server: Server) -> ssl.SSLSocket:
    ((port, files),) = server.settings["ports"].items()
    context = ssl.create_default_context(cafile=files["certificate"])
    context.check_hostname = False
    return context.wrap_socket(connect(server, port))


def read_all(connection: socket.socket, *, at_once: int = 65536) -> bytes:
    pieces = []
    try:
        while piece := connection.recv(at_once):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def memory(server: Server) -> int:
    """The resident bytes of the worker."""
    (worker,) = server.workers()
    return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(server: Server) -> int:
    """How many files of the publication the worker has open."""
    (worker,) = server.workers()
    return sum("/publications/" in target for target in map(_target, Path(f"/proc/{worker}/fd").iterdir()))


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


def report_past(server: Server, downloads: int) -> None:
    """Report often, and assert that so many downloads are under way after each."""
    device = server.enrolled(f"host-{time.monotonic_ns()}")
    for _ in range(20):
        assert device.submit().status_code == 200
        assert open_files(server) == downloads


def test_many_slow_downloads_delay_no_report_and_hold_no_file_in_memory(plain: Server) -> None:
    before = memory(plain)
    crowd = [connect(plain) for _ in range(CROWD)]
    for connection in crowd:
        connection.sendall(request())
    until(lambda: open_files(plain) == PLACES)
    report_past(plain, PLACES)
    # Those for whom there was no place were told so, and when to come back.
    answers = [connection.recv(1000) for connection in crowd]
    refused = [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200 ")]
    assert len(refused) == CROWD - PLACES
    assert all(answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in answer for answer in refused)
    assert memory(plain) - before < CROWD * len(PACKAGE) / 100
    for connection in crowd:
        connection.close()
    until(lambda: open_files(plain) == 0)


def test_readers_as_fast_as_the_machine_delay_no_report_either(plain: Server) -> None:
    crowd = [connect(plain) for _ in range(40)]
    poller = select.epoll()
    for connection in crowd:
        connection.sendall(request())
        connection.setblocking(False)
        poller.register(connection, select.EPOLLIN)
    by_number = {connection.fileno(): connection for connection in crowd}
    device = plain.enrolled("beside-fast-ones")
    for _ in range(5):
        for _ in range(50):
            for number, _event in poller.poll(0):
                by_number[number].recv(1 << 20)
        assert device.submit().status_code == 200
    poller.close()
    for connection in crowd:
        connection.close()
    until(lambda: open_files(plain) == 0)


def test_slow_downloads_over_tls_delay_no_report(secure: Server) -> None:
    crowd = [connect_secure(secure) for _ in range(60)]
    for connection in crowd:
        connection.sendall(request())
    until(lambda: open_files(secure) == 60)
    report_past(secure, 60)
    connection = crowd.pop()
    head, _, body = connection.recv(20_000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    while len(body) < len(PACKAGE):
        body += connection.recv(1 << 20)
    assert body == PACKAGE
    for each in (connection, *crowd):
        each.close()
    until(lambda: open_files(secure) == 0)


def test_a_reader_that_takes_nothing_is_ended_and_its_file_closed(impatient: Server) -> None:
    with connect(impatient) as idle:
        idle.sendall(request())
        until(lambda: open_files(impatient) == 1)
        until(lambda: open_files(impatient) == 0)
        assert len(read_all(idle)) < len(PACKAGE)
    assert impatient.answers()


def test_a_steady_reader_may_take_longer_than_the_deadline(impatient: Server) -> None:
    with connect(impatient) as slow:
        slow.sendall(request("repo/apt/pool/main/medium.deb", "Connection: close"))
        start = time.monotonic()
        received = bytearray()
        pace = len(MEDIUM) / 5
        while piece := slow.recv(65536):
            received += piece
            # No faster than the whole in five seconds.
            select.select([], [], [], max(0.0, len(received) / pace - (time.monotonic() - start)))
        assert received.partition(b"\r\n\r\n")[2] == MEDIUM


def test_requests_behind_a_download_are_answered_in_order(plain: Server) -> None:
    with connect(plain) as connection:
        missing = request("repo/apt/nothing")
        connection.sendall(
            request() + missing + request(PATH, "Range: bytes=-5") + request("healthz", "Connection: close")
        )
        answer = read_all(connection)
    first, second, third, fourth = answer.split(b"HTTP/1.1 ")[1:] if answer.count(b"HTTP/1.1 ") == 4 else [b""] * 4
    assert first.startswith(b"200 ")
    assert first.endswith(PACKAGE)
    assert second.startswith(b"404 ")
    assert third.startswith(b"206 ")
    assert third.endswith(PACKAGE[-5:])
    assert fourth.startswith(b"200 ")


def test_a_download_under_way_is_finished_when_the_server_ends(server: Server) -> None:
    publish(server.paths.repository, 1, {"apt/pool/main/large.deb": PACKAGE})
    server.start(workers=1)
    with connect(server) as connection:
        connection.sendall(request())
        received = connection.recv(1000)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "Handling signal: term" in server.log())
        received += read_all(connection)
        assert received.partition(b"\r\n\r\n")[2] == PACKAGE
    assert server.process.wait(timeout=30) == 0
