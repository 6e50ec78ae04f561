"""Whom the client trusts to be its server, and the way there."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from client_peer import Machine, Peer
from needs import require_program
from penguindome import processes
from penguindome.client import authorities


def made(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    require_program("openssl")
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    processes.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
         "-out", str(certificate)],
        timeout=30,
    )  # fmt: skip
    return certificate, key


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, Path]:
    """What the server shows at first."""
    return made(tmp_path, "server")


@pytest.fixture
def following(tmp_path: Path) -> tuple[Path, Path]:
    """What the server shows next."""
    return made(tmp_path, "next")


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


def _lay(machine: Machine, *certificates: tuple[Path, Path], release: int = 1) -> Path:
    """Let the machine's tree be that of a release that brings these certificates; returns the file with them."""
    path = machine.paths.client_code / authorities.RELEASED
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(certificate.read_text() for certificate, _ in certificates))
    path.chmod(0o644)
    machine.peer.lay(machine.paths.client_code, release=release)
    machine.peer.signed_manifest = None
    return path


def _show(peer: Peer, tls: tuple[Path, Path]) -> None:
    """From now on, the server has another certificate."""
    assert isinstance(peer._server.socket, ssl.SSLSocket)
    peer._server.socket.context.load_cert_chain(*tls)


def test_a_machine_follows_to_the_certificate_that_a_release_brought(
    machine: Machine, peer: Peer, tls: tuple[Path, Path], following: tuple[Path, Path]
) -> None:
    machine.set_up(server_url=_with_tls(peer, tls), ca_certificate=tls[0].read_text())
    _lay(machine, tls, following)
    machine.minute()
    _show(peer, following)
    machine.minute(now=True)
    assert peer.delivered() == [1, 2]
    # What the bundle brought goes on being trusted: a release without it locks nobody out.
    _lay(machine, following, release=2)
    _show(peer, tls)
    machine.minute(now=True)
    assert peer.delivered() == [1, 2, 3]


def test_a_machine_that_trusts_known_authorities_follows_too(
    machine: Machine, peer: Peer, following: tuple[Path, Path]
) -> None:
    machine.set_up(server_url=_with_tls(peer, following))
    _lay(machine, following)
    machine.minute(now=True)
    assert peer.delivered() == [1]


def changed(path: Path, other: Path) -> None:
    path.write_text(other.read_text())


def longer(path: Path, other: Path) -> None:
    path.write_text(path.read_text() + other.read_text())


def changeable(path: Path, other: Path) -> None:
    path.chmod(0o666)


def a_link(path: Path, other: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))


def unsigned(path: Path, other: Path) -> None:
    path.parents[1].joinpath("manifest.json").unlink()


@pytest.mark.parametrize("spoil", [changed, longer, changeable, a_link, unsigned], ids=lambda spoil: spoil.__name__)
def test_certificates_of_a_release_that_are_not_as_signed_are_not_trusted(
    machine: Machine, peer: Peer, tls: tuple[Path, Path], following: tuple[Path, Path],
    spoil: Callable[[Path, Path], None],
) -> None:  # fmt: skip
    machine.set_up(server_url=_with_tls(peer, tls), ca_certificate=tls[0].read_text())
    spoil(_lay(machine, tls, following), following[0])
    machine.minute()
    assert peer.delivered() == [1]
    _show(peer, following)
    machine.minute(now=True)
    assert peer.delivered() == [1]
    assert "cannot prove who it is" in machine.client().state.last_error


def test_authorities_that_this_machine_names_are_the_only_ones(
    machine: Machine, peer: Peer, tls: tuple[Path, Path], following: tuple[Path, Path]
) -> None:
    machine.set_up(server_url=_with_tls(peer, following), ca_certificate=following[0].read_text())
    _lay(machine, following)
    (machine.paths.settings / "client.yml").write_text(f"ca_certificate: {tls[0]}\n")
    machine.minute(now=True)
    assert peer.delivered() == []


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
