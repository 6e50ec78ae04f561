"""Client and server, both as they are shipped: real processes, a real store, nothing in place of either."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import needs
from client_peer import PYTHON_PLUGIN, Machine
from penguindome import manifest
from penguindome.bundle import Bundle
from penguindome.openpgp import DeviceKey
from penguindome.paths import Paths
from penguindome.times import utc_now
from penguindome_server.enrolment import approve, revoke
from penguindome_server.enrolment_tokens import create_token
from web_server import Server, until

COUNTER = (
    PYTHON_PLUGIN
    + """
import json, pathlib
file = pathlib.Path("ROOT") / "count"
number = int(file.read_text()) + 1 if file.exists() else 1
file.with_suffix(".new").write_text(str(number))
file.with_suffix(".new").rename(file)
print(json.dumps({"number": number}))
"""
)


class Site:
    """A running server as the machines of these tests need it: what `Peer` offers them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url

    def bundle(self, **changes: Any) -> Bundle:
        values: dict[str, Any] = {
            "server_url": self.url, "server_certificate": self.server.server_key.certificate.text,
            "ca_certificate": None, "enrolment_key": self.server.enrolment_key.text, "token": None,
            "created_at": utc_now(), **changes,
        }  # fmt: skip
        return Bundle(**values)

    def publish(self, tree: Path) -> None:
        """Sign the manifest of the plugins in `tree`, as `penguindome setup` does."""
        names = [f"plugins/{path.name}" for path in (tree / "plugins").iterdir()]
        now = utc_now()
        text = manifest.build(
            tree, names, kind="release", release=0, issued_at=now, expires_at=now + timedelta(days=90)
        )  # fmt: skip
        releases = self.server.paths.releases
        (releases / "manifest.json.asc").write_bytes(self.server.server_key.sign(text))
        (releases / "manifest.json").write_bytes(text)

    def machine(self, root: Path, hostname: str = "laptop") -> Machine:
        """A machine with the counting plugin, set up."""
        root.mkdir()
        machine = Machine(Paths(root), self)  # type: ignore[arg-type]  # the part of a peer that machines use
        (root / "etc").mkdir()
        (root / "etc/machine-id").write_text(f"{hostname:0<32}\n")
        machine.paths.settings.mkdir()
        (machine.paths.settings / "client.yml").write_text(f"hostname: {hostname}\n")
        machine.plugin("counter.py", COUNTER.replace("ROOT", str(root)))
        self.publish(machine.paths.client_code)
        machine.set_up()
        return machine

    def client(self, machine: Machine) -> dict[str, Any]:
        return self.server.client(machine.client().identity.client_id)

    def counted(self, machine: Machine) -> list[tuple[int | None, int]]:
        """The changes of the counter that the trail tells, in order."""
        rows = list(
            self.server.store.collection("audit_trail").find({"client_id": machine.client().identity.client_id})
        )
        rows = sorted(
            (row for row in rows if row["path"].startswith("plugins.counter")), key=lambda row: row["sequence"]
        )
        return [
            (
                row["old"] if row["change"] == "changed" else None,
                row["new"]["number"] if row["change"] == "added" else row["new"],
            )
            for row in rows
        ]

    def open_issues(self) -> set[str]:
        return {issue["name"] for issue in self.server.store.collection("issues").find({"state": "open"})}


AUTOMATIC: dict[str, Any] = {"enrolment__policy": "automatic", "enrolment__automatic_ranges": ["127.0.0.0/8"]}


@pytest.fixture
def server(sqlite_uri: str, tmp_path: Path) -> Iterator[Server]:
    """A server with the embedded store, not started."""
    made = Server(tmp_path / "site", sqlite_uri)
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def site(server: Server) -> Site:
    """A running server that enrols every machine at once."""
    return Site(server.start(**AUTOMATIC))


@pytest.fixture
def machine(site: Site, tmp_path: Path) -> Machine:
    """A machine that was set up and never ran."""
    return site.machine(tmp_path / "machine")


@pytest.fixture
def any_site(store_uri: str, tmp_path: Path) -> Iterator[Site]:
    """A running server that enrols every machine at once: with each engine of the store."""
    made = Server(tmp_path / "site", store_uri)
    try:
        yield Site(made.start(**AUTOMATIC))
    finally:
        made.kill()


def test_one_run_leads_from_a_bundle_to_a_stored_report(any_site: Site, tmp_path: Path) -> None:
    site, machine = any_site, any_site.machine(tmp_path / "machine")
    done = machine.run("run")
    assert done.returncode == 0, done.stderr
    document = site.client(machine)
    assert document["state"] == "enrolled"
    assert document["hostname"] == "laptop"
    assert document["plugins"]["counter"] == {"number": 1}
    assert document["plugins"]["penguindome"]["manifest"] == "ok"
    assert document["sequence"] == 1
    assert "All is well." in machine.run("status").stdout.decode()


def test_a_machine_waits_for_approval_and_then_all_that_waited_arrives(server: Server, tmp_path: Path) -> None:
    site = Site(server.start(enrolment__policy="approve"))
    machine = site.machine(tmp_path / "machine")
    assert machine.run("enroll").returncode == 1
    assert site.client(machine)["state"] == "pending"
    assert machine.run("run").returncode == 0
    approve(server.store, machine.client().identity.client_id, who="test", now=utc_now())
    until(lambda: machine.run("enroll").returncode == 0, what="enrolment")
    assert machine.run("run").returncode == 0
    assert site.client(machine)["plugins"]["counter"] == {"number": 1}


def test_a_one_time_token_enrols_at_once_and_only_once(server: Server, tmp_path: Path) -> None:
    site = Site(server.start(enrolment__policy="approve"))
    token = create_token(server.store, who="test", lifetime=timedelta(hours=1), now=utc_now())
    first, second = site.machine(tmp_path / "first", "first"), site.machine(tmp_path / "second", "second")
    first.set_up(enrolment_key=None, token=token)
    second.set_up(enrolment_key=None, token=token)
    assert first.run("enroll").returncode == 0
    assert second.run("enroll").returncode == 1
    assert first.run("run").returncode == 0
    assert site.client(first)["reported_at"] is not None


def test_nothing_is_lost_or_applied_twice_while_the_server_is_away(site: Site, machine: Machine) -> None:
    machine.minute()
    site.server.stop()
    machine.collect(3)
    assert machine.run("submit").returncode == 1
    assert len(machine.client().spool.waiting()) == 3
    site.server.start()
    assert machine.run("submit").returncode == 0
    assert site.counted(machine) == [(None, 1), (1, 2), (2, 3), (3, 4)]


def test_an_answer_that_was_lost_changes_nothing(site: Site, machine: Machine) -> None:
    """The server stores a report and its answer never arrives; the same report goes out again, and counts once."""
    machine.minute()
    machine.collect(1)
    with _Forgetful(site.server.port) as port:
        (machine.paths.settings / "client.yml").write_text(f"hostname: laptop\nserver.url: http://127.0.0.1:{port}\n")
        assert machine.run("submit").returncode == 1
    until(lambda: site.client(machine)["sequence"] == 2)
    (machine.paths.settings / "client.yml").write_text("hostname: laptop\n")
    assert machine.run("submit").returncode == 0
    assert site.counted(machine) == [(None, 1), (1, 2)]
    machine.collect(1)
    assert machine.run("submit").returncode == 0
    assert "cloned-client" not in site.open_issues()


class _Forgetful:
    """A TCP proxy that hands requests on and swallows the answers, breaking off when one begins."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *error: object) -> None:
        self._thread.join(timeout=30)
        self._listener.close()

    def _serve(self) -> None:
        taken, _ = self._listener.accept()
        with taken, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=lambda: (server.recv(1), taken.shutdown(socket.SHUT_RDWR)))
            back.start()
            try:
                while data := taken.recv(65536):
                    server.sendall(data)
            except OSError:
                pass
            back.join()


def test_a_report_that_the_server_finds_too_large_is_set_aside_and_the_next_one_arrives(
    server: Server, tmp_path: Path
) -> None:
    site = Site(server.start(limits__report_bytes=16384, **AUTOMATIC))
    machine = site.machine(tmp_path / "machine")
    machine.plugin("big.py", PYTHON_PLUGIN + "print('\"' + 'x' * 20000 + '\"')")
    site.publish(machine.paths.client_code)
    machine.minute()
    assert len(machine.client().spool.bad()) == 1
    machine.plugin("big.py", PYTHON_PLUGIN + "print(1)")
    site.publish(machine.paths.client_code)
    until(lambda: machine.minute(now=True).spool.bad() and site.client(machine).get("sequence"), what="a report")
    assert site.client(machine)["plugins"]["penguindome"]["bad_reports"] >= 1


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_machine_whose_clock_is_wrong_reports_all_the_same(site: Site, machine: Machine, hours: int) -> None:
    machine.later(hours=hours)
    machine.minute()
    document = site.client(machine)
    assert document["sequence"] == 1
    assert abs(utc_now() - document["collected_at"]) < timedelta(minutes=2)
    assert document["plugins"]["penguindome"]["clock_offset"] == -hours * 3600


def test_two_machines_with_one_disk_image_are_noticed_and_both_reports_are_stored(
    site: Site, machine: Machine, tmp_path: Path
) -> None:
    machine.minute()
    shutil.copytree(machine.paths.root, tmp_path / "clone")
    clone = Machine.__new__(Machine)
    clone.__dict__.update(machine.__dict__, paths=Paths(tmp_path / "clone"))
    for one in (machine, clone):
        one.collect(1)
        assert one.run("submit").returncode == 0
    assert "cloned-client" in site.open_issues()
    assert [one.client().spool.waiting() for one in (machine, clone)] == [[], []]


def test_a_revoked_machine_keeps_its_reports_and_its_user_is_told(site: Site, machine: Machine) -> None:
    machine.minute()
    revoke(site.server.store, machine.client().identity.client_id, who="test", now=utc_now())
    machine.collect(1)
    until(lambda: machine.run("update").returncode == 1, what="revocation")
    machine.run("submit")
    assert "does not take reports of this machine" in machine.run("status").stdout.decode()
    assert len(machine.client().spool.waiting()) == 1


def test_a_device_key_of_another_machine_opens_nothing(site: Site, machine: Machine) -> None:
    machine.minute()
    path = machine.paths.client_state / "device.key"
    path.write_text(DeviceKey.generate("thief").text)
    machine.collect(1)
    done = machine.run("submit")
    assert done.returncode == 1
    assert b"not enrolled here" in done.stderr
    assert len(machine.client().spool.waiting()) == 1


@pytest.mark.timeout(600)
def test_a_client_killed_at_any_instant_loses_no_report_and_none_counts_twice(any_site: Site, tmp_path: Path) -> None:
    """Every number that the counter ever reported forms one unbroken chain in the trail, whatever was killed when."""
    site, machine = any_site, any_site.machine(tmp_path / "machine")
    machine.minute()
    kills = 60 if needs.testing_all() else 8
    began = time.monotonic()
    machine.run("run", "--now")
    whole = time.monotonic() - began
    for number in range(kills):
        process = machine.start("run", "--now")
        deadline = time.monotonic() + whole * (0.2 + 0.9 * number / kills)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.communicate()
    assert machine.run("run", "--now").returncode == 0
    assert machine.client().spool.waiting() == []
    chain = site.counted(machine)
    assert [old for old, _ in chain] == [None, *(new for _, new in chain[:-1])]
    assert [new for _, new in chain] == sorted({new for _, new in chain})
    document = site.client(machine)
    assert document["plugins"]["counter"]["number"] == chain[-1][1]
    assert document["sequence"] == machine.client().state.sequence
    assert "cloned-client" not in site.open_issues()
