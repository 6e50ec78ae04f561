"""Answers on their way out, over real sockets."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penguindome_server.connections import Connection
from penguindome_server.sending import (
    CROWDED_BYTES_PER_SECOND,
    PLACES,
    SETTLED_SECONDS,
    SHARE_BYTES,
    SMALL_BYTES,
    FileRegion,
    Outgoing,
    Readers,
)
from web_server import certificate, until

CONTENTS = os.urandom(3_000_000)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection; the first does not block, the second takes little at once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            other.settimeout(20)
            other.connect(listener.getsockname())
            ours, _ = listener.accept()
            with ours:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
                ours.setblocking(False)
                yield ours, other


@pytest.fixture
def tls_pair(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The same with TLS."""
    crt, key = certificate(tmp_path, "own")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(crt))
    server.load_cert_chain(crt, key)
    client.check_hostname = False
    ours = server.wrap_socket(pair[0], server_side=True, do_handshake_on_connect=False)
    found: list[socket.socket] = []
    thread = threading.Thread(target=lambda: found.append(client.wrap_socket(pair[1])))
    thread.start()

    def shaken() -> bool:
        try:
            ours.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    until(shaken)
    thread.join()
    with ours, found[0]:
        yield ours, found[0]


def opened(tmp_path: Path, contents: bytes = CONTENTS) -> int:
    path = tmp_path / "file"
    path.write_bytes(contents)
    return os.open(path, os.O_RDONLY)


def transfer(outgoing: Outgoing, pair: tuple[socket.socket, socket.socket]) -> bytes:
    """Push whenever the socket takes something, while another thread reads; what it read."""
    ours, other = pair
    received = bytearray()

    def read() -> None:
        while piece := other.recv(50_000):
            received.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    while not outgoing.done and not outgoing.broken:
        given, held = outgoing.given, outgoing.held_bytes
        outgoing.push(ours)
        assert outgoing.given - given <= max(2 * SHARE_BYTES, held)
        select.select([], [ours], [], 20)
    ours.shutdown(socket.SHUT_WR)
    reader.join()
    return bytes(received)


@pytest.fixture(params=["pair", "tls_pair"])
def any_pair(request: pytest.FixtureRequest) -> tuple[socket.socket, socket.socket]:
    found: tuple[socket.socket, socket.socket] = request.getfixturevalue(request.param)
    return found


def test_a_head_and_a_region_arrive_as_they_are_though_the_socket_takes_little_at_once(
    any_pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ends: list[tuple[int, bool]] = []
    region = FileRegion(opened(tmp_path), 1000, 2_000_000, lambda sent, everything: ends.append((sent, everything)))
    outgoing = Outgoing(b"head" * 10_000, region, keep=True)
    assert transfer(outgoing, any_pair) == b"head" * 10_000 + CONTENTS[1000:2_001_000]
    outgoing.close()
    outgoing.close()
    assert ends == [(2_000_000, True)]


def test_bytes_larger_than_the_socket_takes_arrive_whole(any_pair: tuple[socket.socket, socket.socket]) -> None:
    assert transfer(Outgoing(CONTENTS, keep=True), any_pair) == CONTENTS


def test_a_file_that_became_shorter_breaks_the_answer_off(
    any_pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ends: list[tuple[int, bool]] = []
    region = FileRegion(opened(tmp_path, b"short"), 0, 10, lambda sent, everything: ends.append((sent, everything)))
    outgoing = Outgoing(b"head", region, keep=True)
    outgoing.push(any_pair[0])
    assert (outgoing.broken, outgoing.done) == (True, False)
    outgoing.close()
    assert ends == [(5, False)]


def test_a_reader_that_is_gone_breaks_the_answer_off(pair: tuple[socket.socket, socket.socket]) -> None:
    outgoing = Outgoing(CONTENTS, keep=True)
    pair[1].close()

    def pushed() -> bool:
        outgoing.push(pair[0])
        return outgoing.broken

    until(pushed)


def test_any_other_server_can_send_a_region_too(tmp_path: Path) -> None:
    region = FileRegion(opened(tmp_path), 5, 100_000)
    assert b"".join(region) == CONTENTS[5:100_005]
    region.close()


def reading(pair: tuple[socket.socket, socket.socket], outgoing: Outgoing) -> Connection:
    connection = Connection(pair[0], ("127.0.0.1", 1), ("127.0.0.1", 2), limit=1000)
    connection.outgoing = outgoing
    return connection


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Callable[[], Outgoing]]:
    made: list[Outgoing] = []

    def make() -> Outgoing:
        made.append(Outgoing(b"", FileRegion(opened(tmp_path), 0, SMALL_BYTES + 1), keep=True))
        return made[-1]

    yield make
    for outgoing in made:
        outgoing.close()


def test_progress_is_what_the_reader_took_and_not_what_the_kernel_did(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    readers, outgoing = Readers(30), Outgoing(CONTENTS, keep=True)
    connection = reading(pair, outgoing)
    readers.add(connection, 100)
    outgoing.push(pair[0])
    assert readers.too_slow(129) == []
    until(lambda: outgoing.taken(pair[0]) > 0)
    # What fits into the reader's own buffers is taken; after that nothing is.
    readers.too_slow(131)
    outgoing.push(pair[0])
    assert readers.too_slow(162) == [connection]
    taken = len(pair[1].recv(50_000))
    while taken < 50_000:
        outgoing.push(pair[0])
        taken += len(pair[1].recv(50_000))
    until(lambda: outgoing.taken(pair[0]) > 50_000)
    assert readers.too_slow(193) == []


def test_when_all_places_are_taken_the_slowest_reader_gives_way_if_it_is_slow(
    pair: tuple[socket.socket, socket.socket], large: Callable[[], Outgoing]
) -> None:
    readers = Readers(30)
    now = 1000.0
    crowd = [reading(pair, large()) for _ in range(PLACES)]
    for number, connection in enumerate(crowd):
        assert connection.outgoing is not None
        assert not readers.is_full()
        connection.outgoing.began = now - SETTLED_SECONDS
        connection.outgoing.given = int(CROWDED_BYTES_PER_SECOND * SETTLED_SECONDS) + number
        readers.add(connection, now)
    assert readers.is_full()
    assert readers.who_gives_way(now) is None
    slow, slower = crowd[7], crowd[9]
    for connection, given in ((slow, 100_000), (slower, 50_000)):
        assert connection.outgoing is not None
        connection.outgoing.given = given
    assert readers.who_gives_way(now) is slower
    # Who has only begun cannot be judged yet.
    assert slower.outgoing is not None
    slower.outgoing.began = now - 1
    assert readers.who_gives_way(now) is slow
    readers.remove(slow)
    assert not readers.is_full()
