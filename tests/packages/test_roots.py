"""The clean systems that packages are tried on are clean, cut off, and each test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from containers import booted
from roots import Root, differences, fresh_root

pytestmark = pytest.mark.timeout(900)

CONTROL = """Package: trivial
Version: {version}
Architecture: all
Maintainer: Nobody <nobody@example.org>
Depends: openssl
Description: nothing at all
"""
POSTINST = "#!/bin/sh\nset -e\ntouch /etc/trivial-left-this\n"


@pytest.fixture
def trivial(tmp_path: Path) -> Path:
    """A package that needs another, and whose script makes a file that nobody removes."""
    tree = tmp_path / "trivial"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL.format(version="1"))
    (tree / "DEBIAN/postinst").write_text(POSTINST)
    (tree / "DEBIAN/postinst").chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, tmp_path], check=True, capture_output=True)
    return tmp_path / "trivial_1_all.deb"


def only_loopback(root: Root) -> bool:
    return root.run("ls", "/sys/class/net").stdout.split() == ["lo"]


def test_a_package_installs_with_its_dependencies_and_without_a_network(trivial: Path) -> None:
    with fresh_root("debian12") as root:
        assert only_loopback(root)
        assert root.run("openssl", "version", check=False).status != 0
        root.apt("install", str(trivial))
        root.run("openssl", "version")


def test_what_a_purged_package_left_behind_shows(trivial: Path) -> None:
    with fresh_root("debian12-ready") as root:
        before = root.files()
        root.apt("install", str(trivial))
        root.apt("purge", "trivial")
        left = differences(before, root.files())
    assert list(left) == ["etc/trivial-left-this"]


def test_nobody_sees_what_another_test_changed() -> None:
    with fresh_root("debian12") as one, fresh_root("debian12") as other:
        one.write("/etc/hello", "from one\n")
        assert not other.at("/etc/hello").exists()


def test_a_machine_boots_reboots_and_keeps_its_journal() -> None:
    with booted("laptop", "debian13") as machine:
        assert machine.run("hostname").stdout == "laptop\n"
        machine.reboot()
        assert machine.run("systemctl", "is-system-running").stdout == "running\n"
        assert len(machine.run("journalctl", "--list-boots", "--quiet").stdout.splitlines()) >= 2
