"""The units as they are shipped, and the drop-ins that settings ask for."""

from __future__ import annotations

import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest

from needs import require_program
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome_server.settings import server_settings_schema
from penguindome_tools.units import drop_ins, write_drop_ins

DEBIAN = Path(__file__).parents[2] / "debian"
SERVER = DEBIAN / "penguindome-server.service"
AUDIT = DEBIAN / "penguindome-server.penguindome-audit.service"
REPOSITORY = DEBIAN / "penguindome-server.penguindome-repository.service"
CLIENT = DEBIAN / "penguindome-client.service"


def settings(paths: Paths, **values: Any) -> Settings:
    """Settings of a server; names with `__` for the dot."""
    return Settings.of(
        server_settings_schema(paths), {name.replace("__", "."): value for name, value in values.items()}
    )


def texts(paths: Paths, **values: Any) -> dict[str, str]:
    """The drop-ins that these settings ask for, by unit; those that are not there are left out."""
    found = drop_ins(settings(paths, **values), paths)
    return {path.parent.name.removesuffix(".d"): text for path, text in found.items() if text}


@pytest.mark.parametrize(
    ("unit", "most"),
    [(SERVER, 15), (AUDIT, 15), (REPOSITORY, 25), (CLIENT, 25)],
    ids=["server", "audit", "repository", "client"],
)
def test_units_are_hardened(unit: Path, most: int) -> None:
    """As `systemd-analyze security` rates them: 100 is wide open, 0 is best."""
    program = require_program("systemd-analyze")
    done = subprocess.run(
        [program, "security", "--no-pager", "--offline=true", f"--threshold={most}", unit],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()


def test_the_server_stays_hardened_with_a_port_below_1024(tmp_path: Path) -> None:
    program = require_program("systemd-analyze")
    unit = tmp_path / SERVER.name
    drop_in = texts(Paths(tmp_path), listen__port=443)[SERVER.name]
    unit.write_text(SERVER.read_text() + drop_in)
    done = subprocess.run(
        [program, "security", "--no-pager", "--offline=true", "--threshold=15", unit], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()


def test_the_audit_is_confined_as_the_server_is() -> None:
    """It works on the same store, as the same user; it serves nobody, so it needs no more than the server."""
    assert confinement(AUDIT) == confinement(SERVER)


def confinement(unit: Path) -> list[str]:
    own = ("Exec", "Type", "Syslog", "Kill", "Timeout", "Restart", "OOM", "Limit", "Nice", "RuntimeDirectory", "#")
    lines = unit.read_text().partition("[Service]\n")[2].partition("[Install]")[0].splitlines()
    return sorted(line for line in lines if line and not line.startswith(own))


@pytest.mark.parametrize("unit", sorted(DEBIAN.glob("*.service")), ids=lambda path: path.name)
def test_services_run_what_is_installed_by_its_full_path(unit: Path) -> None:
    for line in unit.read_text().splitlines():
        name, _, command = line.partition("=")
        if name.startswith("Exec"):
            assert command.startswith("/"), line


def test_the_client_is_limited_in_memory_and_processor() -> None:
    parser = RawConfigParser(strict=False, delimiters=("=",), inline_comment_prefixes=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep upper case
    parser.read_string(CLIENT.read_text())
    assert {"MemoryMax", "CPUQuota", "Nice", "TasksMax"} <= set(parser["Service"])


@pytest.mark.parametrize("name", ["penguindome-server.cron.d", "penguindome-client.cron.d"])
def test_cron_does_nothing_where_systemd_runs(name: str) -> None:
    jobs = [line for line in (DEBIAN / name).read_text().splitlines() if line and line[0] in "*0123456789"]
    assert jobs
    for job in jobs:
        command = job.split(maxsplit=6)[6]
        assert command.startswith("[ -d /run/systemd/system ] ||")
        # To cron, an unescaped % ends the command.
        assert "%" not in command


def test_plain_settings_need_no_drop_in(paths: Paths) -> None:
    assert texts(paths) == {}


def test_each_port_with_tls_gets_certificate_and_key_from_root(paths: Paths) -> None:
    ports = {"9443": {"certificate": "/etc/ssl/50%.pem"}, "8080": {}}
    text = texts(paths, tls__certificate="/c.pem", tls__key="/k.pem", ports=ports)[SERVER.name]
    lines = [line for line in text.splitlines() if line.startswith("LoadCredential=")]
    assert lines == [
        "LoadCredential=tls-8443.crt:/c.pem",
        "LoadCredential=tls-8443.key:/k.pem",
        "LoadCredential=tls-9443.crt:/etc/ssl/50%%.pem",
        "LoadCredential=tls-9443.key:/etc/ssl/50%%.pem",
    ]
    assert "AmbientCapabilities" not in text


@pytest.mark.parametrize("values", [{"listen__port": 443}, {"ports": {"80": {}}}])
def test_a_port_below_1024_gets_one_capability(paths: Paths, values: dict[str, Any]) -> None:
    text = texts(paths, **values)[SERVER.name]
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" in text


def test_a_store_and_a_log_elsewhere_may_be_written_by_server_and_audit(paths: Paths) -> None:
    found = texts(
        paths,
        database__uri="sqlite:///srv/pengu in/store.sqlite",
        logging__handler="file",
        logging__file__path="/var/log/site/p.log",
    )
    for unit in (SERVER.name, "penguindome-audit.service", "penguindome-repository.service"):
        assert 'ReadWritePaths="/srv/pengu in"\nReadWritePaths="/var/log/site"\n' in found[unit]


def test_another_interval_replaces_that_of_the_timer(paths: Paths) -> None:
    assert texts(paths, audit__interval="10m")["penguindome-audit.timer"].endswith(
        "[Timer]\nOnCalendar=\nOnBootSec=5m\nOnUnitActiveSec=10m\n"
    )


def test_drop_ins_are_written_once_and_removed_when_they_are_no_longer_needed(paths: Paths) -> None:
    (paths.root / "etc/systemd/system").mkdir(parents=True)
    low, plain = settings(paths, listen__port=443), settings(paths)
    assert write_drop_ins(low, paths)
    drop_in = paths.root / "etc/systemd/system/penguindome-server.service.d/10-setup.conf"
    assert drop_in.stat().st_mode & 0o777 == 0o644
    assert not write_drop_ins(low, paths)
    assert write_drop_ins(plain, paths)
    assert not drop_in.exists()
    assert not write_drop_ins(plain, paths)


def test_where_there_is_no_systemd_nothing_is_written(paths: Paths) -> None:
    assert not write_drop_ins(settings(paths, listen__port=443), paths)
    assert list(paths.root.iterdir()) == []
