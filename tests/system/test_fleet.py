"""A fleet as its users see it: booted machines, packages installed with the commands of the README, and from then on
timers alone at work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arch_stand_ins import pacman, stand_ins
from built import debian_packages, pacman_packages
from containers import Site, eventually
from fleet import A_FEW_MINUTES, assert_quiet, boot, clients, follow, hand_over, is_healthy, prepare, reports_after
from roots import require_roots

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def site(tmp_path: Path) -> Any:
    require_roots()
    with Site() as made:
        yield made


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
    boot(machines)

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
