"""The units at work, with their hardening on: what they still see, what they no longer see, and what repairs itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from built import debian_packages, repacked
from containers import Machine, Site, eventually, in_the_place_of
from penguindome import json
from roots import require_roots

pytestmark = pytest.mark.timeout(900)

HEALTH = "https://penguindome.example.org:{}/penguindome/v1/healthz"
CA = "/var/lib/penguindome/tls/server.crt"
MOST = {"penguindome-server": 15, "penguindome-audit": 15, "penguindome-repository": 25, "penguindome-client": 25}

# Every collector, as the client runs it; all that they print goes to the file that is named.
LOOK = """
import json, pathlib, subprocess, sys
path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
said = {}
for plugin in sorted(pathlib.Path("/usr/lib/penguindome/client/plugins").iterdir()):
    command = ["/usr/lib/penguindome/client/venv/bin/python", str(plugin)]
    done = subprocess.run(command, capture_output=True, cwd="/", env={"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"})
    said[plugin.name] = [done.returncode, done.stdout.decode(), done.stderr.decode()]
pathlib.Path(sys.argv[1]).write_text(json.dumps(said))
"""


@pytest.fixture(
    scope="module", params=["debian12-ready", pytest.param("debian13-ready", marks=pytest.mark.long)], ids=["12", "13"]
)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted Debian with client and server installed, with the defaults."""
    require_roots()
    packages = debian_packages()
    with Site() as site:
        made = site.prepare("host", request.param)
        names = [f"/var/tmp/{package.name}" for package in (packages.client, packages.server)]
        for package, name in zip((packages.client, packages.server), names, strict=True):
            shutil.copyfile(package, made.root.at(name))
        newer = repacked(packages.client, made.root.at("/var/tmp"), version="0.99.0")
        newer.rename(made.root.at("/var/tmp/newer.deb"))
        made.root.preseed("penguindome-server", url=HEALTH.partition("/penguindome/")[0].format(8443))
        made.start()
        made.run("apt-get", "install", "--yes", "--quiet", *names)
        made.root.write("/opt/look.py", LOOK)
        yield made


def is_healthy(machine: Machine, port: int = 8443) -> bool:
    asked = machine.run("curl", "--silent", "--fail", "--cacert", CA, HEALTH.format(port), check=False)
    return asked.status == 0


def collected(machine: Machine, name: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads_plain(machine.run("cat", name).stdout)
    return said


def test_collectors_see_the_same_in_the_sandbox_of_their_unit_as_outside(machine: Machine) -> None:
    python = "/usr/lib/penguindome/client/venv/bin/python"
    in_the_place_of(machine, "penguindome-client.service", f"{python} /opt/look.py /run/inside.json")
    machine.run("systemd-run", "--quiet", "--wait", python, "/opt/look.py", "/run/outside.json")
    inside, outside = collected(machine, "/run/inside.json"), collected(machine, "/run/outside.json")
    assert set(outside) >= {"firewall.py", "hd_encryption.py", "os_info.py", "packages.py"}
    for name, said in outside.items():
        assert inside[name] == said, name


@pytest.mark.parametrize("unit", MOST)
def test_systemd_finds_the_units_hardened_on_the_machine_too(machine: Machine, unit: str) -> None:
    machine.run("systemd-analyze", "security", "--no-pager", f"--threshold={MOST[unit]}", f"{unit}.service")


def test_in_the_sandbox_of_the_server_neither_keys_nor_homes_can_be_read(machine: Machine) -> None:
    machine.root.write("/opt/try.sh", "for place; do ls -A $place && exit 1; done; touch /etc/x && exit 1; exit 0\n")
    closed = "/var/lib/penguindome/keys /var/lib/penguindome/client /home /root"
    in_the_place_of(machine, "penguindome-server.service", f"/bin/sh /opt/try.sh {closed}")


def in_release(machine: Machine) -> str:
    return machine.run("cat", "/var/lib/penguindome/repo/current/apt/dists/stable/InRelease", user="penguindome").stdout


def test_what_expires_is_signed_anew_by_a_timer_within_its_sandbox(machine: Machine) -> None:
    enabled = machine.run("systemctl", "is-enabled", "penguindome-repository.timer").stdout
    assert enabled == "enabled\n"
    assert "Valid-Until: " in in_release(machine)
    machine.run("systemctl", "start", "penguindome-repository.service")
    before = in_release(machine)
    python = "/usr/lib/penguindome/server/venv/bin/python"
    refresh = f"{python} -I -m penguindome_tools.cli release refresh --force"
    in_the_place_of(machine, "penguindome-repository.service", refresh)
    assert in_release(machine) != before
    said = machine.journal("instead.service")
    assert "signed anew: the indices of the repositories" in said
    assert "signed anew: the manifest of the clients' packages" in said
    # Nothing of root's is left among what the service user owns.
    found = machine.run("find", "/var/lib/penguindome/server", "/var/log/penguindome/server", "-user", "root")
    assert found.stdout == ""
    assert machine.run("sh", "-c", "grep -l gpg-agent /proc/[0-9]*/comm", check=False).stdout == ""


def test_in_the_sandbox_of_what_signs_neither_homes_nor_settings_can_be_written(machine: Machine) -> None:
    machine.root.write("/opt/write.sh", "for place; do touch $place/x 2>/dev/null && exit 1; done; exit 0\n")
    closed = "/etc /etc/penguindome /root /home /usr/lib/penguindome /var/lib/penguindome/server"
    in_the_place_of(machine, "penguindome-repository.service", f"/bin/sh /opt/write.sh {closed}")


def test_home_directories_are_hidden_from_collectors(machine: Machine) -> None:
    machine.root.write("/opt/homes.sh", "for place; do ls -A $place/ 2>&1 && exit 1; done; exit 0\n")
    in_the_place_of(machine, "penguindome-client.service", "/bin/sh /opt/homes.sh /home /root")


def test_the_service_user_cannot_read_the_private_key_of_tls_that_it_serves_with(machine: Machine) -> None:
    eventually("the installed server answers", lambda: is_healthy(machine))
    asked = machine.run("cat", "/var/lib/penguindome/tls/server.key", user="penguindome", check=False)
    assert asked.status != 0
    assert "PRIVATE" not in asked.stdout


def test_a_port_below_1024_beside_the_other_takes_setup_and_a_restart(machine: Machine) -> None:
    text = f"ports: {{443: {{certificate: {CA}, key: /var/lib/penguindome/tls/server.key}}}}\n"
    machine.run("sh", "-c", "cat > /etc/penguindome/server.d/60-low.yml", stdin=text)
    machine.run("penguindome", "setup", "--yes")
    machine.run("systemctl", "restart", "penguindome-server")
    try:
        eventually("the server answers on port 443", lambda: is_healthy(machine, 443))
        assert is_healthy(machine)
    finally:
        machine.run("rm", "/etc/penguindome/server.d/60-low.yml")
        machine.run("penguindome", "setup", "--yes")
        machine.run("systemctl", "restart", "penguindome-server")


def test_a_reload_with_settings_that_do_not_fit_is_refused_and_changes_nothing(machine: Machine) -> None:
    eventually("the installed server answers", lambda: is_healthy(machine))
    machine.run("sh", "-c", "cat > /etc/penguindome/server.d/70-wrong.yml", stdin="workers: many\n")
    try:
        refused = machine.run("systemctl", "reload", "penguindome-server", check=False)
        assert refused.status != 0
        assert "70-wrong.yml:1: workers:" in machine.journal("penguindome-server")
        assert is_healthy(machine)
    finally:
        machine.run("rm", "/etc/penguindome/server.d/70-wrong.yml")
    done = machine.run("systemctl", "reload", "penguindome-server", check=False)
    assert done.status == 0, machine.journal("penguindome-server")


def test_the_client_that_was_not_set_up_waits_without_a_word(machine: Machine) -> None:
    machine.run("systemctl", "start", "penguindome-client.service")
    assert "penguindome-client" not in machine.journal("penguindome-client.service")


def test_an_upgrade_that_a_power_cut_ended_is_finished_at_the_next_boot(machine: Machine) -> None:
    machine.run("dpkg", "--unpack", "/var/tmp/newer.deb")
    state = ("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "penguindome-client")
    assert machine.run(*state).stdout == "unpacked 0.99.0"
    machine.reboot()
    eventually("dpkg has finished", lambda: machine.run(*state).stdout == "installed 0.99.0", 120)
    machine.run("penguindome-client", "--version")
    eventually("the server answers", lambda: is_healthy(machine))
