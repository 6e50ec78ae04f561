"""Clients that send nothing, or a byte a second, hold nobody else up and do not stay."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from web_server import PREFIX, Server, refused, until

GET = f"GET {PREFIX}healthz HTTP/1.1\r\nHost: a\r\n\r\n".encode()
SLOW = 120


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two threads and short deadlines; tests leave it working."""
    root = tmp_path_factory.mktemp("slow")
    server = Server(root, f"sqlite://{root}/store.sqlite")
    settings = {"workers": 1, "threads": 2, "timeouts__request": "3s", "timeouts__keepalive": "2s"}
    try:
        yield server.start(**settings, enrolment__policy="automatic")
    finally:
        server.kill()


def connect(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.settimeout(60)
    return connection


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def test_many_idle_and_dripping_connections_do_not_delay_a_report(server: Server) -> None:
    server.start(
        workers=1, threads=2, timeouts__request="10m", timeouts__keepalive="10m", enrolment__policy="automatic"
    )
    device = server.enrolled()
    idle = [connect(server) for _ in range(SLOW)]
    dripping = [connect(server) for _ in range(SLOW)]
    half = f"POST {PREFIX}submit HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n".encode()
    for number, connection in enumerate(dripping):
        connection.sendall(half if number % 2 else half[:20])
    for _ in range(20):
        for connection in dripping[:20]:
            connection.sendall(b"x")
        assert device.submit().status_code == 200
    for connection in idle + dripping:
        connection.setblocking(False)
        # It waits there still.
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.close()


def test_a_request_that_does_not_arrive_in_time_is_ended_with_408(slow_server: Server) -> None:
    with connect(slow_server) as connection:
        connection.sendall(GET[:-2])
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"request-timeout"' in answer


def test_dripping_bytes_does_not_buy_time(slow_server: Server) -> None:
    with connect(slow_server) as connection:
        connection.settimeout(0.2)
        answer = b""
        for byte in GET * 50:
            try:
                connection.sendall(bytes([byte | 0x80]))
                answer += connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if answer:
                break
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("answered_before", [False, True])
def test_empty_lines_before_a_request_do_not_buy_time_either(slow_server: Server, *, answered_before: bool) -> None:
    with connect(slow_server) as connection:
        if answered_before:
            connection.sendall(GET)
            assert b" 200 OK" in connection.recv(65536)
        connection.settimeout(0.2)

        def ended() -> bool:
            try:
                connection.sendall(b"\r\n")
                return connection.recv(65536) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        until(ended, what="the end of the connection")


def test_a_connection_that_sends_nothing_is_closed(slow_server: Server) -> None:
    with connect(slow_server) as connection:
        assert read_all(connection) == b""
    with connect(slow_server) as connection:
        connection.sendall(GET)
        assert b" 200 OK" in connection.recv(65536)
        assert read_all(connection) == b""


def test_requests_in_pieces_and_several_at_once_are_answered_in_order(slow_server: Server) -> None:
    with connect(slow_server) as connection:
        for byte in GET:
            connection.sendall(bytes([byte]))
        reader = connection.makefile("rb")
        assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
    missing = b"GET /missing HTTP/1.1\r\nHost: a\r\n\r\n"
    with connect(slow_server) as connection:
        connection.sendall(GET + missing + GET.replace(b"Host", b"Connection: close\r\nHost"))
        answer = read_all(connection)
    assert re.findall(rb"HTTP/1\.1 ([0-9]+)", answer) == [b"200", b"404", b"200"]


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(slow_server: Server) -> None:
    with connect(slow_server) as connection:
        head = b"Host: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        connection.sendall(f"POST {PREFIX}submit HTTP/1.1\r\n".encode() + head)
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"data")
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
     b"GET /\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n",
     b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"],
)  # fmt: skip
def test_what_is_not_http_is_refused_in_json_without_a_traceback(slow_server: Server, data: bytes) -> None:
    with connect(slow_server) as connection:
        connection.sendall(data)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error":{"code":"malformed"' in answer
    assert "Traceback" not in slow_server.log()


def test_more_connections_than_there_is_room_for_push_out_the_oldest(slow_server: Server) -> None:
    crowd = [connect(slow_server) for _ in range(1100)]
    device = slow_server.device()
    assert device.enroll().status_code == 200
    refused(device.send("nothing", device.poll()), 404, "not-found")
    for connection in crowd:
        connection.close()
    until(slow_server.answers)
