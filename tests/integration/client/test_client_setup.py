"""`penguindome-client setup`, from good bundles and bad ones."""

from __future__ import annotations

import stat
import subprocess

import pytest

from client_peer import PORTAL, Machine, Peer
from penguindome import json
from penguindome.openpgp import Certificate, DeviceKey


def bundle_file(machine: Machine, text: str | None = None, mode: int = 0o600) -> str:
    path = machine.paths.root / "bundle.json"
    path.write_text(machine.peer.bundle().to_text() if text is None else text)
    path.chmod(mode)
    return str(path)


def test_setup_and_the_first_minute_lead_from_a_bundle_to_a_report(machine: Machine, peer: Peer) -> None:
    done = machine.run("setup", "--bundle", bundle_file(machine))
    assert done.returncode == 0, done.stderr
    assert b"next: sudo penguindome-client enroll" in done.stdout
    assert peer.server_key.certificate.fingerprint.encode() in done.stdout
    assert machine.run("enroll").returncode == 0
    assert machine.run("run").returncode == 0
    assert peer.reports[0]["plugins"]["hello"] == {"said": "hello"}
    assert stat.S_IMODE((machine.paths.client_state / "device.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((machine.paths.settings / "client.d/10-setup.yml").stat().st_mode) == 0o644


def test_a_bundle_can_come_from_standard_input(machine: Machine) -> None:
    done = machine.run("setup", "--bundle", "-", stdin=machine.peer.bundle().to_text().encode())
    assert done.returncode == 0, done.stderr


def test_a_token_can_come_beside_a_bundle(machine: Machine) -> None:
    done = machine.run("setup", "--bundle", bundle_file(machine), "--token-file", "-", stdin=b"one-time-token\n")
    assert done.returncode == 0, done.stderr
    assert (machine.paths.client_state / "enrolment.token").read_text().strip() == "one-time-token"


@pytest.mark.parametrize("text", [b"", b"two tokens\n", b"\xff\n"])
def test_what_is_no_token_is_refused_in_one_line(machine: Machine, text: bytes) -> None:
    done = machine.run("setup", "--bundle", bundle_file(machine), "--token-file", "-", stdin=text)
    assert done.returncode == 2
    assert b"does not hold one token" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_setup_twice_keeps_the_device_key(machine: Machine) -> None:
    machine.run("setup", "--bundle", bundle_file(machine))
    key = (machine.paths.client_state / "device.key").read_bytes()
    assert machine.run("setup", "--bundle", bundle_file(machine)).returncode == 0
    assert (machine.paths.client_state / "device.key").read_bytes() == key


def test_setup_of_an_enrolled_machine_leaves_no_enrolment_key_behind(enrolled: Machine) -> None:
    done = enrolled.run("setup", "--bundle", bundle_file(enrolled))
    assert b"enrolled already" in done.stdout
    assert not (enrolled.paths.client_state / "enrolment.key").exists()


def test_another_server_takes_force_and_forgets_what_was_for_the_old_one(enrolled: Machine, peer: Peer) -> None:
    enrolled.run("collect")
    other = peer.bundle(server_certificate=DeviceKey.generate("other").certificate.text)
    refused = enrolled.run("setup", "--bundle", bundle_file(enrolled, other.to_text()))
    assert refused.returncode == 2
    assert b"--force" in refused.stderr
    assert len(enrolled.client().spool.waiting()) == 1
    done = enrolled.run("setup", "--force", "--bundle", bundle_file(enrolled, other.to_text()))
    assert done.returncode == 0, done.stderr
    assert enrolled.client().spool.waiting() == []
    assert enrolled.client().state.enrolment == "new"
    assert enrolled.client().state.sequence == 2


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("{", 0o600, "not a usable enrolment bundle"), ("", 0o600, "not a usable"),
        ("{}", 0o600, "another kind of file"),
        ("x" * 2_000_000, 0o600, "larger than"),
        (None, 0o644, "chmod 600"), (None, 0o620, "chmod 600"),
    ],
)  # fmt: skip
def test_a_bundle_that_cannot_be_used_is_refused_in_one_line(
    machine: Machine, text: str | None, mode: int, said: str
) -> None:
    done = machine.run("setup", "--bundle", bundle_file(machine, text, mode))
    assert done.returncode in (1, 2)
    assert said in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) == 1
    assert not (machine.paths.client_state / "device.key").exists()


@pytest.mark.parametrize("name", ["ca_certificate", "server_certificate"])
def test_a_bundle_with_a_damaged_certificate_is_refused(machine: Machine, name: str) -> None:
    document = json.loads(machine.peer.bundle().to_text())
    document[name] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    done = machine.run("setup", "--bundle", bundle_file(machine, json.dumps(document)))
    assert done.returncode in (1, 2)
    assert name in done.stderr.decode()


def test_a_missing_bundle_is_an_error_that_helps(machine: Machine) -> None:
    done = machine.run("setup", "--bundle", "/no/such/file")
    assert done.returncode == 2
    assert b"enrolment export" in done.stderr


def test_plain_http_beyond_this_machine_is_refused_unless_the_administrator_allows_it(machine: Machine) -> None:
    text = machine.peer.bundle(server_url="http://penguindome.example.org").to_text()
    done = machine.run("setup", "--bundle", bundle_file(machine, text))
    assert done.returncode == 2
    assert b"allow_plain_http" in done.stderr
    machine.paths.settings.mkdir(parents=True, exist_ok=True)
    (machine.paths.settings / "client.yml").write_text("allow_plain_http: true\n")
    assert machine.run("setup", "--bundle", bundle_file(machine, text)).returncode == 0


def test_setup_says_when_the_administrators_file_names_another_server(machine: Machine) -> None:
    machine.paths.settings.mkdir(parents=True)
    (machine.paths.settings / "client.yml").write_text("server.url: https://other.example.org\n")
    done = machine.run("setup", "--bundle", bundle_file(machine))
    assert "client.yml:1 says https://other.example.org" in done.stdout.decode()


def test_a_waiting_machine_is_told_its_fingerprint(machine: Machine, peer: Peer) -> None:
    peer.enrolment = {"status": "pending"}
    machine.set_up()
    done = machine.run("enroll")
    assert done.returncode == 1
    assert machine.client().identity.client_id.encode() in done.stdout
    status = machine.run("status").stdout.decode()
    assert "waits for approval" in status
    assert machine.client().identity.client_id in status


@pytest.fixture
def token(machine: Machine) -> str:
    """A file with a one-time token."""
    path = machine.paths.root / "token"
    path.write_text("one-time-token\n")
    path.chmod(0o600)
    return str(path)


def fingerprint(peer: Peer) -> str:
    return peer.server_key.certificate.fingerprint


def answer(machine: Machine, *lines: str) -> subprocess.CompletedProcess[bytes]:
    return machine.run("setup", "--answers", "-", stdin="".join(f"{line}\n" for line in lines).encode())


def test_a_url_a_fingerprint_and_a_token_lead_to_a_report(machine: Machine, peer: Peer, token: str) -> None:
    typed = " ".join(fingerprint(peer)[place : place + 4] for place in range(0, 40, 4)).lower()
    done = machine.run("setup", "--url", peer.url, "--fingerprint", typed, "--token-file", token)
    assert done.returncode == 0, done.stderr
    assert machine.run("run").returncode == 0
    assert peer.reports[0]["plugins"]["hello"] == {"said": "hello"}
    assert not (machine.paths.client_state / "enrolment.token").exists()


def test_a_server_with_another_key_than_the_typed_one_is_refused_and_not_shown(
    machine: Machine, peer: Peer, token: str
) -> None:
    peer.shown_certificate = DeviceKey.generate("impostor").certificate.text
    done = machine.run("setup", "--url", peer.url, "--fingerprint", fingerprint(peer), "--token-file", token)
    assert done.returncode == 1
    assert b"another key than the one whose fingerprint was given" in done.stderr
    # Nobody shall copy the fingerprint from there.
    assert Certificate.from_text(peer.shown_certificate).fingerprint.encode() not in done.stderr
    assert not machine.paths.client_state.exists()
    refused = answer(machine, f"url={peer.url}", f"fingerprint={fingerprint(peer)}", f"token-file={token}")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"penguindome-client: fingerprint: ")
    assert peer.requests == []


@pytest.mark.parametrize("shown", ["no certificate", "x" * 70_000])
def test_what_is_no_certificate_is_refused_in_one_line(machine: Machine, peer: Peer, token: str, shown: str) -> None:
    peer.shown_certificate = shown
    done = machine.run("setup", "--url", peer.url, "--fingerprint", fingerprint(peer), "--token-file", token)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


def test_a_server_that_is_away_is_met_when_it_is_there(machine: Machine, peer: Peer, token: str) -> None:
    peer.always = PORTAL
    done = answer(machine, f"url={peer.url}", f"fingerprint={fingerprint(peer)}", f"token-file={token}")
    assert done.returncode == 0, done.stderr
    assert b"it is tried every minute" in done.stdout
    waiting = machine.run("status")
    assert waiting.returncode == 1
    assert f"waits for its server, {peer.url}".encode() in waiting.stderr
    ran = machine.run("run")
    assert ran.returncode == 0
    assert b"the server cannot be met yet" in ran.stderr
    peer.always = None
    peer.shown_certificate = DeviceKey.generate("impostor").certificate.text
    assert b"another key" in machine.run("run").stderr
    assert peer.reports == []
    peer.shown_certificate = None
    assert machine.run("run").returncode == 0
    assert len(peer.reports) == 1


def test_without_a_bundle_a_token_is_needed(machine: Machine, peer: Peer) -> None:
    done = answer(machine, f"url={peer.url}", f"fingerprint={fingerprint(peer)}")
    assert done.returncode == 2
    assert b"token-file: without a bundle, a one-time token is needed" in done.stderr
    assert not machine.paths.client_state.exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("bundle=/no/such/file", "there is no file"), ("url=server.example", "not the URL"),
        ("url=http://server.example", "not encrypted"), ("bundel=/x", "no such question"),
        ("bundle", "question=answer"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused_and_nothing_is_changed(machine: Machine, line: str, reason: str) -> None:
    done = answer(machine, line)
    assert done.returncode == 2
    assert reason in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert not machine.paths.client_state.exists()


def test_no_answers_leave_a_machine_that_waits(machine: Machine) -> None:
    done = answer(machine)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"waits for: penguindome-client setup --bundle FILE" in done.stdout
    assert not machine.paths.client_state.exists()


def test_answers_in_force_change_nothing_and_need_no_server(machine: Machine, peer: Peer) -> None:
    assert answer(machine, f"bundle={bundle_file(machine)}").returncode == 0
    peer.always = PORTAL
    (machine.paths.root / "bundle.json").unlink()
    before = {path: path.read_bytes() for path in machine.paths.client_state.iterdir()}
    printed = machine.run("setup", "--print").stdout
    assert f"url={peer.url}\n".encode() in printed
    assert b"\nbundle=\n" in printed
    done = machine.run("setup", "--answers", "-", stdin=printed)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in machine.paths.client_state.iterdir()} == before


def test_a_bundle_of_another_server_is_no_answer(enrolled: Machine) -> None:
    other = enrolled.peer.bundle(server_certificate=DeviceKey.generate("other").certificate.text)
    done = answer(enrolled, f"bundle={bundle_file(enrolled, other.to_text())}")
    assert done.returncode == 2
    assert b"bundle: this machine trusts another server" in done.stderr
