"""What real package managers list."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

Read = Callable[[str], str]


@pytest.mark.parametrize(("machine", "apt"), [("debian12", "2.6.1"), ("debian13", "3.0.4")])
def test_packages_of_debian_are_listed_once_and_sorted(plugin: ModuleType, read: Read, machine: str, apt: str) -> None:
    text = read(f"{machine}.dpkg.txt")
    report = plugin.report("dpkg", plugin.parse_dpkg(text, "amd64"))
    names = [row["name"] for row in report["packages"]]
    assert len(names) == len(text.splitlines())
    assert names == sorted(set(names))
    assert {"name": "apt", "version": apt} in report["packages"]


def test_another_architecture_is_part_of_the_name(plugin: ModuleType, read: Read) -> None:
    packages = plugin.report("dpkg", plugin.parse_dpkg(read("debian12-multiarch.dpkg.txt"), "amd64"))["packages"]
    both = [row for row in packages if row["name"].partition(":")[0] == "libc6"]
    assert both == [
        {"name": "libc6", "version": "2.36-9+deb12u14"},
        {"name": "libc6:i386", "version": "2.36-9+deb12u14", "architecture": "i386"},
    ]


def test_what_is_removed_but_left_its_settings_is_not_installed(plugin: ModuleType, read: Read) -> None:
    text = read("debian12-multiarch.dpkg.txt")
    assert "rc \tcron\t" in text
    names = {name for name, _, _ in plugin.parse_dpkg(text, "amd64")}
    assert "cron" not in names


def test_without_the_machines_architecture_none_is_foreign(plugin: ModuleType, read: Read) -> None:
    assert {architecture for _, _, architecture in plugin.parse_dpkg(read("debian12.dpkg.txt"), "")} == {""}


def test_packages_of_pacman_are_listed(plugin: ModuleType, read: Read) -> None:
    assert plugin.report("pacman", plugin.parse_pacman(read("pacman7.pacman.txt"))) == {
        "manager": "pacman",
        "packages": [
            {"name": "demo-lib", "version": "1:2.0-3"},
            {"name": "demo-tool", "version": "1.0-1"},
            {"name": "linux-demo", "version": "6.9.arch1-1"},
            {"name": "same", "version": "1-1"},
        ],
    }


def test_packages_of_rpm_are_listed_with_kernels_beside_each_other_as_one(plugin: ModuleType, read: Read) -> None:
    name = "a-package-with-a-really-long-name-that-older-versions-would-wrap"
    assert plugin.report("rpm", plugin.parse_rpm(read("rpm4.20.rpm.txt"), "x86_64"))["packages"] == [
        {"name": name, "version": "1.2.3-1.fc40"},
        {"name": "demo-lib", "version": "1:2.0-1.fc40"},
        {"name": "demo-lib.i686", "version": "1:2.0-1.fc40", "architecture": "i686"},
        {"name": "demo-tool", "version": "1.0-1.fc40"},
        {"name": "kernel-core", "version": "6.8.5-1.fc40, 6.8.7-1.fc40"},
        {"name": "same", "version": "1.0-1.fc40"},
    ]


def test_keys_are_no_packages(plugin: ModuleType) -> None:
    assert plugin.parse_rpm("gpg-pubkey\ta15b79cc-63d04c2c\t(none)\n", "x86_64") == []


@pytest.mark.parametrize("text", ["", "rubbish", "\t\t\t\t", "\x00\n" * 9, "error: cannot open database"])
def test_rubbish_holds_no_packages(plugin: ModuleType, text: str) -> None:
    assert plugin.parse_dpkg(text, "amd64") == []
    assert plugin.parse_rpm(text, "x86_64") == []


def test_every_machine_in_the_data_is_looked_at(machines: list[str]) -> None:
    assert machines == ["debian12", "debian12-multiarch", "debian13", "pacman7", "rpm4.20"]
