"""What runs here, by real files of several releases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

import pytest

Read = Callable[[str], str]


@pytest.mark.parametrize(
    ("machine", "version", "codename"),
    [
        ("debian11-chroot", "11", "bullseye"),
        ("debian12-chroot", "12", "bookworm"),
        ("debian13-chroot", "13", "trixie"),
        ("debian13-vm", "13", "trixie"),
    ],
)
def test_releases_of_debian_are_told(plugin: ModuleType, read: Read, machine: str, version: str, codename: str) -> None:
    assert plugin.describe_distribution(plugin.parse_os_release(read(f"{machine}.os-release.txt"))) == {
        "distribution": "debian",
        "version": version,
        "codename": codename,
        "name": f"Debian GNU/Linux {version} ({codename})",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=arch\nNAME="Arch Linux"\nBUILD_ID=rolling\n', ("arch", "rolling", None, "Arch Linux")),
        ("ID=debian\nVERSION_CODENAME=forky\nPRETTY_NAME='x y'\n", ("debian", "unknown", "forky", "x y")),
        ("NAME=Thing\n", ("thing", "unknown", None, "Thing")),
        ("", ("unknown",) * 4),
        ("\x00 = ?\n=\n1=2\n# ID=x\n", ("unknown",) * 4),
        ('ID="broken\n', ('"broken', "unknown", None, '"broken')),
    ],
)
def test_what_os_release_does_not_say_is_left_open(plugin: ModuleType, text: str, expected: tuple[str, ...]) -> None:
    assert tuple(plugin.describe_distribution(plugin.parse_os_release(text)).values()) == expected


def dmi(read: Read, machine: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in read(f"{machine}.dmi.txt").splitlines())


def test_a_virtual_machine_is_told_by_systemd(plugin: ModuleType, read: Read) -> None:
    virtualization = plugin.parse_detect_virt(read("debian13-vm.virt.txt"))
    facts = dmi(read, "debian13-vm")
    assert virtualization == "qemu"
    assert plugin.machine_type(virtualization, facts, "") == "virtual"
    assert plugin.describe_maker(facts) == {"manufacturer": "LENOVO", "model": "20XWS00000"}


def test_the_time_of_the_start_is_told(plugin: ModuleType, read: Read) -> None:
    boot = plugin.parse_boot_time(read("debian13-vm.stat.txt"))
    assert datetime(2026, 11, 23, tzinfo=timezone.utc) < boot < datetime(2026, 11, 25, tzinfo=timezone.utc)
    assert plugin.parse_boot_time("cpu 1 2\nbtime x\n") is None


@pytest.mark.parametrize(
    ("facts", "cpuinfo", "container", "expected"),
    [
        ({"sys_vendor": "LENOVO", "product_name": "20XW"}, "flags : fpu vme", None, "none"),
        ({"sys_vendor": "LENOVO"}, "flags : fpu hypervisor", None, "vm-other"),
        ({"sys_vendor": "QEMU", "product_name": "Standard PC"}, "", None, "qemu"),
        ({"sys_vendor": "innotek GmbH", "product_name": "VirtualBox"}, "", None, "oracle"),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine"}, "", None, "microsoft"),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Surface Pro"}, "flags : fpu", None, "none"),
        ({"sys_vendor": "LENOVO"}, "flags : fpu", "docker", "docker"),
        ({}, "", None, "unknown"),
        ({}, "flags : fpu", None, "unknown"),
    ],
)
def test_without_systemd_the_makers_texts_tell(
    plugin: ModuleType, facts: dict[str, str], cpuinfo: str, container: str | None, expected: str
) -> None:
    assert plugin.guess_virtualization(facts, cpuinfo, container) == expected


@pytest.mark.parametrize(
    ("chassis", "expected"),
    [
        ("10", "laptop"),
        ("9", "laptop"),
        ("31", "laptop"),
        ("3", "desktop"),
        ("23", "server"),
        ("1", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_chassis_tells_the_kind_of_machine(plugin: ModuleType, chassis: str, expected: str) -> None:
    assert plugin.machine_type("none", {"chassis_type": chassis}, "") == expected


def test_the_device_tree_tells_it_where_there_is_no_smbios(plugin: ModuleType) -> None:
    assert plugin.machine_type("none", {}, "laptop") == "laptop"


@pytest.mark.parametrize("text", [None, "", "two words", "x" * 99, "\x00"])
def test_rubbish_is_not_taken_for_a_hypervisor(plugin: ModuleType, text: str | None) -> None:
    assert plugin.parse_detect_virt(text) is None


def test_what_the_maker_did_not_fill_in_is_not_told(plugin: ModuleType) -> None:
    assert plugin.describe_maker({"sys_vendor": "To Be Filled By O.E.M.", "product_name": "Default string"}) == {}


def test_containers_are_told_by_their_marks(plugin: ModuleType, tmp_path: Path) -> None:
    assert plugin.find_container(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert plugin.find_container(tmp_path) == "podman"
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/environ").write_bytes(b"A=b\0container=lxc\0")
    assert plugin.find_container(tmp_path) == "lxc"


def test_an_empty_machine_is_told_as_unknown(plugin: ModuleType, tmp_path: Path) -> None:
    report = plugin.collect(tmp_path)
    assert (report["distribution"], report["machine_type"] != "laptop", report["boot_at"]) == ("unknown", True, None)


def test_every_machine_in_the_data_is_looked_at(machines: list[str]) -> None:
    assert machines == ["debian11-chroot", "debian12-chroot", "debian13-chroot", "debian13-vm"]
