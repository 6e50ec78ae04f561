"""Every check that is shipped: documents with its problem, and without; and none cries over what is not known."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from penguindome_server.checks import SEVERITIES, CheckSet, load_checks

DIRECTORY = Path(__file__).parents[2] / "server/penguindome_server/checks.d"
NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)

BOOT = {
    "path": "/dev/nvme0n1p1",
    "mountpoints": ["/boot/efi"],
    "kind": "filesystem",
    "encrypted": False,
    "method": "none",
    "boot": True,
}
ROOT = {
    "path": "/dev/mapper/vg-root",
    "mountpoints": ["/"],
    "kind": "filesystem",
    "encrypted": True,
    "method": "luks2",
}
HOME = {
    "path": "/dev/sdb1",
    "mountpoints": ["/home"],
    "kind": "filesystem",
    "encrypted": False,
    "method": "none",
}
SWAP = {
    "path": "/dev/mapper/vg-swap",
    "mountpoints": [],
    "kind": "swap",
    "encrypted": True,
    "method": "luks2",
}
UNKNOWN = {**ROOT, "encrypted": "unknown", "method": "unknown"}
PLAIN_SWAP = {**SWAP, "path": "/dev/nvme0n1p3", "encrypted": False, "method": "none"}
NFTABLES = {"name": "nftables", "active": True, "input_policy": "drop", "rules": 7}

GOOD: dict[str, Any] = {
    "os_info": {
        "distribution": "debian",
        "version": "12",
        "codename": "bookworm",
        "name": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "6.1.0-40-amd64",
        "architecture": "x86_64",
        "virtualization": "none",
        "machine_type": "laptop",
        "boot_at": NOW - timedelta(days=2),
    },
    "ip_addresses": [{"interface": "wlan0", "address": "192.0.2.7", "prefix": 24, "family": "ipv4", "scope": "global"}],
    "network_devices": [{"name": "wlan0", "mac": "02:00:00:00:00:07", "kind": "wireless", "up": True}],
    "firewall": {"active": True, "ipv4": True, "ipv6": True, "backends": [NFTABLES]},
    "penguindome": {"manifest": "ok", "server_key": "A" * 40},
    "hd_encryption": {"encrypted": True, "volumes": [ROOT, SWAP, BOOT]},
    "sshd": {
        "installed": True,
        "running": True,
        "permit_root_login": "prohibit-password",
        "password_authentication": False,
        "permit_empty_passwords": False,
        "keyboard_interactive_authentication": False,
        "ports": [22],
        "listen_addresses": ["0.0.0.0:22", "[::]:22"],
    },
    "os_updates": {
        "supported": True,
        "manager": "apt",
        "patches": [],
        "pending": 0,
        "security_pending": 0,
        "release_upgrade": None,
        "reboot_needed": False,
        "out_of_support": False,
        "lists_updated_at": NOW - timedelta(hours=7),
    },
    "packages": {"manager": "dpkg", "count": 2114},
}


def machine(**changes: Any) -> dict[str, Any]:
    """A client's document like the good one; a mapping changes fields of a plugin's output, other values replace it."""
    plugins = dict(GOOD)
    for name, change in changes.items():
        plugins[name] = {**GOOD[name], **change} if isinstance(change, dict) else change
    return {"_id": "0" * 40, "hostname": "laptop7", "state": "enrolled", "collected_at": NOW, "plugins": plugins}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("disk-not-encrypted", {"hd_encryption": {"encrypted": False, "volumes": [ROOT, HOME, SWAP, BOOT]}}),
    ("swap-not-encrypted", {"hd_encryption": {"encrypted": False, "volumes": [ROOT, PLAIN_SWAP]}}),
    ("disk-encryption-unknown", {"hd_encryption": "unknown"}),
    ("disk-encryption-unknown", {"hd_encryption": {"encrypted": "unknown", "volumes": [UNKNOWN]}}),
    ("firewall-inactive", {"firewall": {"active": False, "ipv4": False, "backends": [{**NFTABLES, "active": False}]}}),
    ("firewall-missing", {"firewall": {"active": False, "ipv4": False, "ipv6": False, "backends": []}}),
    ("firewall-unknown", {"firewall": "unknown"}),
    ("firewall-unknown", {"firewall": {"active": "unknown", "backends": []}}),
    ("sshd-unknown", {"sshd": {"permit_root_login": "unknown", "password_authentication": "unknown"}}),
    ("sshd-unknown", {"sshd": {"running": "unknown", "permit_root_login": "unknown"}}),
    ("sshd-password-login", {"sshd": {"password_authentication": True}}),
    ("security-updates-pending", {"os_updates": {"pending": 3, "security_pending": 2}}),
    ("many-updates-pending", {"os_updates": {"pending": 50}}),
    ("update-lists-old", {"os_updates": {"lists_updated_at": NOW - timedelta(days=15)}}),
    ("reboot-needed", {"os_updates": {"reboot_needed": True}}),
    ("release-upgrade-available", {"os_updates": {"release_upgrade": "13"}}),
    ("release-out-of-support", {"os_updates": {"out_of_support": True}}),
    ("updates-unknown", {"os_updates": {"security_pending": "unknown"}}),
    ("updates-unknown", {"os_updates": "unknown"}),
    ("server-key-not-followed", {"penguindome": {"server_key_problem": "the chain leads back"}}),
    *(
        ("release-out-of-support", {"os_info": {"distribution": distribution, "version": version}})
        for distribution, version in (
            ("debian", "11"), ("ubuntu", "18.04"), ("ubuntu", "25.10"), ("linuxmint", "20.3"), ("fedora", "42"),
            ("fedora", "9"), ("centos", "7"), ("opensuse-leap", "15.6"),
        )
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def checks() -> CheckSet:
    """What is shipped."""
    return load_checks(DIRECTORY)


@pytest.mark.parametrize(("name", "changes"), BAD)
def test_a_problem_fails_its_check_and_no_other(checks: CheckSet, name: str, changes: dict[str, Any]) -> None:
    assert checks.failing(machine(**changes)) == [name]


def test_root_with_a_password_fails_two_checks(checks: CheckSet) -> None:
    sshd = {"permit_root_login": "yes", "password_authentication": True}
    assert checks.failing(machine(sshd=sshd)) == ["sshd-password-login", "sshd-root-password"]


def test_a_password_by_pam_is_a_password_too(checks: CheckSet) -> None:
    sshd = {"permit_root_login": "yes", "keyboard_interactive_authentication": True}
    assert checks.failing(machine(sshd=sshd)) == ["sshd-root-password"]


def test_empty_passwords_fail_only_where_passwords_are_taken(checks: CheckSet) -> None:
    assert checks.failing(machine(sshd={"permit_empty_passwords": True})) == []
    sshd = {"permit_empty_passwords": True, "password_authentication": True}
    assert checks.failing(machine(sshd=sshd)) == ["sshd-empty-passwords", "sshd-password-login"]


def test_updates_of_an_unknown_distribution_are_not_watched(checks: CheckSet) -> None:
    document = machine()
    document["plugins"]["os_updates"] = {"supported": False, "manager": "unknown"}
    assert checks.failing(document) == ["updates-unsupported"]


GOOD_MACHINES: list[dict[str, Any]] = [
    {},
    {"hd_encryption": {"volumes": [ROOT, BOOT]}},
    {"sshd": {"installed": False, "running": False}},
    {"sshd": {"running": False, "permit_root_login": "yes", "password_authentication": True}},
    {"sshd": {"running": False, "permit_root_login": "unknown"}},
    {"os_updates": {"pending": 49}},
    {"os_updates": {"release_upgrade": "unknown", "reboot_needed": "unknown", "out_of_support": "unknown"}},
    {"os_updates": {"lists_updated_at": None}},
    {"os_updates": {"lists_updated_at": NOW - timedelta(days=14)}},
    {"os_info": {"distribution": "arch", "version": "rolling"}},
    {"os_info": {"distribution": "ubuntu", "version": "24.04"}},
    {"os_info": {"distribution": "ubuntu", "version": "22.04"}},
    {"os_info": {"distribution": "fedora", "version": "43"}},
    {"os_info": {"distribution": "linuxmint", "version": "22.1"}},
    {"os_info": {"distribution": "unknown", "version": "unknown"}},
]


@pytest.mark.parametrize("changes", GOOD_MACHINES)
def test_a_machine_without_a_problem_fails_no_check(checks: CheckSet, changes: dict[str, Any]) -> None:
    assert checks.failing(machine(**changes)) == []


@pytest.mark.parametrize("plugin", GOOD)
def test_what_is_unknown_fails_no_check_but_the_one_that_says_so(checks: CheckSet, plugin: str) -> None:
    failing = checks.failing(machine(**{plugin: "unknown"}))
    assert all(name.endswith("-unknown") and checks[name].severity == "low" for name in failing)


@pytest.mark.parametrize(
    "plugins",
    [
        {},
        dict.fromkeys(GOOD),
        {name: {"plugin_failed": True, "reason": "timed out", "exit_status": None} for name in GOOD},
        {name: [] for name in GOOD},
        {name: {} for name in GOOD},
    ],
)
def test_missing_and_failed_plugins_fail_no_check(checks: CheckSet, plugins: dict[str, Any]) -> None:
    assert checks.failing({"collected_at": NOW, "plugins": plugins}) == []


def test_a_client_without_any_data_fails_no_check(checks: CheckSet) -> None:
    assert checks.failing({"_id": "0" * 40, "hostname": "new", "state": "pending"}) == []


def test_every_check_has_a_document_that_fails_it(checks: CheckSet) -> None:
    shown = {name for name, _ in BAD} | {"sshd-root-password", "sshd-empty-passwords", "updates-unsupported"}
    assert {check.name for check in checks} == shown


def test_every_check_says_what_to_do_and_leaves_time_to_do_it(checks: CheckSet) -> None:
    for check in checks:
        assert len(check.remedy) > 60, check.name
        assert check.severity in SEVERITIES
        assert timedelta(hours=4) <= check.grace_period <= timedelta(weeks=8), check.name
        assert timedelta(days=1) <= check.alert_frequency <= timedelta(weeks=4), check.name
        if check.name.endswith("-unknown"):
            assert check.grace_period >= timedelta(weeks=2), check.name


@pytest.mark.parametrize("file", sorted(DIRECTORY.glob("*.yml")), ids=lambda file: file.name)
def test_a_shipped_file_fits_on_a_terminal(file: Path) -> None:
    assert all(len(line) <= 140 for line in file.read_text().splitlines())
