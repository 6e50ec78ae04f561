"""A fleet as its users see it: booted machines, packages installed with the commands of the README, and from then on
timers alone at work.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import needs
from arch_stand_ins import pacman, stand_ins
from built import debian_packages, pacman_packages
from containers import Machine, Site, eventually
from penguindome import json
from roots import CHECKOUT, require_roots

pytestmark = pytest.mark.timeout(1200)

README = (CHECKOUT / "README.md").read_text()
HEALTH = "https://penguindome.example.org:8443/penguindome/v1/healthz"
CA = "/var/lib/penguindome/tls/server.crt"
UNITS = ("penguindome-server", "penguindome-audit", "penguindome-client")
# The timers are the package's own. Their period is too, in `make test-all`: else nobody waits for the minute to pass.
OFTEN = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/10\nRandomizedDelaySec=0\nAccuracySec=1s\n"
TIMER = "/etc/systemd/system/penguindome-client.timer.d/often.conf"
A_FEW_MINUTES = 300


def commands(prompt: str) -> list[str]:
    """What the README lets its reader type at this prompt."""
    return re.findall(rf"^{prompt}# (.*)$", README, re.MULTILINE)


def follow(machine: Machine, prompt: str, *, which: str = "", laptop: str = "laptop") -> str:
    """Type the README's commands that contain `which`, for the machine `laptop`, and say yes to what is asked."""
    found = [words for words in commands(prompt) if which in words]
    assert found, f"the README has no such command at {prompt}#"
    typed = [words.replace(" laptop ", f" {laptop} ") for words in found]
    return "".join(machine.shell(f"cd /root\n{words} <<< y").output for words in typed)


def clients(server: Machine) -> dict[str, dict[str, Any]]:
    """The server's list: host name -> client."""
    rows = json.loads(server.run("penguindome", "clients", "list", "--json").stdout)
    return {row["hostname"]: row for row in rows}


def is_healthy(server: Machine) -> bool:
    asked = server.run("curl", "--silent", "--fail", "--cacert", CA, HEALTH, check=False)
    return asked.status == 0


def reports_after(server: Machine, host: str, before: Any) -> bool:
    row = clients(server)[host]
    return row["reported_at"] is not None and row["reported_at"] != before


def assert_quiet(machine: Machine) -> None:
    """No traceback anywhere, no failed unit, and nothing that the hardening of our units forbade."""
    assert "Traceback" not in machine.journal()
    for unit in UNITS:
        journal = machine.journal(f"{unit}.service")
        for words in ("Operation not permitted", "Permission denied", "Read-only", "status=31/SYS", "code=dumped"):
            assert words not in journal, journal
    assert machine.run("systemctl", "--failed", "--no-legend").stdout == ""


@pytest.fixture
def site(tmp_path: Path) -> Any:
    require_roots()
    with Site() as made:
        yield made


def prepare(site: Site, name: str, system: str, files: tuple[Path, ...]) -> Machine:
    """A machine with the packages in root's home, as somebody copied them there."""
    machine = site.prepare(name, system)
    machine.root.at("/etc/machine-id").unlink(missing_ok=True)
    for file in files:
        shutil.copyfile(file, machine.root.at(f"/root/{file.name}"))
    if not needs.testing_all():
        machine.root.write(TIMER, OFTEN)
    return machine


def hand_over(server: Machine, client: Machine) -> None:
    """Carry the bundle to the client, as root would."""
    client.root.write("/root/laptops.bundle", server.root.at("/root/laptops.bundle").read_text(), mode=0o600)


def test_a_fleet_of_debian_and_pacman_machines_reports_by_itself(site: Site, tmp_path: Path) -> None:
    debs, arch = debian_packages(), pacman_packages()
    server = prepare(site, "server", "debian12-ready", (debs.server,))
    laptops = {
        "laptop12": prepare(site, "laptop12", "debian12-ready", (debs.client,)),
        "laptop13": prepare(site, "laptop13", "debian13-ready", (debs.client,)),
        "archlaptop": prepare(site, "archlaptop", "pacman", (arch.client,)),
    }
    pacman(laptops["archlaptop"].root, "-U", *stand_ins(tmp_path))
    machines = [server, *laptops.values()]
    for machine in machines:
        machine.launch()
    for machine in machines:
        machine.wait_until_up()

    follow(server, "server", which="./penguindome-server")
    eventually("the installed server answers", lambda: is_healthy(server))
    follow(server, "server", which="systemctl status")
    follow(server, "server", which="clients list")
    follow(server, "server", which="enrolment export")
    for name, laptop in laptops.items():
        hand_over(server, laptop)
        follow(laptop, "arch" if name == "archlaptop" else "laptop")

    eventually(
        "the timers ask for enrolment",
        lambda: {name for name, row in clients(server).items() if row["state"] == "pending"} == set(laptops),
        A_FEW_MINUTES,
    )
    for name, laptop in laptops.items():
        shown = clients(server)[name]["client_id"]
        status = laptop.run("penguindome-client", "status").output.replace(" ", "")
        assert shown in status, status
    for name in laptops:
        follow(server, "server", which="clients approve", laptop=name)
    for name in laptops:
        eventually(f"{name} reports", lambda name=name: reports_after(server, name, None), A_FEW_MINUTES)
    kinds = {"laptop12": "deb", "laptop13": "deb", "archlaptop": "pacman"}
    eventually(
        "the next minute says how each was installed",
        lambda: {name: row["package_kind"] for name, row in clients(server).items()} == kinds,
        A_FEW_MINUTES,
    )

    server.run("systemctl", "restart", "penguindome-server")
    eventually("the restarted server answers", lambda: is_healthy(server))
    server.run("systemctl", "reload", "penguindome-server")
    eventually("the reloaded server answers", lambda: is_healthy(server))
    server.run("systemctl", "start", "penguindome-audit.service", check=False)
    for machine in machines:
        assert_quiet(machine)

    seen = {name: row["last_seen_at"] for name, row in clients(server).items()}
    for machine in machines:
        machine.reboot()
    eventually("the rebooted server answers", lambda: is_healthy(server))
    eventually(
        "the rebooted machines speak to it",
        lambda: all(row["last_seen_at"] > seen[name] for name, row in clients(server).items()),
        A_FEW_MINUTES,
    )
    for machine in machines:
        assert_quiet(machine)
