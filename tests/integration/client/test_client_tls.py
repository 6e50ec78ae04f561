"""Whom the client trusts to be its server, and the way there."""

from __future__ import annotations

import http.server
import ssl
import threading
from pathlib import Path

import pytest

from client_peer import Machine, Peer
from needs import require_program
from penguindome import processes


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    require_program("openssl")
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    processes.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
         "-out", str(certificate)],
        timeout=30,
    )  # fmt: skip
    return certificate, key


def _with_tls(peer: Peer, tls: tuple[Path, Path]) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    peer._server.socket = context.wrap_socket(peer._server.socket, server_side=True)
    return peer.url.replace("http://127.0.0.1", "https://localhost")


def test_a_self_signed_server_is_trusted_by_the_bundle_alone(
    machine: Machine, peer: Peer, tls: tuple[Path, Path]
) -> None:
    url = _with_tls(peer, tls)
    machine.set_up(server_url=url, ca_certificate=tls[0].read_text())
    assert machine.run("run").returncode == 0
    assert peer.delivered() == [1]


def test_a_server_that_cannot_prove_who_it_is_gets_nothing(
    machine: Machine, peer: Peer, tls: tuple[Path, Path]
) -> None:
    machine.set_up(server_url=_with_tls(peer, tls))
    done = machine.run("enroll")
    assert done.returncode == 1
    assert b"cannot prove who it is" in done.stderr
    assert peer.requests == []


def test_a_certificate_for_another_name_is_refused(machine: Machine, peer: Peer, tls: tuple[Path, Path]) -> None:
    url = _with_tls(peer, tls).replace("localhost", "127.0.0.1")
    machine.set_up(server_url=url, ca_certificate=tls[0].read_text())
    done = machine.run("enroll")
    assert b"cannot prove who it is" in done.stderr
    assert peer.requests == []


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Answers for itself, and remembers what it was asked for."""

    asked: list[str]

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.send_response(502)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        return


def test_proxies_of_the_environment_are_honoured(machine: Machine, peer: Peer) -> None:
    machine.set_up()
    asked: list[str] = []
    handler = type("Proxy", (_Proxy,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{proxy.server_address[1]}"
        assert machine.run("enroll", http_proxy=address).returncode == 1
        assert machine.run("enroll", http_proxy=address, no_proxy="127.0.0.1").returncode == 0
        proxy.shutdown()
        thread.join()
    assert asked == [f"{peer.url}/penguindome/v1/enroll"]
