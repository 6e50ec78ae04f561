"""The server as a process: how it starts, refuses to start, loses workers, reads settings again, and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import requests

from needs import require_program
from penguindome import manifest
from penguindome.paths import ROOT_VARIABLE
from penguindome.times import utc_now
from web_server import PREFIX, START_SECONDS, Server, refused, until


def fails(server: Server) -> tuple[int, str]:
    """Start a server that must not start: its exit status, and what it said."""
    environment = {**os.environ, ROOT_VARIABLE: str(server.paths.root)}
    done = subprocess.run(
        [sys.executable, "-m", "penguindome_server"], env=environment, capture_output=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.decode()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def peak_memory(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_sigterm_ends_everything_and_frees_the_port(server: Server) -> None:
    server.start()
    workers = server.workers()
    assert len(workers) == 2
    assert server.stop() == 0
    assert not listens(server.port)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "Traceback" not in server.log()


def test_sigterm_lets_a_request_that_is_half_here_finish(server: Server) -> None:
    server.start(workers=1)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /penguindome/v1/healthz HTTP/1.1\r\nHost: a\r\n")
        # The worker takes connections in their order: once a later one was answered, it has this one too.
        assert requests.get(f"{server.url}{PREFIX}healthz", timeout=60).status_code == 200
        assert server.process is not None
        server.process.terminate()
        until(lambda: not listens(server.port), what="the end of listening")
        connection.sendall(b"\r\n")
        assert b" 200 OK" in connection.makefile("rb").readline()
    assert server.process.wait(timeout=60) == 0


def test_sigterm_lets_those_ask_who_have_just_connected(server: Server) -> None:
    server.start(workers=1)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        assert requests.get(f"{server.url}{PREFIX}healthz", timeout=60).status_code == 200
        assert server.process is not None
        server.process.terminate()
        until(lambda: not listens(server.port), what="the end of listening")
        connection.sendall(b"GET /penguindome/v1/healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 OK" in connection.makefile("rb").readline()
    assert server.process.wait(timeout=60) == 0


def test_when_the_master_is_killed_no_worker_stays_listening(server: Server) -> None:
    server.start()
    workers = server.workers()
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), what="the end of the workers")
    assert not listens(server.port)


def test_a_killed_worker_is_replaced_and_its_counts_are_kept(server: Server) -> None:
    server.start(workers=1)
    for _ in range(5):
        requests.get(f"{server.url}{PREFIX}healthz", timeout=60)
    before = healthz_count(server)
    assert before >= 5
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: server.workers() not in ([], [worker]) and server.answers(), what="another worker")
    until(lambda: healthz_count(server) >= before, what="the counts")
    directory = server.paths.runtime / "metrics"
    assert not list(directory.glob(f"*_{worker}.db"))


def test_a_worker_killed_while_it_makes_its_counts_does_not_take_the_master_along(server: Server) -> None:
    server.start(workers=1)
    requests.get(f"{server.url}{PREFIX}healthz", timeout=60)
    before = healthz_count(server)
    (worker,) = server.workers()
    directory = server.paths.runtime / "metrics"
    # As the library leaves a file: opened and not yet given its size; and torn.
    (directory / f"gauge_all_{worker}.db").touch()
    (directory / f"summary_{worker}.db").write_bytes(b"\xff\x00\x00\x00" * 8)
    os.kill(worker, signal.SIGKILL)
    until(lambda: server.workers() not in ([], [worker]) and server.answers(), what="another worker")
    until(lambda: healthz_count(server) >= before, what="the counts")
    assert not list(directory.glob(f"*_{worker}.db"))
    assert "Traceback" not in server.log()


def healthz_count(server: Server) -> float:
    text = requests.get(f"{server.url}{PREFIX}metrics", timeout=60).text
    found = re.search(r'penguindome_requests_total\{endpoint="healthz",status="200"\} ([0-9.]+)', text)
    return float(found[1]) if found else 0.0


def test_when_the_last_poll_was_seen_survives_sigterm(server: Server) -> None:
    server.start(enrolment__policy="automatic")
    device = server.enrolled()
    until(lambda: device.update(package_version="1").status_code == 200)
    assert device.update(package_version="2").status_code == 200
    server.stop()
    assert server.client(device.client_id)["package_version"] == "2"


def test_sighup_reads_the_settings_again_and_a_broken_file_changes_nothing(server: Server) -> None:
    server.start(enrolment__policy="closed", workers=1)
    device = server.device()
    refused(device.enroll(), 403, "enrolment-closed")
    server.write_settings(enrolment__policy="automatic")
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    until(lambda: device.enroll().status_code == 200, what="the new settings")
    (server.paths.settings / "server.yml").write_text("enrolment.policy: nobody\n")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "the settings were not read again" in server.log())
    assert server.enrolled("another").submit().status_code == 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workers: many\n", "server.yml:1: workers:"),
        ("workers: 0\n", "server.yml:1: workers:"),
        ("enrolment: {policy: maybe}\n", "server.yml:1: enrolment.policy:"),
        ("trusted_proxies: [nobody]\n", "server.yml:1: trusted_proxies:"),
        ("metrics.passwords: {prometheus: secret}\n", "server.yml:1: metrics.passwords:"),
        ("a: [\n", "server.yml:"),
        ("tls.certificate: /nowhere\n", "tls.certificate"),
        ("database.uri: oracle://x\n", "database.uri"),
    ],
)
def test_settings_that_do_not_fit_are_one_line_and_exit_status_2(server: Server, text: str, said: str) -> None:
    (server.paths.settings / "server.yml").write_text(text)
    status, stderr = fails(server)
    assert status == 2
    assert stderr.count("\n") == 1
    assert said in stderr
    assert "secret" not in stderr


def test_a_server_that_was_not_set_up_says_so(server: Server) -> None:
    server.write_settings()
    (server.paths.releases / "server.asc").unlink()
    status, stderr = fails(server)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "penguindome setup" in stderr


def test_a_port_in_use_is_one_clear_line(server: Server) -> None:
    server.write_settings()
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port))
        other.listen()
        status, stderr = fails(server)
    assert (status, stderr.count("\n")) == (1, 1)
    assert f"127.0.0.1:{server.port}" in stderr


def test_a_manifest_is_handed_to_those_who_do_not_have_it_and_only_if_its_signature_is_right(server: Server) -> None:
    server.start(enrolment__policy="automatic")
    device = server.enrolled()
    assert "manifest" not in device.update().json()
    plugin = server.paths.root / "tree/plugins/os_info.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("print('{}')\n")
    now = utc_now()
    text = manifest.build(server.paths.root / "tree", ["plugins/os_info.py"], kind="release", release=0, issued_at=now,
                          expires_at=now + timedelta(days=365))  # fmt: skip
    (server.paths.releases / "manifest.json").write_bytes(text)
    (server.paths.releases / "manifest.json.asc").write_bytes(device.key.sign(text))
    until(lambda: "is not handed to clients" in server.log() or device.update().json().get("manifest"))
    assert "manifest" not in device.update().json()
    signature = server.server_key.sign(text)
    (server.paths.releases / "manifest.json.asc").write_bytes(signature)
    offered = until(lambda: device.update().json().get("manifest"), what="the manifest")
    assert offered == {"text": text.decode(), "signature": signature.decode()}
    loaded = manifest.Manifest.load(text, signature, server.server_key.certificate)
    assert "manifest" not in device.update(manifest_sha256=loaded.sha256).json()
    until(lambda: "manifest" in device.update(manifest_sha256="0" * 64).json())
    assert "manifest" not in device.submit().json()["update"]


def test_a_form_of_200_mb_costs_little_memory(server: Server) -> None:
    server.start(workers=1)
    (worker,) = server.workers()
    before = peak_memory(worker)

    def attack() -> None:
        body = (b"x" * 65536 for _ in range(3200))
        answer = requests.post(f"{server.url}{PREFIX}submit", data=body, timeout=60)
        refused(answer, 413, "too-large")

    threads = [threading.Thread(target=attack) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peak_memory(worker) - before < 60 << 20


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    openssl = require_program("openssl")
    certificate, key = directory / "tls.crt", directory / "tls.key"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", certificate, "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return certificate, key


def test_tls_serves_from_version_1_2_on_and_is_not_held_up_by_half_handshakes(server: Server) -> None:
    crt, key = certificate(server.paths.root)
    server.write_settings(tls__certificate=str(crt), tls__key=str(key), workers=1)
    server.spawn()
    url = f"https://127.0.0.1:{server.port}{PREFIX}healthz"

    def answers() -> bool:
        try:
            return requests.get(url, verify=str(crt), timeout=5).ok
        except requests.RequestException:
            return False

    until(answers, seconds=START_SECONDS, what="start")
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    assert requests.get(url, verify=str(crt), timeout=60).json() == {"status": "ok"}
    with requests.Session() as session:
        for _ in range(5):
            assert session.get(url, verify=str(crt), timeout=60).status_code == 200
        large = session.post(url.replace("healthz", "submit"), data=b"x" * (3 << 20), verify=str(crt), timeout=60)
        refused(large, 400, "malformed")
    for connection in silent:
        connection.close()
    context = ssl.create_default_context(cafile=crt)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", server.port)) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
