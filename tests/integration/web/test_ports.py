"""Several ports behind one server: each with its own TLS, some of them to be given up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from penguindome.paths import ROOT_VARIABLE
from penguindome_tools.scratch_site import free_port
from web_server import PREFIX, START_SECONDS, Device, Server, certificate, until


def healthy(port: int, crt: Path | None = None) -> bool:
    """Whether the server answers there; over TLS with exactly this certificate, if there is one."""
    scheme = "http" if crt is None else "https"
    try:
        answer = requests.get(f"{scheme}://127.0.0.1:{port}{PREFIX}healthz", verify=str(crt or True), timeout=5)
    except requests.RequestException:
        return False
    return answer.status_code == 200


def reload(server: Server, **values: Any) -> None:
    """Change settings, and have the running server read them."""
    server.write_settings(**values)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)


def through(server: Server, device: Device, port: int) -> requests.Response:
    """Report over this port."""
    own, server.port = server.port, port
    try:
        return device.submit()
    finally:
        server.port = own


def issue_states(server: Server, device: Device) -> list[str]:
    """The states of the episodes of `deprecated-port` of this device."""
    where = {"client_id": device.client_id, "name": "deprecated-port"}
    return [issue["state"] for issue in server.store.collection("issues").find(where, sort="opened_at")]


def test_each_port_has_the_tls_that_its_settings_name(server: Server) -> None:
    first, second, plain = server.port, free_port(), free_port()
    old, old_key = certificate(server.paths.root, "old")
    new, new_key = certificate(server.paths.root, "new")
    ports = {second: {"certificate": str(new), "key": str(new_key)}, plain: {}}
    server.write_settings(tls__certificate=str(old), tls__key=str(old_key), ports=ports, workers=1)
    server.spawn()
    until(lambda: healthy(first, old), seconds=START_SECONDS, what="start")
    assert healthy(second, new)
    assert healthy(plain)
    assert not healthy(second, old)
    assert not healthy(first)
    assert server.stop() == 0
    assert not healthy(plain)


def test_one_certificate_file_may_hold_the_key_too(server: Server) -> None:
    crt, key = certificate(server.paths.root, "both")
    both = server.paths.root / "both.pem"
    both.write_text(crt.read_text() + key.read_text())
    port = free_port()
    server.start(ports={port: {"certificate": str(both)}}, workers=1)
    assert healthy(port, crt)


def test_reports_over_a_deprecated_port_open_an_issue_and_over_another_close_it(server: Server) -> None:
    new = free_port()
    server.start(enrolment__policy="automatic", ports={server.port: {"deprecated": True}, new: {}}, workers=1)
    device = server.enrolled()
    assert device.submit().status_code == 200
    assert device.submit().status_code == 200
    assert issue_states(server, device) == ["open"]
    (issue,) = server.store.collection("issues").find({"name": "deprecated-port"})
    assert issue["details"] == {"port": server.port}
    assert through(server, device, new).status_code == 200
    assert issue_states(server, device) == ["closed"]
    assert device.submit().status_code == 200
    assert issue_states(server, device) == ["closed", "open"]


def test_deprecation_is_taken_and_lifted_by_a_reload(server: Server) -> None:
    server.start(enrolment__policy="automatic", workers=1)
    device = server.enrolled()
    assert device.submit().status_code == 200
    assert issue_states(server, device) == []
    reload(server, ports={server.port: {"deprecated": True}})
    until(lambda: device.submit().status_code == 200 and issue_states(server, device) == ["open"])
    reload(server, ports={})
    until(lambda: device.submit().status_code == 200 and issue_states(server, device) == ["closed"])


def test_a_new_certificate_is_taken_by_a_reload(server: Server) -> None:
    crt, key = certificate(server.paths.root, "first")
    server.write_settings(tls__certificate=str(crt), tls__key=str(key), workers=1)
    server.spawn()
    until(lambda: healthy(server.port, crt), seconds=START_SECONDS, what="start")
    second, second_key = certificate(server.paths.root, "second")
    reload(server, tls__certificate=str(second), tls__key=str(second_key))
    until(lambda: healthy(server.port, second), what="the new certificate")


def test_a_port_that_is_added_or_removed_is_said_to_need_a_restart_and_the_others_go_on(server: Server) -> None:
    removed, added = free_port(), free_port()
    server.start(ports={removed: {}}, workers=1)
    reload(server, ports={added: {}})
    until(lambda: "only after a restart" in server.log(), what="the warning")
    assert healthy(server.port)
    assert healthy(removed)
    assert not healthy(added)


def test_a_key_comes_from_systemds_credentials_before_its_file(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    crt, key = certificate(server.paths.root, "site")
    credentials = server.paths.root / "credentials"
    credentials.mkdir()
    (credentials / f"tls-{server.port}.key").write_bytes(key.read_bytes())
    (credentials / f"tls-{server.port}.crt").write_bytes(crt.read_bytes())
    key.write_text("not a key\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    server.write_settings(tls__certificate=str(crt), tls__key=str(key), workers=1)
    server.spawn()
    until(lambda: healthy(server.port, crt), seconds=START_SECONDS, what="start")
    certificate(server.paths.root, "site")
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    until(lambda: f"{crt} was changed; only a restart takes it" in server.log(), what="the warning")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ports: {many: {}}\n", "server.yml:1: ports: 'many' is no port"),
        ("ports: {70000: {}}\n", "server.yml:1: ports: '70000' is no port"),
        ("ports: {08443: {}}\n", "server.yml:1: ports: '08443' is no port"),
        ("ports: {9443: {certificat: /a}}\n", "9443: certificat: unknown"),
        ("ports: {9443: {certificate: a.pem}}\n", "9443: certificate: expected an absolute path"),
        ("ports: {9443: {key: /a.key}}\n", "9443: key is of no use without certificate"),
        ("ports: {9443: {deprecated: maybe}}\n", "9443: deprecated: expected true or false"),
        ("ports: {9443: yes}\n", "9443: expected certificate, key and deprecated"),
        ("ports: {9443: {certificate: /nowhere.pem}}\n", "ports.9443.certificate"),
    ],
)
def test_ports_that_do_not_fit_are_one_line_and_exit_status_2(
    server: Server, text: str, said: str, failing: Callable[[Server], tuple[int, str]]
) -> None:
    (server.paths.settings / "server.yml").write_text(text)
    status, stderr = failing(server)
    assert (status, stderr.count("\n")) == (2, 1)
    assert said in stderr


def test_a_port_in_use_is_one_clear_line_and_none_stays_open(
    server: Server, failing: Callable[[Server], tuple[int, str]]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        server.write_settings(ports={taken: {}})
        status, stderr = failing(server)
    assert (status, stderr.count("\n")) == (1, 1)
    assert f"127.0.0.1:{taken}" in stderr


@pytest.fixture
def failing() -> Callable[[Server], tuple[int, str]]:
    """Starts a server that must not start: its exit status, and what it said."""

    def fail(server: Server) -> tuple[int, str]:
        process = server.spawn()
        return process.wait(timeout=60), server.log()

    return fail


def test_systemd_is_told_when_the_server_is_ready(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = server.paths.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(os.fspath(path))
        notified.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", os.fspath(path))
        server.start(workers=1)
        assert b"READY=1" in notified.recv(1024)


def test_settings_are_checked_before_a_reload(server: Server) -> None:
    server.write_settings()
    assert checked(server) == (0, "")
    server.write_settings(workers="many")
    status, stderr = checked(server)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "server.yml:" in stderr


def checked(server: Server) -> tuple[int, str]:
    """What `--check`, which systemd runs before a reload, ends with and says."""
    environment = {**os.environ, ROOT_VARIABLE: str(server.paths.root)}
    done = subprocess.run(
        [sys.executable, "-m", "penguindome_server", "--check"], env=environment, capture_output=True, check=False
    )
    return done.returncode, done.stderr.decode()
