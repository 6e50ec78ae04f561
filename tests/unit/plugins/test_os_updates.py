"""Which updates wait, by real outputs of apt, pacman and dnf."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from penguindome.paths import ROOT_VARIABLE

Read = Callable[[str], str]

SECURITY = [
    ("apt", "2.6.1", "2.6.2"),
    ("libapt-pkg6.0", "2.6.1", "2.6.2"),
    ("liblzma5", "5.4.1-1+deb12u1", "5.4.1-1+deb12u2"),
    ("libpcre2-8-0", "10.42-1", "10.42-1+deb12u2"),
    ("libperl5.36", "5.36.0-7+deb12u3", "5.36.0-7+deb12u4"),
    ("perl", "5.36.0-7+deb12u3", "5.36.0-7+deb12u4"),
    ("perl-base", "5.36.0-7+deb12u3", "5.36.0-7+deb12u4"),
    ("perl-modules-5.36", "5.36.0-7+deb12u3", "5.36.0-7+deb12u4"),
]
UPDATED_AT = datetime(2026, 11, 20, 6, 30, tzinfo=timezone.utc)


def rows(patches: list[dict[str, Any]]) -> list[tuple[str, str, str, bool | str]]:
    return sorted((row["name"], row["installed"], row["available"], row["security"]) for row in patches)


@pytest.mark.parametrize("source", ["simulation", "list"])
def test_security_updates_of_debian_are_told(plugin: ModuleType, read: Read, source: str) -> None:
    parse = {"simulation": plugin.parse_apt_simulation, "list": plugin.parse_apt_list}[source]
    assert rows(parse(read(f"debian12-security.{source}.txt"))) == [(*row, True) for row in SECURITY]


def test_an_upgrade_by_apt_3_leaves_out_what_is_new(plugin: ModuleType, read: Read) -> None:
    text = read("debian13-to-testing.simulation.txt")
    patches = plugin.parse_apt_simulation(text)
    assert "67 upgraded, 4 newly installed" in text
    assert len(patches) == 67
    assert not any(row["security"] for row in patches)
    assert not {row["name"] for row in patches} & {"gcc-16-base", "libsepol2", "selinux-utils"}
    assert rows(patches) == rows(plugin.parse_apt_list(read("debian13-to-testing.list.txt")))


@pytest.mark.parametrize("machine", ["debian11", "debian13-none"])
def test_an_up_to_date_machine_has_no_patches(plugin: ModuleType, read: Read, machine: str) -> None:
    assert "0 upgraded" in read(f"{machine}.simulation.txt")
    assert plugin.parse_apt_simulation(read(f"{machine}.simulation.txt")) == []
    assert plugin.parse_apt_list(read(f"{machine}.list.txt")) == []


def test_the_archives_of_ubuntu_tell_security_from_other_updates(plugin: ModuleType, read: Read) -> None:
    assert rows(plugin.parse_apt_simulation(read("ubuntu24.04.simulation.txt"))) == [
        ("libssl3t64", "3.0.13-0ubuntu3.3", "3.0.13-0ubuntu3.4", True),
        ("linux-image-generic", "6.8.0-44.44", "6.8.0-45.45", True),
        ("tzdata", "2024a-3ubuntu1.1", "2024b-0ubuntu0.24.04", False),
        ("vim-common", "2:9.1.0016-1ubuntu7.2", "2:9.1.0016-1ubuntu7.3+esm1", True),
    ]
    assert plugin.parse_release_upgrade(read("ubuntu24.04.release-upgrade-available.txt")) == "26.04 LTS"
    assert plugin.parse_release_upgrade("") is None


@pytest.mark.parametrize(
    ("version", "today", "expected"),
    [
        ("12", date(2024, 6, 1), (None, False)),
        ("12", date(2025, 9, 1), ("13 (trixie)", False)),
        ("12", date(2028, 6, 30), ("13 (trixie)", False)),
        ("12", date(2028, 7, 1), ("13 (trixie)", True)),
        ("9", date(2024, 6, 1), ("12 (bookworm)", True)),
        ("", date(2025, 9, 1), ("unknown", "unknown")),
        ("99", date(2025, 9, 1), ("unknown", "unknown")),
    ],
)
def test_debians_own_table_tells_newer_releases_and_the_end_of_support(
    plugin: ModuleType, read: Read, version: str, today: date, expected: tuple[Any, Any]
) -> None:
    assert plugin.parse_debian_releases(read("debian13-releases.csv"), version, today) == expected


@pytest.mark.parametrize(
    "text", ["", "rubbish", "version,series\n12,bookworm\n", "version,series,release\n12,x,never\n"]
)
def test_a_table_that_says_nothing_leaves_it_open(plugin: ModuleType, text: str) -> None:
    assert plugin.parse_debian_releases(text, "12", date(2025, 9, 1)) == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("running", "installed", "expected"),
    [
        ("6.1.0-35-amd64", ["6.1.0-35-amd64"], False),
        ("6.1.0-9-amd64", ["6.1.0-9-amd64", "6.1.0-35-amd64"], True),
        ("6.1.0-35-amd64", ["6.1.0-9-amd64", "6.1.0-35-amd64"], False),
        ("6.1.0-35-amd64", ["6.1.0-35-amd64", "6.12.0-1-cloud-amd64"], False),
        ("6.12.38+deb13-amd64", ["6.12.38+deb13-amd64", "6.12.41+deb13-amd64"], True),
        ("6.8.0-45-generic", ["6.8.0-44-generic", "6.8.0-45-generic", "6.8.0-46-generic"], True),
        ("6.8.5-301.fc40.x86_64", ["6.8.5-301.fc40.x86_64", "6.8.7-300.fc40.x86_64"], True),
        ("6.8.7-300.fc40.x86_64", ["6.8.5-301.fc40.x86_64", "6.8.7-300.fc40.x86_64"], False),
        ("6.1.0-35-amd64", ["6.1.0-36-amd64"], True),
        ("6.18.44-fc-v657", [], "unknown"),
        ("6.18.44-fc-v657", ["6.1.0-35-amd64"], "unknown"),
        ("", ["6.1.0-35-amd64"], "unknown"),
    ],
)
def test_a_newer_kernel_of_the_same_flavour_wants_a_reboot(
    plugin: ModuleType, running: str, installed: list[str], expected: bool | str
) -> None:
    assert plugin.kernel_is_outdated(running, installed) == expected


def test_a_kernel_that_was_replaced_by_one_of_the_same_name_wants_a_reboot(plugin: ModuleType) -> None:
    build = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"
    assert plugin.kernel_was_replaced(build, "6.1.193-1") is True
    assert plugin.kernel_was_replaced(build, "6.1.192-2") is False
    assert plugin.kernel_was_replaced("#41-Ubuntu SMP", "6.8.0-41.41") is False
    assert plugin.kernel_was_replaced(build, "") is False


def test_updates_of_pacman_are_told_with_what_arch_audit_says(plugin: ModuleType, read: Read) -> None:
    text = read("pacman7.qu.txt")
    audited = plugin.parse_arch_audit(read("arch-audit.upgradable.txt"))
    assert audited == {"demo-lib", "openssl", "libtiff"}
    assert rows(plugin.parse_pacman_updates(text, audited)) == [
        ("demo-lib", "1:2.0-3", "1:2.1-1", True),
        ("demo-tool", "1.0-1", "1.1-1", False),
        ("linux-demo", "6.9.arch1-1", "6.10.arch1-1", False),
    ]
    assert {row["security"] for row in plugin.parse_pacman_updates(text, None)} == {"unknown"}


def installed(read: Read) -> dict[str, str]:
    return dict(line.split("\t") for line in sorted(read("dnf4.rpm.txt").splitlines()))


def test_updates_of_dnf_are_told_with_what_advisories_say(plugin: ModuleType, read: Read) -> None:
    advised = plugin.parse_advisories(read("dnf4.advisories.txt"))
    assert advised == {"demo-lib.i686", "demo-lib.x86_64"}
    long_name = "a-package-with-a-really-long-name-that-older-versions-would-wrap.noarch"
    expected = [
        (long_name, "1.2.3-1.fc40", "1.2.4-1.fc40", False),
        ("demo-lib.i686", "1:2.0-1.fc40", "1:2.1-1.fc40", True),
        ("demo-lib.x86_64", "1:2.0-1.fc40", "1:2.1-1.fc40", True),
        ("demo-tool.noarch", "1.0-1.fc40", "1.1-1.fc40", False),
        ("kernel-core.x86_64", "6.8.7-1.fc40", "6.8.9-1.fc40", False),
    ]
    text = read("dnf4.check-update.txt")
    assert rows(plugin.parse_check_update(text, installed(read), advised)) == expected
    wrapped = text.replace(long_name, f"{long_name}\n  ")
    assert rows(plugin.parse_check_update(wrapped, installed(read), advised)) == expected


def test_advisories_of_dnf_5_name_the_same_packages(plugin: ModuleType, read: Read) -> None:
    assert plugin.parse_advisories(read("dnf5.advisories.txt")) == {"demo-lib.i686", "demo-lib.x86_64"}


def test_obsoleted_packages_are_not_told_twice(plugin: ModuleType, read: Read) -> None:
    text = read("dnf4.check-update.txt")
    more = f"{text}Obsoleting Packages\nnew.noarch 1-1 updates\n    old.noarch 1-1 @System\n"
    assert len(plugin.parse_check_update(more, {}, None)) == len(plugin.parse_check_update(text, {}, None)) == 5


def test_dnf_tells_whether_to_reboot(plugin: ModuleType, read: Read) -> None:
    assert plugin.parse_needs_restarting(read("dnf4.reboothint.txt")) is True
    calm = "No core libraries or services have been updated since boot-up.\nReboot should not be necessary.\n"
    assert plugin.parse_needs_restarting(calm) is False
    assert plugin.parse_needs_restarting("No such command: needs-restarting") == "unknown"


class Programs:
    """Answers as the programs of a machine would; None for what is not in `answers`."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, *command: str, ok_codes: tuple[int, ...] = (0,)) -> str | None:
        self.asked.append(" ".join(command))
        return next((text for start, text in self.answers.items() if self.asked[-1].startswith(start)), None)


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (UPDATED_AT.timestamp(), UPDATED_AT.timestamp()))
    return path


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin remembers things below this directory."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))


def debian(root: Path, read: Read) -> Path:
    touch(root / "var/lib/dpkg/status")
    touch(root / "var/lib/apt/periodic/update-success-stamp", "")
    touch(root / "boot/vmlinuz-6.1.0-35-amd64")
    touch(root / "etc/os-release", 'ID=debian\nVERSION_ID="12"\n')
    touch(root / "usr/share/distro-info/debian.csv", read("debian13-releases.csv"))
    return root


def test_a_debian_machine_is_told_as_a_whole(plugin: ModuleType, read: Read, tmp_path: Path) -> None:
    programs = Programs({"apt-get": read("debian12-security.simulation.txt"), "uname -r": "6.1.0-35-amd64\n"})
    report = plugin.collect(debian(tmp_path, read), programs)
    assert [(row["name"], row["installed"], row["available"]) for row in report.pop("patches")] == SECURITY
    assert report == {
        "supported": True,
        "manager": "apt",
        "pending": 8,
        "security_pending": 8,
        "release_upgrade": "13 (trixie)",
        "reboot_needed": False,
        "out_of_support": False,
        "lists_updated_at": UPDATED_AT,
    }


def test_a_reboot_that_the_system_asks_for_is_told(plugin: ModuleType, read: Read, tmp_path: Path) -> None:
    touch(debian(tmp_path, read) / "run/reboot-required", "*** System restart required ***\n")
    assert plugin.collect(tmp_path, Programs({}))["reboot_needed"] is True


def test_apt_list_answers_where_the_simulation_fails(plugin: ModuleType, read: Read, tmp_path: Path) -> None:
    programs = Programs({"apt list": read("debian12-security.list.txt")})
    assert plugin.collect(debian(tmp_path, read), programs)["security_pending"] == 8


def test_apt_is_asked_again_only_when_something_has_changed(plugin: ModuleType, read: Read, tmp_path: Path) -> None:
    programs = Programs({"apt-get": read("debian12-security.simulation.txt")})
    first, second = (plugin.collect(debian(tmp_path, read), programs) for _ in range(2))
    assert first == second
    assert sum(command.startswith("apt-get") for command in programs.asked) == 1
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    plugin.collect(tmp_path, programs)
    assert sum(command.startswith("apt-get") for command in programs.asked) == 2


def test_patches_are_unknown_where_apt_does_not_answer(plugin: ModuleType, read: Read, tmp_path: Path) -> None:
    for answers in ({}, {"apt-get": "rubbish", "apt list": "\x00"}):
        report = plugin.collect(debian(tmp_path, read), Programs(answers))
        assert (report["patches"], report["pending"], report["security_pending"]) == ("unknown", "unknown", "unknown")
        assert report["reboot_needed"] == "unknown"


def test_an_ubuntu_machine_tells_the_release_that_it_was_offered(
    plugin: ModuleType, read: Read, tmp_path: Path
) -> None:
    touch(tmp_path / "var/lib/dpkg/status")
    offer = read("ubuntu24.04.release-upgrade-available.txt")
    touch(tmp_path / "var/lib/ubuntu-release-upgrader/release-upgrade-available", offer)
    report = plugin.collect(tmp_path, Programs({}))
    assert (report["release_upgrade"], report["lists_updated_at"]) == ("26.04 LTS", None)


@pytest.fixture
def arch(tmp_path: Path) -> Path:
    """An Arch machine that has no lists yet."""
    touch(tmp_path / "var/lib/pacman/local/same-1-1/desc")
    (tmp_path / "usr/lib/modules/6.9.arch1-1").mkdir(parents=True)
    return tmp_path


def test_an_arch_machine_is_told_as_a_whole(plugin: ModuleType, read: Read, arch: Path) -> None:
    answers = {
        "env": read("pacman7.qu.txt"),
        "arch-audit": read("arch-audit.upgradable.txt"),
        "uname -r": "6.9.arch1-1\n",
    }
    report = plugin.collect(arch, Programs(answers))
    assert [row["name"] for row in report["patches"]] == ["demo-lib", "demo-tool", "linux-demo"]
    assert (report["manager"], report["pending"], report["security_pending"]) == ("pacman", 3, 1)
    assert (report["release_upgrade"], report["reboot_needed"]) == (None, False)
    assert plugin.collect(arch, Programs({"uname -r": "6.10.arch1-1\n"}))["reboot_needed"] is True


def test_mirrors_are_asked_for_new_lists_only_every_few_hours(plugin: ModuleType, read: Read, arch: Path) -> None:
    programs = Programs({"env": read("pacman7.qu.txt")})
    first, second = (plugin.collect(arch, programs)["lists_updated_at"] for _ in range(2))
    asked = [command for command in programs.asked if "checkupdates" in command.split()]
    assert [command.endswith("--nosync") for command in asked] == [False, True]
    assert first == second


def test_without_checkupdates_pacmans_own_lists_answer(plugin: ModuleType, read: Read, arch: Path) -> None:
    programs = Programs({"pacman -Qu": read("pacman7.qu.txt")})
    assert plugin.collect(arch, programs)["patches"] == "unknown"
    touch(arch / "var/lib/pacman/sync/core.db")
    report = plugin.collect(arch, programs)
    assert (report["pending"], report["security_pending"]) == (3, "unknown")
    assert report["lists_updated_at"] == UPDATED_AT


def test_the_live_database_of_pacman_is_never_refreshed(plugin: ModuleType, read: Read, arch: Path) -> None:
    programs = Programs({"pacman": ""})
    plugin.collect(arch, programs)
    assert not any(command.startswith("pacman -S") for command in programs.asked)


def test_a_dnf_machine_is_told_as_a_whole(plugin: ModuleType, read: Read, tmp_path: Path) -> None:
    (tmp_path / "usr/lib/sysimage/rpm").mkdir(parents=True)
    answers = {
        "rpm -qa": read("dnf4.rpm.txt"),
        "dnf --quiet --cacheonly check-update": read("dnf4.check-update.txt"),
        "dnf --quiet --cacheonly updateinfo": read("dnf4.advisories.txt"),
        "dnf --quiet --cacheonly needs-restarting": read("dnf4.reboothint.txt"),
    }
    programs = Programs(answers)
    report = plugin.collect(tmp_path, programs)
    assert (report["manager"], report["pending"], report["security_pending"]) == ("dnf", 5, 2)
    assert (report["reboot_needed"], report["release_upgrade"]) == (True, "unknown")
    assert all("--cacheonly" in command for command in programs.asked if command.startswith("dnf"))


def test_another_distribution_is_said_not_to_be_supported(plugin: ModuleType, tmp_path: Path) -> None:
    assert plugin.collect(tmp_path, Programs({})) == {"supported": False, "manager": "unknown"}


@pytest.mark.parametrize("text", ["", "rubbish", "Inst", "Inst x [1] (", "\x00" * 99, "x/y z [upgradable"])
def test_rubbish_holds_no_patches(plugin: ModuleType, text: str) -> None:
    assert plugin.parse_apt_simulation(text) == []
    assert plugin.parse_apt_list(text) == []
    assert plugin.parse_pacman_updates(text, None) == []
    assert plugin.parse_check_update(text, {}, None) == []
    assert plugin.parse_advisories(text) == set()


def test_every_machine_in_the_data_is_looked_at(machines: list[str]) -> None:
    assert machines == [
        "arch-audit",
        "debian11",
        "debian12-security",
        "debian13-none",
        "debian13-releases",
        "debian13-to-testing",
        "dnf4",
        "dnf5",
        "pacman7",
        "ubuntu24.04",
    ]
