"""What an answer is worth, and which way a request takes."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from client_peer import Fault, Peer
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


def test_an_answer_that_drips_is_given_up(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_SECONDS", -1.0)
    assert "took longer" in answer(peer, 200, b"{}").message


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
