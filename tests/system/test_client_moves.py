"""Booted machines that move to the releases they are offered, by their own package manager, with their timers alone at
work: what they install, what they go back from, and what no interruption leaves broken.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arch_stand_ins import pacman, stand_ins
from built import debian_packages, pacman_packages
from client_packages import DEAF, NO_MODULE
from client_peer import Peer
from containers import Machine, Site, eventually
from penguindome import json
from release_packages import Made
from roots import require_roots

pytestmark = pytest.mark.timeout(900)

OFTEN = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/3\nRandomizedDelaySec=0\nAccuracySec=1s\n"
STATE = "/var/lib/penguindome/client"
HOLDS_DPKG = """
import fcntl, os, pathlib, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
while pathlib.Path("/run/hold-lock").exists(): time.sleep(0.1)
"""


class Laptop:
    """A booted machine with the client of release 1, and the peer that it talks to."""

    def __init__(self, machine: Machine, peer: Peer, kind: str, base: Path, directory: Path) -> None:
        self.machine, self.peer, self.kind, self.base, self.directory = machine, peer, kind, base, directory
        self.number = 1
        self.in_force = 1

    def make(self, **changes: Any) -> Made:
        """The next release, which is not offered yet."""
        self.number += 1
        return Made(self.number, **changes)

    def offer(self, made: Made) -> None:
        package = getattr(made, self.kind)(self.base, self.directory, self.peer.server_key)
        self.peer.packages[made.number, self.kind] = package.read_bytes()
        self.peer.offered = made.describe({self.kind: package}, self.peer.server_key)

    def record(self) -> dict[str, Any]:
        path = self.machine.root.at(f"{STATE}/update.json")
        return dict(json.loads(path.read_bytes())) if path.exists() else {"phase": None, "release": 0, "reason": ""}

    def is_at(self, phase: str, number: int) -> bool:
        record = self.record()
        return (record["phase"], record["release"]) == (phase, number)

    def wait_for(self, phase: str, number: int) -> dict[str, Any]:
        """Until the move to a release has come so far."""
        try:
            eventually(f"{phase} {number}", lambda: self.is_at(phase, number), 120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.record()}\n{self.machine.journal()[-6000:]}") from error
        return self.record()

    def wait_for_report(self, number: int, status: str, reason: str = "") -> None:
        """Until the timer reported the release that is in force, and what became of the update."""

        def reported() -> bool:
            said = self.peer.reports[-1]["plugins"]
            own, update = said["penguindome"], said["penguindome"].get("update") or {}
            return (
                said["hello"] == {"release": number}
                and (own["manifest"], own["verification"], own["release"]) == ("ok", [], number)
                and update.get("status") == status
                and reason in (update.get("reason") or "")
            )

        try:
            eventually(f"release {number} reports {status}", reported, 120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.peer.reports[-1]['plugins']}\n{self.record()}") from error
        self.in_force = number

    def version(self) -> str:
        ask = {"deb": ["dpkg-query", "-Wf", "${db:Status-Abbrev}${Version}"], "pacman": ["pacman", "-Q"]}[self.kind]
        return self.machine.run(*ask, "penguindome-client").stdout.strip()

    def assert_has(self, number: int) -> None:
        """The package manager knows the release, and all is in order for it."""
        version = {"deb": f"ii 1:{number}+0.1.0", "pacman": f"penguindome-client 1:{number}+0.1.0-1"}[self.kind]
        assert self.version() == version
        self.machine.run("penguindome-client", "verify")
        assert self.machine.run("systemctl", "--failed", "--no-legend").stdout == ""
        if self.kind == "deb":
            assert self.machine.run("dpkg", "--audit").stdout == ""
        assert not self.machine.root.at("/var/lib/pacman/db.lck").exists()

    def hold(self) -> None:
        """Let the scripts of packages wait half-way, until `release` is called."""
        self.machine.run("rm", "-f", "/run/at-work")
        self.machine.run("touch", "/run/hold")

    def release(self) -> None:
        self.machine.run("rm", "-f", "/run/hold")

    def is_half_way(self) -> bool:
        return self.machine.run("test", "-e", "/run/at-work", check=False).status == 0

    def kill_everything(self) -> None:
        """The watcher, the package manager, and the scripts that it runs, without a warning."""
        self.machine.shell("systemctl kill --signal=KILL 'penguindome-client-update-*.service'")


@pytest.fixture(scope="module", params=["deb", "pacman"])
def laptop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    """A machine for each package manager, which goes from release to release."""
    require_roots()
    kind, directory = request.param, tmp_path_factory.mktemp("releases")
    base = (debian_packages() if kind == "deb" else pacman_packages()).client
    with Site() as site:
        peer = Peer(site.namespace)
        machine = site.prepare("laptop", "debian12-ready" if kind == "deb" else "pacman")
        machine.root.at("/etc/machine-id").unlink(missing_ok=True)
        machine.root.write("/etc/systemd/system/penguindome-client.timer.d/often.conf", OFTEN)
        patience = "update.lock_patience: 3s\nupdate.reach_patience: 4s\n"
        machine.root.write("/etc/penguindome/client.d/50-site.yml", f"update.spread: 0s\n{patience}")
        machine.root.write("/root/laptop.bundle", peer.bundle().to_text(), mode=0o600)
        if kind == "pacman":
            pacman(machine.root, "-U", *stand_ins(directory))
        first = getattr(Made(1), kind)(base, directory, peer.server_key)
        # As somebody who installs from the repository leaves it: this is the way back from the first update.
        kept = {"deb": "/var/cache/apt/archives/penguindome-client_1%3a1+0.1.0_amd64.deb",
                "pacman": f"/var/cache/pacman/pkg/{first.name}"}[kind]  # fmt: skip
        machine.root.at(kept).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first, machine.root.at(kept))
        machine.start()
        install = {"deb": ["apt-get", "install", "--yes"], "pacman": ["pacman", "-U", "--noconfirm"]}[kind]
        machine.run(*install, kept)
        machine.run("penguindome-client", "setup", "--bundle", "/root/laptop.bundle", "--start")
        made = Laptop(machine, peer, kind, base, directory)
        eventually("the timer reports", lambda: peer.reports and "hello" in peer.reports[-1]["plugins"], 60)
        yield made
        peer.close()


def test_a_release_arrives_by_itself(laptop: Laptop) -> None:
    made = laptop.make()
    laptop.offer(made)
    laptop.wait_for("done", made.number)
    laptop.wait_for_report(made.number, "done")
    laptop.assert_has(made.number)
    assert "moved from" in laptop.machine.run("penguindome-client", "status").stdout
    # The minute may not write to /etc; what it starts may.
    told = laptop.machine.root.at("/etc/apt/sources.list.d/penguindome.sources")
    assert told.exists() == (laptop.kind == "deb")


BROKEN = {"it-cannot-be-imported": (NO_MODULE, "nothing_of_this_name"), "it-is-deaf": (DEAF, "deaf")}


@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_release_goes_back_by_itself(laptop: Laptop, code: dict[str, str], reason: str) -> None:
    made, before = laptop.make(code=code), laptop.in_force
    laptop.offer(made)
    laptop.wait_for("failed", made.number)
    laptop.wait_for_report(before, "failed", reason)
    laptop.assert_has(before)


def test_what_is_killed_half_way_is_begun_again(laptop: Laptop) -> None:
    made = laptop.make()
    laptop.hold()
    laptop.offer(made)
    eventually("the package manager is half-way", laptop.is_half_way, 120)
    laptop.kill_everything()
    laptop.release()
    laptop.wait_for("done", made.number)
    laptop.wait_for_report(made.number, "done")
    laptop.assert_has(made.number)


def test_a_power_cut_half_way_is_mended_after_the_boot(laptop: Laptop) -> None:
    made = laptop.make()
    laptop.hold()
    laptop.offer(made)
    eventually("the package manager is half-way", laptop.is_half_way, 120)
    laptop.machine.kill()
    laptop.machine.start()
    laptop.wait_for("done", made.number)
    laptop.wait_for_report(made.number, "done")
    laptop.assert_has(made.number)


def test_while_somebody_else_installs_the_update_waits(laptop: Laptop) -> None:
    machine, made = laptop.machine, laptop.make()
    machine.run("touch", "/run/hold-lock")
    if laptop.kind == "deb":
        machine.root.write("/opt/lock.py", HOLDS_DPKG)
        machine.run("systemd-run", "--unit=other", "python3", "/opt/lock.py")
    else:
        machine.run("touch", "/var/lib/pacman/db.lck")
    laptop.offer(made)
    holds = "lock-frontend" if laptop.kind == "deb" else "db.lck"
    eventually("it waits", lambda: holds in laptop.record()["reason"], 60)
    assert laptop.record()["phase"] == "ready"
    assert holds in machine.run("penguindome-client", "status").stdout
    machine.run("rm", "-f", "/run/hold-lock", "/var/lib/pacman/db.lck")
    eventually("the lock is free", lambda: "holds" in laptop.record()["reason"] or laptop.record()["attempts"] == 0, 60)
    machine.run("penguindome-client", "update", check=False)
    laptop.wait_for("done", made.number)
    laptop.assert_has(made.number)
    laptop.wait_for_report(made.number, "done")
