"""The packages of Arch: built by makepkg, installed, upgraded and removed by pacman in a Debian that has stand-ins for
what Arch would bring.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from arch_stand_ins import pacman, python, stand_ins
from built import Packages, debian_packages, pacman_packages
from containers import Machine, booted, eventually
from roots import CHECKOUT, Root, differences, fresh_root

pytestmark = pytest.mark.timeout(900)

CLIENT, SERVER = "/usr/lib/penguindome/client", "/usr/lib/penguindome/server"
PRESENT = version("penguindome")
STAYS = ("etc/penguindome", "etc/systemd/system/penguindome-", "var/lib/penguindome", "var/log/penguindome")
"""What pacman leaves to the administrator: settings, state and logs."""


@pytest.fixture
def packages() -> Packages:
    """The packages of these sources."""
    return pacman_packages()


def later(package: Path, directory: Path) -> Path:
    """The package under a later version, and with wheels that ask for an environment of their own."""
    tree = directory / "later"
    tree.mkdir()
    subprocess.run(["bsdtar", "-xpf", package, "-C", tree, "--exclude", ".MTREE"], check=True)
    info = tree / ".PKGINFO"
    info.write_text(re.sub(r"^(pkgver = .*)$", r"\1.1", info.read_text(), flags=re.MULTILINE))
    (requirements,) = tree.glob("usr/lib/penguindome/*/requirements.txt")
    requirements.write_text(f"{requirements.read_text()}# later\n")
    target = directory / "later.pkg.tar"
    subprocess.run(["bsdtar", "-cf", target, "-C", tree, *sorted(path.name for path in tree.iterdir())], check=True)
    return target


@pytest.fixture
def arch(tmp_path: Path) -> Iterator[Root]:
    """A system with pacman and all that our packages depend on."""
    with fresh_root("pacman") as root:
        pacman(root, "-U", *stand_ins(tmp_path))
        # What systemd makes of Debian's own files is there, as after a boot.
        root.run("systemd-tmpfiles", "--create", check=False)
        yield root


def unpacked(package: Path, directory: Path) -> list[tarfile.TarInfo]:
    """What the package holds, without what is pacman's own."""
    tar = directory / "package.tar"
    with tar.open("wb") as file:
        subprocess.run(["zstd", "--decompress", "--stdout", str(package)], stdout=file, check=True)
    with tarfile.open(tar) as opened:
        return [member for member in opened.getmembers() if not member.name.startswith(".")]


def information(package: Path) -> dict[str, list[str]]:
    text = subprocess.run(["bsdtar", "-xOf", package, ".PKGINFO"], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def client(packages: Packages) -> Path:
    return packages.client


@pytest.fixture
def server(packages: Packages) -> Path:
    return packages.server


def as_nobody(place: Path) -> list[str]:
    """What precedes a command that root runs as the user nobody, to whom `.cache` of the checkout belongs then. It is
    nothing where a user builds anyway, or nobody may not look into the checkout.
    """
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    probe = [*nobody, sys.executable, "-c", "import penguindome_tools"]
    if os.geteuid() != 0 or subprocess.run(probe, capture_output=True, check=False).returncode:
        return []
    (place / "wheelhouse").mkdir()
    os.chown(place, 65534, 65534)
    hand_over = 'mount --bind .cache/wheelhouse "$1/wheelhouse" && mount --rbind "$1" .cache && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", hand_over, "sh", str(place), *nobody]


def test_root_and_an_ordinary_user_build_the_same_packages(packages: Packages) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="penguindome-test-") as directory:
        command = [sys.executable, "-m", "penguindome_tools.packaging.pacman", "--output", f"{directory}/made"]
        command += ["--cache", f"{directory}/cache"]
        # git lists the files of a checkout to its owner only, unless it is told to trust it.
        trusting = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        environment = {**os.environ, **trusting, "HOME": directory}
        subprocess.run([*as_nobody(Path(directory)), *command], cwd=CHECKOUT, env=environment, check=True)
        for one in (packages.client, packages.server):
            assert one.read_bytes() == Path(directory, "made", one.name).read_bytes(), one.name


def test_the_server_carries_the_packages_of_the_client_as_they_are_built(packages: Packages, tmp_path: Path) -> None:
    subprocess.run(["bsdtar", "-xf", packages.server, "-C", tmp_path, "usr/share/penguindome/packages"], check=True)
    carried = tmp_path / "usr/share/penguindome/packages"
    for client in (packages.client, debian_packages().client):
        assert (carried / client.name).read_bytes() == client.read_bytes()


def test_the_recipe_has_the_version_of_the_project() -> None:
    assert f"\npkgver={PRESENT}\n" in (CHECKOUT / "arch/PKGBUILD").read_text()


def test_the_recipe_names_every_license_of_what_the_packages_carry() -> None:
    named = re.search(r"^license=\((.*)\)$", (CHECKOUT / "arch/PKGBUILD").read_text(), re.MULTILINE)
    lines = re.findall(r"^License: (.*)$", (CHECKOUT / "debian/copyright").read_text(), re.MULTILINE)
    carried = {name for line in lines for name in line.replace("Expat", "MIT").split(" and ")}
    assert named
    assert set(named[1].split()) == carried


def test_every_unit_but_the_repair_of_dpkg_is_in_the_packages(packages: Packages, tmp_path: Path) -> None:
    wanted = {
        ".".join(path.name.rsplit(".", 2)[-2:])
        for kind in ("service", "timer")
        for path in (CHECKOUT / "debian").glob(f"penguindome-*.{kind}")
        if "repair" not in path.name
    }
    there = {
        Path(member.name).name
        for package in (packages.client, packages.server)
        for member in unpacked(package, tmp_path)
        if member.name.startswith("usr/lib/systemd/system/") and member.isfile()
    }
    assert there == wanted


def test_the_packages_keep_the_rules_of_arch(packages: Packages, tmp_path: Path) -> None:
    """Those of namcap that can be seen in a package."""
    for package in (packages.client, packages.server):
        members = unpacked(package, tmp_path)
        parents = {str(Path(member.name).parent) for member in members}
        for member in members:
            assert (member.uname, member.gname) == ("root", "root"), member.name
            assert member.isdir() or member.isfile(), f"{member.name} is a link or a device"
            assert not member.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH | stat.S_IWGRP), member.name
            assert member.mode & stat.S_IROTH, member.name
            assert re.fullmatch(r"(etc|usr|usr/(bin|lib|share)(/.*)?|etc/penguindome(/.*)?)", member.name), member.name
            assert re.fullmatch(r"[A-Za-z0-9._/-]+", member.name)
            assert not member.name.endswith((".pyc", ".la", ".so", "perllocal.pod")), member.name
            if member.isdir():
                assert member.mode & stat.S_IXOTH, member.name
                assert member.name in parents, f"{member.name} is empty"
        kept = set(information(package).get("backup", []))
        assert kept == {member.name for member in members if member.isfile() and member.name.startswith("etc/")}


def test_a_client_is_installed_upgraded_and_removed(arch: Root, client: Path, tmp_path: Path) -> None:
    before = arch.files()
    assert "penguindome-client setup --bundle FILE --start" in pacman(arch, "-U", client).output
    assert arch.run("penguindome-client", "--version").stdout.split()[-1] == PRESENT
    assert arch.at(f"{CLIENT}/package-kind").read_text() == "pacman\n"
    assert owner(arch, "/var/lib/penguindome/client") == "root root 700"
    arch.run(f"{CLIENT}/pkg-setup", "matches")

    installed = arch.files()
    pacman(arch, "-U", client)
    assert changes(installed, arch.files()) == []

    arch.write("/etc/penguindome/client.yml", "# by hand\n")
    arch.write("/var/lib/penguindome/client/device.key", "a key\n", 0o600)
    arch.write("/var/cache/penguindome/client/of-a-release.pkg.tar.zst", "a package\n", 0o600)
    old = environments(arch, CLIENT)
    pacman(arch, "-U", later(client, tmp_path))
    (new,) = environments(arch, CLIENT)
    assert new not in old
    assert arch.at("/etc/penguindome/client.yml").read_text() == "# by hand\n"
    arch.run("penguindome-client", "--version")

    pacman(arch, "-R", "penguindome-client")
    assert [name for name in changes(before, arch.files()) if not name.startswith(STAYS)] == []
    assert arch.at("/etc/penguindome/client.yml.pacsave").read_text() == "# by hand\n"
    assert arch.at("/var/lib/penguindome/client/device.key").exists()


def test_a_server_is_installed_set_up_upgraded_removed_and_comes_back(arch: Root, server: Path, tmp_path: Path) -> None:
    before = arch.files()
    assert "    penguindome setup\n" in pacman(arch, "-U", server).output
    assert not arch.at("/var/lib/penguindome/releases/server.asc").exists()
    arch.run("penguindome", "setup", "--yes")
    settings = arch.run("penguindome", "settings", "--json").stdout
    key = arch.at("/var/lib/penguindome/keys/server.fingerprint").read_text()
    assert owner(arch, "/etc/penguindome/server.yml") == "root penguindome 640"
    assert owner(arch, "/var/lib/penguindome/keys") == "root root 700"
    assert owner(arch, "/var/lib/penguindome/server") == "penguindome penguindome 750"

    installed = arch.files()
    pacman(arch, "-U", server)
    assert changes(installed, arch.files()) == []

    old = environments(arch, SERVER)
    arch.write("/usr/share/penguindome/client/plugins/another.py", "#!/bin/sh\n", 0o755)
    pacman(arch, "-U", later(server, tmp_path))
    (new,) = environments(arch, SERVER)
    assert new not in old
    assert "another.py" in arch.at("/var/lib/penguindome/releases/manifest.json").read_text()

    arch.at("/usr/share/penguindome/client/plugins/another.py").unlink()
    pacman(arch, "-R", "penguindome-server")
    left = {name for name in changes(before, arch.files()) if not name.startswith(STAYS)}
    assert left <= {f"etc/{name}{copy}" for name in ("passwd", "shadow", "group", "gshadow") for copy in ("", "-")}

    assert "penguindome setup --yes --start" in pacman(arch, "-U", server).output
    assert arch.run("penguindome", "settings", "--json").stdout == settings
    assert arch.at("/var/lib/penguindome/keys/server.fingerprint").read_text() == key


def test_an_environment_that_cannot_be_made_is_made_by_the_next_python(
    arch: Root, client: Path, tmp_path: Path
) -> None:
    arch.shell("mv /usr/lib/python3*/venv /root/")
    said = pacman(arch, "-U", client).output
    assert f"pkg-setup: {CLIENT}: " in said
    assert "penguindome-client setup" not in said
    refused = arch.run("penguindome-client", "--version", check=False)
    assert "its Python environment is missing" in refused.stderr
    assert arch.run(f"{CLIENT}/pkg-setup", "matches", check=False).status != 0

    arch.shell("mv /root/venv /usr/lib/python3.*/")
    pacman(arch, "-U", python(tmp_path, "3.99.0"))
    arch.run(f"{CLIENT}/pkg-setup", "matches")
    arch.run("penguindome-client", "--version")


@pytest.mark.long
def test_a_killed_upgrade_leaves_the_old_version_at_work_and_is_repeated(
    arch: Root, client: Path, tmp_path: Path
) -> None:
    pacman(arch, "-U", client)
    newer = arch.take(later(client, tmp_path))
    (old,) = environments(arch, CLIENT)
    # bash's `kill -1` means all processes but bash itself.
    arch.shell(
        f"pacman --noconfirm -U {newer} & cd {CLIENT}\n"
        f"until ls -d venv-* | grep -qv {old}; do sleep 0.05; done; kill -KILL -1; wait || true"
    )
    arch.run("penguindome-client", "--version")
    assert arch.at(f"{CLIENT}/venv").readlink() == Path(old)
    arch.shell("rm /var/lib/pacman/db.lck")
    arch.run("pacman", "--noconfirm", "-U", newer)
    assert old not in environments(arch, CLIENT)
    arch.run("penguindome-client", "--version")


@pytest.mark.long
def test_a_server_runs_on_a_booted_machine_through_upgrade_and_new_python_until_it_is_removed(
    server: Path, tmp_path: Path
) -> None:
    with booted("archserver", "pacman") as machine:
        pacman(machine, "-U", *stand_ins(tmp_path))
        pacman(machine, "-U", server)
        assert state(machine) == "inactive"
        machine.run("penguindome", "setup", "--yes", "--start")
        eventually("the server answers", lambda: answers(machine))
        first = started(machine)
        pacman(machine, "-U", later(server, tmp_path))
        eventually("the upgraded server answers", lambda: started(machine) != first and answers(machine))
        second = started(machine)
        pacman(machine, "-U", python(tmp_path, "3.99.0"))
        eventually("the server answers under the new Python", lambda: started(machine) != second and answers(machine))
        machine.reboot()
        eventually("the server answers after a boot", lambda: answers(machine))
        pacman(machine, "-R", "penguindome-server")
        assert state(machine) == "inactive"
        assert machine.run("systemctl", "--failed", "--no-legend").stdout == ""


def state(machine: Machine) -> str:
    return machine.run("systemctl", "is-active", "penguindome-server", check=False).stdout.strip()


def started(machine: Machine) -> str:
    return machine.run("systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "penguindome-server").stdout


def answers(machine: Machine) -> bool:
    url = "https://127.0.0.1:8443/penguindome/v1/healthz"
    return machine.run("curl", "--silent", "--fail", "--insecure", url, check=False).status == 0


def environments(root: Root, home: str) -> list[str]:
    return sorted(path.name for path in root.at(home).glob("venv-*"))


def owner(root: Root, path: str) -> str:
    return root.run("stat", "--format=%U %G %a", path).stdout.strip()


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is different, but for what pacman and the log of administrative acts write down."""
    acts = "var/lib/penguindome/keys/admin_log.acts/"
    accounts = ("var/lib/pacman", "var/log/pacman.log", "var/cache/pacman", acts)
    return [name for name in differences(before, after) if not name.startswith(accounts)]
