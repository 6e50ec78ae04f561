"""`penguindome-client` as a program: what people type, what timers start, and what is killed."""

from __future__ import annotations

import http.server
import os
import re
import signal
import ssl
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client_peer import PYTHON_PLUGIN, Machine, Peer, error
from needs import require, require_program
from penguindome import json, processes
from penguindome.client.cli import VERBS
from penguindome.client.spool import Spool
from penguindome.openpgp import DeviceKey
from penguindome.paths import Paths
from penguindome.times import utc_now

PROGRAM = "penguindome.client"


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def machine(paths: Paths, peer: Peer) -> Machine:
    """A machine with one signed plugin, not set up."""
    machine = Machine(paths, peer)
    machine.plugin("hello.sh", '#!/bin/sh\necho \'{"said": "hello"}\'\n')
    peer.publish(paths.client_code)
    return machine


@pytest.fixture
def enrolled(machine: Machine) -> Machine:
    """The same after its first minute."""
    machine.set_up()
    machine.minute()
    machine.peer.requests.clear()
    return machine


def bundle_file(machine: Machine, text: str | None = None, mode: int = 0o600) -> str:
    path = machine.paths.root / "bundle.json"
    path.write_text(machine.peer.bundle().to_text() if text is None else text)
    path.chmod(mode)
    return str(path)


def soon(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# setup


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


# What people type


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "setup"])
def test_before_setup_every_verb_says_what_to_do(machine: Machine, verb: str) -> None:
    done = machine.run(verb)
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert "penguindome-client setup --bundle" in done.stderr.decode()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(machine: Machine, verb: str) -> None:
    done = machine.run(verb, "--help")
    assert done.returncode == 0
    assert b"usage: penguindome-client " + verb.encode() in done.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sumbit"], "did you mean submit?"), (["run", "--nwo"], "did you mean --now?"), ([], "--help"),
        (["setup"], "--bundle"), (["run", "--spread", "soon"], "--spread"), (["run", "--spread", "-1"], "0 to 3600"),
        (["--verison"], "did you mean --version?"),
    ],
)  # fmt: skip
def test_a_typing_error_exits_2_with_a_hint(machine: Machine, words: list[str], hint: str) -> None:
    done = machine.run(*words)
    assert done.returncode == 2
    assert hint in done.stderr.decode()


def test_version_is_told(machine: Machine) -> None:
    assert re.fullmatch(r"penguindome-client \S+\n", machine.run("--version").stdout.decode())


def test_status_tells_in_plain_words_how_things_stand(enrolled: Machine, peer: Peer) -> None:
    assert "All is well." in enrolled.run("status").stdout.decode()
    enrolled.run("collect")
    peer.always = error(503, "store-unavailable")
    assert enrolled.run("submit").returncode == 1
    said = enrolled.run("status").stdout.decode()
    assert "1 report (" in said
    assert "store-unavailable" in said
    assert "Nothing is lost" in said
    document = json.loads(enrolled.run("status", "--json").stdout)
    assert document["waiting"] == 1
    assert document["enrolment"] == "enrolled"
    assert document["complaints"]


def test_show_prints_what_would_be_sent_and_sends_nothing(enrolled: Machine, peer: Peer) -> None:
    assert "hello" in enrolled.run("show").stdout.decode()
    document = json.loads(enrolled.run("show", "--json").stdout)
    assert document["plugins"]["hello"] == {"said": "hello"}
    last = json.loads(enrolled.run("show", "--last", "--json").stdout)
    assert last["sequence"] == 1
    assert "next_exchange_token" not in last
    assert peer.requests == []
    assert enrolled.client().spool.waiting() == []


def test_verify_exits_1_with_the_list_of_problems(enrolled: Machine) -> None:
    assert enrolled.run("verify").returncode == 0
    enrolled.plugin("extra.sh", "#!/bin/sh\n")
    done = enrolled.run("verify")
    assert done.returncode == 1
    assert done.stdout.decode() == "plugins/extra.sh: unsigned\n"
    document = json.loads(enrolled.run("verify", "--json").stdout)
    assert document == {"manifest": "ok", "problems": [{"path": "plugins/extra.sh", "reason": "unsigned"}]}


def test_submit_by_hand_says_how_many_went(enrolled: Machine) -> None:
    enrolled.run("collect")
    done = enrolled.run("submit")
    assert done.returncode == 0
    assert b"1 delivered" in done.stdout


def test_a_setting_that_is_wrong_is_named_by_file_and_line(enrolled: Machine) -> None:
    (enrolled.paths.settings / "client.yml").write_text("\nspool.max_bytes: many\n")
    done = enrolled.run("run")
    assert done.returncode == 2
    assert "client.yml:2: spool.max_bytes" in done.stderr.decode()


def test_an_error_that_nobody_foresaw_is_one_line_and_a_traceback_only_with_debug(enrolled: Machine) -> None:
    (enrolled.paths.client_state / "spool").rmdir()
    (enrolled.paths.client_state / "spool").touch()
    done = enrolled.run("status")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr.decode()
    assert "Traceback" in enrolled.run("status", "--debug").stderr.decode()


def test_somebody_who_is_not_root_is_told_to_use_sudo(enrolled: Machine) -> None:
    require(os.geteuid() == 0, "only root can become somebody else")
    setpriv = require_program("setpriv")
    for path in (enrolled.paths.root, *enrolled.paths.root.parents):
        if path.stat().st_mode & 0o011 != 0o011:
            path.chmod(path.stat().st_mode | 0o011)
    for verb in ("status", "run", "show", "collect"):
        done = processes.run(
            [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", PROGRAM, verb],
            timeout=30, check=False, env=enrolled.environment(),
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert b"sudo" in done.stderr
        assert done.stderr.count(b"\n") == 1


# Two at once, and ends that nobody asked for


def _slow(machine: Machine) -> Path:
    """Make plugins slow: they write their numbers to a file that is returned, and hang."""
    pids = machine.paths.root / "pids"
    machine.plugin("slow.sh", f"#!/bin/sh\nsleep 300 &\necho $$ $! >> {pids}\nwait\n")
    machine.plugin(
        "deaf.py",
        PYTHON_PLUGIN
        + f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open({str(pids)!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
time.sleep(300)
""",
    )
    machine.peer.publish(machine.paths.client_code)
    return pids


def _numbers(pids: Path) -> list[int]:
    return [int(word) for word in pids.read_text().split()] if pids.exists() else []


def test_a_second_run_ends_quietly_and_other_verbs_say_that_one_is_at_work(enrolled: Machine) -> None:
    pids = _slow(enrolled)
    first = enrolled.start("run", "--now")
    try:
        assert soon(lambda: len(_numbers(pids)) == 3)
        second = enrolled.run("run")
        assert (second.returncode, second.stdout, second.stderr) == (0, b"", b"")
        for verb in ("collect", "submit", "update", "enroll"):
            done = enrolled.run(verb)
            assert done.returncode == 1
            assert b"another run" in done.stderr
        assert enrolled.run("status").returncode == 0
    finally:
        first.terminate()
        first.communicate(timeout=30)


def test_what_a_killed_write_left_behind_goes_with_the_next_run(enrolled: Machine) -> None:
    leftover = enrolled.paths.client_state / ".state.json.0123456789ab.new"
    leftover.write_text("half a sta")
    enrolled.minute()
    assert not leftover.exists()


@pytest.mark.parametrize("verb", ["run --now", "collect", "show"])
def test_being_told_to_end_leaves_no_plugin_running(enrolled: Machine, verb: str) -> None:
    pids = _slow(enrolled)
    assert enrolled.run("update").returncode == 0
    process = enrolled.start(*verb.split())
    assert soon(lambda: len(_numbers(pids)) == 3)
    begin = time.monotonic()
    process.terminate()
    process.communicate(timeout=30)
    assert time.monotonic() - begin < 15
    assert process.returncode == 128 + signal.SIGTERM
    assert not [pid for pid in _numbers(pids) if is_running(pid)]


def test_the_next_run_after_a_kill_finds_everything_in_order(enrolled: Machine, peer: Peer) -> None:
    """Kill at many instants; afterwards every report whose collection was announced is delivered exactly once."""
    state = enrolled.paths.client_state
    for round_ in range(8):
        process = enrolled.start("run", "--now")
        time_to_live = 0.15 + 0.09 * round_
        deadline = time.monotonic() + time_to_live
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        Spool(state / "spool", max_bytes=1 << 30, max_age=enrolled.client().settings["spool.max_age"]).trim(utc_now())
        for entry in enrolled.client().spool.waiting():
            enrolled.client().spool.read(entry)
    highest = enrolled.client().state.sequence
    assert enrolled.run("run", "--now").returncode == 0
    delivered = peer.delivered()
    assert len(delivered) == len(set(delivered))
    assert delivered == sorted(delivered)
    assert max(delivered) == highest + 1
    assert enrolled.client().spool.waiting() == []
    assert enrolled.run("status").stdout.decode().endswith("All is well.\n")


def test_a_full_disk_is_said_and_harms_nothing(enrolled: Machine, peer: Peer) -> None:
    require(os.geteuid() == 0, "only root can mount")
    directory = enrolled.paths.client_state
    kept = enrolled.paths.root / "kept"
    directory.rename(kept)
    directory.mkdir(0o700)
    mounted = processes.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(directory)], timeout=10, check=False
    )
    require(mounted.returncode == 0, "a tmpfs cannot be mounted here")
    try:
        for path in kept.iterdir():
            processes.run(["cp", "-a", str(path), str(directory)], timeout=10)
        enrolled.run("collect")
        before = [entry.path.read_bytes() for entry in enrolled.client().spool.waiting()]
        assert len(before) == 1
        with (directory / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 512)
            except OSError:
                pass
        done = enrolled.run("collect")
        assert done.returncode == 1
        assert b"no space is left" in done.stderr
        assert b"Traceback" not in done.stderr
        assert [entry.path.read_bytes() for entry in enrolled.client().spool.waiting()] == before
        assert b"no space is left" in enrolled.run("run", "--now").stderr
        (directory / "filler").unlink()
        assert enrolled.run("run", "--now").returncode == 0
        assert peer.delivered()[:2] == [1, 2]
        assert enrolled.client().spool.waiting() == []
    finally:
        processes.run(["umount", str(directory)], timeout=10)


def test_a_spread_start_is_waited_for_and_ends_at_once_when_told(enrolled: Machine) -> None:
    assert enrolled.run("run", "--spread", "0").returncode == 0
    process = enrolled.start("run", "--spread", "3600")
    assert soon(lambda: Path(f"/proc/{process.pid}/wchan").exists() and process.poll() is None)
    process.terminate()
    process.communicate(timeout=30)


# TLS and proxies


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


# What an idle minute costs


def test_an_idle_minute_starts_no_process_and_imports_nothing_that_it_does_not_use(enrolled: Machine) -> None:
    done = enrolled.run("run", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines() if "|" in line}
    assert "penguindome.client.minute" in imported
    unwanted = {
        "subprocess", "requests", "logbook", "gnupg", "difflib", "concurrent.futures", "ctypes",
        "penguindome.processes", "penguindome.client.delivery", "penguindome.client.collector",
        "penguindome.client.verbs.setup",
    }  # fmt: skip
    assert imported & unwanted == set()
