"""What the minute starts outside of itself: from inside its sandbox, with the unit as the package installs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from built import debian_packages
from containers import Machine, Site, eventually, in_the_place_of
from roots import require_roots

pytestmark = pytest.mark.timeout(900)

PYTHON = "/usr/lib/penguindome/client/venv/bin/python"
PROGRAM = """
import sys
from penguindome.client.transient import start
from penguindome.paths import Paths

open("/run/minute-says", "w").write(open("/proc/self/status").read())
try:
    open("/usr/lib/penguindome/client/by-the-minute", "w")
except OSError:
    start(Paths(), sys.argv[1], ["/bin/sh", "/opt/started.sh", sys.argv[1]], description="something that goes on")
"""
STARTED = """
set -eu
name=$1
env > /run/$name.environment
cat /proc/self/cgroup > /run/$name.cgroup
cat /proc/self/status > /run/$name.status
# Nothing of this may the minute itself.
touch /usr/lib/penguindome/client/$name /root/$name /home/$name /tmp/$name
mkdir -p /mnt/$name
mount -t tmpfs tmpfs /mnt/$name
umount /mnt/$name
setpriv --reuid=65534 --regid=65534 --clear-groups true
chmod u+s /usr/lib/penguindome/client/$name
hostname > /dev/null
echo ready > /run/$name.ready
until [ -e /run/$name.go ]; do sleep 0.1; done
echo done > /run/$name.done
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A booted Debian with the client installed."""
    require_roots()
    package = debian_packages().client
    with Site() as site:
        made = site.prepare("laptop", "debian12-ready")
        shutil.copyfile(package, made.root.at(f"/var/tmp/{package.name}"))
        made.start()
        made.run("apt-get", "install", "--yes", "--quiet", f"/var/tmp/{package.name}")
        made.root.write("/opt/start.py", PROGRAM)
        made.root.write("/opt/started.sh", STARTED)
        yield made


def status_of(machine: Machine, name: str) -> dict[str, str]:
    lines = machine.run("cat", name).stdout.splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def exists(machine: Machine, name: str) -> bool:
    return machine.run("test", "-e", name, check=False).status == 0


def test_what_the_minute_starts_is_outside_of_its_sandbox_and_outlives_it(machine: Machine) -> None:
    in_the_place_of(machine, "penguindome-client.service", f"{PYTHON} -I /opt/start.py action")
    eventually("what was started runs", lambda: exists(machine, "/run/action.ready"))
    inside, outside = status_of(machine, "/run/minute-says"), status_of(machine, "/run/action.status")
    # The container has a filter of its own around all that runs in it.
    everything = status_of(machine, "/proc/1/status")
    # The minute was in its sandbox.
    assert inside["NoNewPrivs"] == "1"
    assert int(inside["Seccomp_filters"]) > int(everything["Seccomp_filters"])
    assert inside["CapBnd"] != everything["CapBnd"]
    assert not exists(machine, "/usr/lib/penguindome/client/by-the-minute")
    # What it started is not.
    assert outside["NoNewPrivs"] == "0"
    assert outside["Seccomp_filters"] == everything["Seccomp_filters"]
    assert outside["CapBnd"] == outside["CapEff"] == everything["CapBnd"]
    for name in ("/root/action", "/home/action", "/tmp/action", "/usr/lib/penguindome/client/action"):
        assert exists(machine, name), name
    environment = machine.run("cat", "/run/action.environment").stdout
    assert "INVOCATION_ID=" in environment
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n" in environment
    assert "HOME=/root\n" in environment

    machine.run("systemctl", "stop", "instead.service")
    assert machine.run("systemctl", "is-active", "instead.service", check=False).stdout.strip() == "inactive"
    group = machine.run("cat", "/run/action.cgroup").stdout
    assert "/penguindome-client-action-" in group
    assert "instead.service" not in group
    unit = group.strip().rpartition("/")[2]
    assert machine.run("systemctl", "is-active", unit).stdout.strip() == "active"
    machine.run("touch", "/run/action.go")
    eventually("it goes on after the minute", lambda: exists(machine, "/run/action.done"))
    eventually("nothing of it is left", lambda: _is_gone(machine, unit))


def _is_gone(machine: Machine, unit: str) -> bool:
    return unit not in machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend").stdout


def test_a_unit_that_fails_does_not_stay_behind_either(machine: Machine) -> None:
    machine.root.write("/opt/started.sh", STARTED.replace("set -eu\n", "set -eu\nexit 3\n"))
    try:
        in_the_place_of(machine, "penguindome-client.service", f"{PYTHON} -I /opt/start.py failing")
        eventually("nothing of it is left", lambda: _is_gone(machine, "penguindome-client-failing"))
        assert "status=3" in machine.journal()
    finally:
        machine.root.write("/opt/started.sh", STARTED)


def test_two_of_one_name_run_side_by_side(machine: Machine) -> None:
    for _ in range(2):
        machine.run("rm", "-f", "/run/twice.ready")
        in_the_place_of(machine, "penguindome-client.service", f"{PYTHON} -I /opt/start.py twice")
        eventually("what was started runs", lambda: exists(machine, "/run/twice.ready"))
    units = machine.run("systemctl", "list-units", "--plain", "--no-legend", "penguindome-client-twice-*").stdout
    assert len(units.splitlines()) == 2
    machine.run("touch", "/run/twice.go")
    eventually("nothing of them is left", lambda: _is_gone(machine, "penguindome-client-twice"))
