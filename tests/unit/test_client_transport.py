"""What an answer is worth, and which way a request takes."""

from __future__ import annotations

import email.utils
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from client_peer import Fault, Peer
from needs import require_program
from penguindome import json
from penguindome.client import transport
from penguindome.client.context import refuse_plain_http
from penguindome.client.errors import Refused, Unreachable
from penguindome.client.transport import Transport
from penguindome.errors import KeyMaterialError, SettingsError


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def to(peer: Peer, *, seconds: float = 5) -> Transport:
    return Transport(peer.url, ca_file=None, connect_timeout=seconds, read_timeout=seconds)


def answer(peer: Peer, status: int, body: bytes, **headers: str) -> Unreachable | Refused:
    peer.faults.append(Fault(status, body, {name.replace("_", "-"): value for name, value in headers.items()}))
    with pytest.raises((Unreachable, Refused)) as caught:
        to(peer).post("update", {"data": b"{}", "signature": b""})
    assert isinstance(caught.value, (Unreachable, Refused))
    return caught.value


def refusal(**more: object) -> bytes:
    return json.dumps({"error": {"code": "some-code", "message": "a reason", **more}}).encode()


def test_an_object_with_status_200_is_an_answer(peer: Peer) -> None:
    peer.faults.append(Fault(200, b'{"status":"ok"}'))
    assert to(peer).post("update", {"data": b"{}", "signature": b""}) == {"status": "ok"}


def test_a_refusal_of_ours_has_its_code_and_the_servers_time(peer: Peer) -> None:
    moment = datetime(2026, 11, 23, 22, 30, tzinfo=timezone.utc)
    error = answer(peer, 409, refusal(server_time_at=moment))
    assert isinstance(error, Refused)
    assert (error.status, error.reason, error.message, error.server_time) == (409, "some-code", "a reason", moment)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120), ("0", 0), ("-5", None), ("soon", None), ("9" * 40, None), ("1.5", None)],
)
def test_the_time_to_wait_is_read_in_seconds(peer: Peer, header: str, seconds: float | None) -> None:
    assert answer(peer, 503, b"", Retry_After=header).retry_after == seconds


def test_the_time_to_wait_is_read_as_a_date(peer: Peer) -> None:
    header = email.utils.formatdate(time.time() + 100, usegmt=True)
    retry_after = answer(peer, 503, refusal(), Retry_After=header).retry_after
    assert retry_after is not None
    assert 90 < retry_after <= 100


def test_what_the_other_end_says_cannot_reach_the_terminal_as_it_is(peer: Peer) -> None:
    error = answer(peer, 403, refusal(message="\x1b[31mred\nline" + "x" * 1000))
    assert error.message.isprintable()
    assert len(error.message) <= 300


def test_an_answer_without_end_is_cut_off(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_LIMIT", 100_000)
    assert "more than" in answer(peer, 200, b" " * 200_000).message


class Dripping:
    """A server that sends the beginning of an answer at once and the rest, without end, in drops; or takes the request
    in drops.
    """

    def __init__(self, beginning: bytes, *, drop: bytes = b"x", context: ssl.SSLContext | None = None) -> None:
        self._beginning, self._drop, self._context = beginning, drop, context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.port = self._listening.getsockname()[1]
        self.drops = 0

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        line, _ = self._listening.accept()
        try:
            if self._context is not None:
                line = self._context.wrap_socket(line, server_side=True)
            with line:
                line.recv(65536)
                line.sendall(self._beginning)
                while not self._over.wait(0.02):
                    self.drops += 1
                    if self._drop:
                        line.sendall(self._drop)
                    else:
                        line.recv(10)
        except OSError:
            pass


LARGE = b"HTTP/1.1 200 OK\r\nContent-Type: application/x\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "the first line": (b"HTTP/1.1 200 ", b"O"),
    "a header": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the body": (LARGE, b" "),
    "a body without end": (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
    "a chunk's length": (CHUNKED, b"0"),
}


@pytest.fixture
def dripping() -> Iterator[Callable[..., Dripping]]:
    made: list[Dripping] = []

    def make(*arguments: Any, **options: Any) -> Dripping:
        made.append(Dripping(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("what", DRIPS)
def test_an_answer_that_drips_is_given_up_wherever_it_drips(
    dripping: Callable[..., Dripping], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(transport, "EXCHANGE_SECONDS", 0.5)
    beginning, drop = DRIPS[what]
    server = dripping(beginning, drop=drop)
    there = Transport(f"http://127.0.0.1:{server.port}", ca_file=None, connect_timeout=60, read_timeout=60)
    with pytest.raises(Unreachable, match="took longer"):
        there.post("update", {"data": b"{}", "signature": b""})
    assert server.drops


def test_a_server_that_takes_the_request_in_drops_is_given_up(
    dripping: Callable[..., Dripping], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "EXCHANGE_SECONDS", 0.5)
    server = dripping(b"", drop=b"")
    there = Transport(f"http://127.0.0.1:{server.port}", ca_file=None, connect_timeout=60, read_timeout=60)
    with pytest.raises(Unreachable, match="took longer"):
        there.post("submit", {"data": os.urandom(16 << 20), "signature": b""})


def test_a_proxy_that_drips_is_given_up(dripping: Callable[..., Dripping], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "EXCHANGE_SECONDS", 0.5)
    server = dripping(b"HTTP/1.1 200 OK\r\n", drop=b"A: b\r\n")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    there = Transport("https://penguin.example.org", ca_file=None, connect_timeout=60, read_timeout=60)
    with pytest.raises(Unreachable):
        there.get("server_certificate")
    assert server.drops


@pytest.mark.parametrize("what", ["a header", "the body", "a chunk's length"])
def test_a_download_that_drips_is_ended_by_whoever_takes_it_or_given_up(
    dripping: Callable[..., Dripping], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(transport, "EXCHANGE_SECONDS", 30 if what == "the body" else 0.5)
    beginning, drop = DRIPS[what]
    server = dripping(beginning, drop=drop)
    there = Transport(f"http://127.0.0.1:{server.port}", ca_file=None, connect_timeout=60, read_timeout=60)
    if what == "the body":
        with there.download("download_release", credentials=None) as download:
            # A piece is what came, and not a block that may never be whole.
            assert b"".join(next(download.pieces) for _ in range(3)).strip() == b""
        return
    with pytest.raises(Unreachable, match="took longer"), there.download("x", credentials=None) as download:
        next(download.pieces)


def test_a_server_with_tls_that_drips_is_given_up(
    dripping: Callable[..., Dripping], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transport, "EXCHANGE_SECONDS", 0.5)
    server = dripping(LARGE, drop=b" ", context=self_signed(tmp_path))
    there = Transport(
        f"https://127.0.0.1:{server.port}", ca_file=tmp_path / "cert.pem", connect_timeout=60, read_timeout=60
    )
    with pytest.raises(Unreachable, match="took longer"):
        there.post("update", {"data": b"{}", "signature": b""})


def self_signed(directory: Path) -> ssl.SSLContext:
    require_program("openssl")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_nobody_watches_an_exchange_that_is_over(peer: Peer) -> None:
    peer.faults.append(Fault(200, b'{"status":"ok"}'))
    to(peer).post("update", {"data": b"{}", "signature": b""})
    answer(peer, 503, b"")
    assert transport.WATCH not in {thread.name for thread in threading.enumerate()}


def test_a_redirect_is_not_followed(peer: Peer) -> None:
    error = answer(peer, 302, b"", Location=f"{peer.url}/penguindome/v1/enroll")
    assert isinstance(error, Unreachable)
    assert len(peer.requests) == 1


def test_a_port_where_nobody_listens_is_an_error_that_helps(peer: Peer) -> None:
    closed = to(peer)
    peer.close()
    with pytest.raises(Unreachable, match="cannot be reached") as caught:
        closed.post("update", {"data": b"{}"})
    assert "network" in str(caught.value.hint)


def test_authorities_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(KeyMaterialError, match=name):
            Transport("https://localhost", ca_file=tmp_path / name, connect_timeout=1, read_timeout=1)


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"https_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ({"all_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "example.org"}, None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "*"}, None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "other.org"}, "http://proxy:3128"),
        ({"http_proxy": "http://proxy:3128"}, None),
        ({"https_proxy": ""}, None),
    ],
)
def test_the_proxy_is_the_one_that_the_environment_names(
    environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert transport.proxy_for("https://penguin.example.org:8443") == proxy


@pytest.mark.parametrize(
    "url", ["https://a.example.org", "http://localhost:8", "http://127.0.0.1", "http://127.9.9.9", "http://[::1]:8443"]
)  # fmt: skip
def test_an_encrypted_or_local_server_may_be_used(url: str) -> None:
    refuse_plain_http(url, allowed=False)


@pytest.mark.parametrize(
    "url", ["http://a.example.org", "http://127.evil.org", "http://localhost.evil.org", "http://10.0.0.1"]
)  # fmt: skip
def test_a_server_without_tls_beyond_this_machine_may_not(url: str) -> None:
    with pytest.raises(SettingsError, match="not encrypted"):
        refuse_plain_http(url, allowed=False)
    refuse_plain_http(url, allowed=True)
