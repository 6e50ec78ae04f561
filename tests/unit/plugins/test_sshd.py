"""What a real sshd says of itself, and how the plugin tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Read = Callable[[str], str]

DEFAULT = {
    "permit_root_login": "prohibit-password",
    "password_authentication": True,
    "permit_empty_passwords": False,
    "keyboard_interactive_authentication": False,
    "public_key_authentication": True,
    "x11_forwarding": True,
    "use_pam": True,
    "ports": [22],
    "listen_addresses": ["0.0.0.0:22", "[::]:22"],
}


def describe(plugin: ModuleType, read: Read, stem: str) -> dict[str, Any]:
    texts = [read(f"{stem}.{user}.txt") for user in plugin.USERS]
    assert all(texts)
    report = plugin.describe([plugin.parse_configuration(text) for text in texts])
    assert isinstance(report, dict)
    return report


@pytest.mark.parametrize("machine", ["debian11-default", "debian12-default", "debian13-default"])
def test_the_defaults_of_debian_are_told(plugin: ModuleType, read: Read, machine: str) -> None:
    assert describe(plugin, read, machine) == DEFAULT


@pytest.mark.parametrize("machine", ["debian11-match", "debian12-match", "debian13-match"])
def test_match_blocks_count_for_root_and_for_an_ordinary_user(plugin: ModuleType, read: Read, machine: str) -> None:
    report = describe(plugin, read, machine)
    assert report["permit_root_login"] == "no"  # PermitRootLogin yes, but Match User root says no
    assert report["password_authentication"] is True  # PasswordAuthentication no, but yes for the user nobody
    assert report["ports"] == [22, 2222]
    assert report["listen_addresses"] == ["127.0.0.1:22", "127.0.0.1:2222", "[::1]:22", "[::1]:2222"]


def test_units_of_systemd_tell_whether_it_runs(plugin: ModuleType, read: Read) -> None:
    def active(machine: str) -> set[str]:
        return {unit for unit, active in plugin.parse_units(read(f"{machine}.units.txt")).items() if active}

    assert active("debian13-default") == {"ssh.service"}
    assert active("debian13-socket") == {"ssh.socket"}
    assert active("debian13-stopped") == set()


def test_with_socket_activation_systemd_tells_the_port(plugin: ModuleType, read: Read) -> None:
    report = describe(plugin, read, "debian13-socket")
    addresses = plugin.parse_socket(read("debian13-socket.socket.txt"))
    plugin.apply_socket(report, addresses)
    assert (report["ports"], report["listen_addresses"]) == ([2022], ["[::]:2022"])


def test_a_socket_that_says_nothing_changes_nothing(plugin: ModuleType) -> None:
    report = dict(DEFAULT)
    plugin.apply_socket(report, plugin.parse_socket("Listen=/run/x.sock (Stream)\n"))
    assert report == DEFAULT


def test_a_stopped_server_is_no_process(plugin: ModuleType, read: Read) -> None:
    lines = read("debian13-default.processes.txt").splitlines()
    assert [plugin.is_listener(line.encode()) for line in lines] == [True]


@pytest.mark.parametrize(
    ("command_line", "expected"),
    [
        (b"sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\0", True),
        (b"/usr/sbin/sshd\0-D\0", True),
        (b"sshd: alice [priv]\0", False),
        (b"sshd: alice@pts/0\0", False),
        (b"/usr/sbin/sshd\0-T\0", False),
        (b"/usr/sbin/sshd\0-i\0", False),
        (b"vi\0/etc/ssh/sshd\0", False),
        (b"", False),
        (b"\xff\xfe", False),
    ],
)
def test_only_the_listener_counts_as_running(plugin: ModuleType, command_line: bytes, expected: bool) -> None:
    assert plugin.is_listener(command_line) is expected


def test_running_is_unknown_without_systemd_and_without_proc(plugin: ModuleType, tmp_path: Path) -> None:
    assert plugin.is_running({}, tmp_path) == "unknown"
    (tmp_path / "17").mkdir()
    (tmp_path / "17/cmdline").write_bytes(b"/sbin/init\0")
    assert plugin.is_running({"ssh.service": False}, tmp_path) is False
    assert plugin.is_running({"ssh.service": True}, tmp_path) is True
    (tmp_path / "17/cmdline").write_bytes(b"/usr/sbin/sshd\0-D\0")
    assert plugin.is_running({"ssh.service": False}, tmp_path) is True


def test_an_old_name_for_the_root_login_is_told_by_its_new_one(plugin: ModuleType) -> None:
    configuration = plugin.parse_configuration("permitrootlogin without-password\n")
    assert plugin.describe([configuration])["permit_root_login"] == "prohibit-password"


def test_what_sshd_does_not_say_is_unknown(plugin: ModuleType) -> None:
    report = plugin.describe([plugin.parse_configuration("permitrootlogin no\nport x\n")])
    assert report.pop("permit_root_login") == "no"
    assert set(map(str, report.values())) == {"unknown"}


def program(directory: Path, text: str) -> str:
    path = directory / "sshd"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_refusal_is_unknown_with_its_reason(plugin: ModuleType, tmp_path: Path) -> None:
    report = plugin.ask_sshd(
        program(tmp_path, "echo 'Missing privilege separation directory: /run/sshd' >&2; exit 255")
    )
    assert "Missing privilege separation directory: /run/sshd" in report.pop("reason")
    assert set(report) == set(plugin.FIELDS)
    assert set(report.values()) == {"unknown"}


def test_an_answer_that_is_no_configuration_is_unknown(plugin: ModuleType, tmp_path: Path) -> None:
    report = plugin.ask_sshd(program(tmp_path, "echo hello"))
    assert report["permit_root_login"] == "unknown"
    assert "configuration" in report["reason"]
