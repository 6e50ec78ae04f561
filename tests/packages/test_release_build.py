"""Releases of the packages that are really built, installed on clean systems: by dpkg, by pacman, and from the tar."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from arch_stand_ins import pacman, stand_ins
from built import debian_packages, pacman_packages
from client_packages import command
from needs import require_program
from penguindome import json
from penguindome.manifest import Manifest
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from roots import Root, differences, fresh_root, require_roots

pytestmark = pytest.mark.timeout(900)

CLIENT = "/usr/lib/penguindome/client"
TOP = "penguindome-client-{}+0.1.0"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    """A server with release 1, and release 2, which has another plugin more and one less."""
    require_roots()
    paths = Paths(tmp_path_factory.mktemp("site"))
    paths.client_packages.mkdir(parents=True)
    for packages in (debian_packages(), pacman_packages()):
        shutil.copy(packages.client, paths.client_packages)
    command(paths, "setup", "--url", "https://127.0.0.1:8443", "--self-signed", "--client-tree", ".")
    (paths.settings / "commands.d/greet").write_text("#!/bin/sh\necho hello\n")
    (paths.settings / "commands.d/greet").chmod(0o755)
    command(paths, "release", "create", "--yes")
    (paths.settings / "plugins.d/printers").write_text("#!/bin/sh\necho '{}'\n")
    (paths.settings / "plugins.d/printers").chmod(0o755)
    (paths.settings / "plugins.d/sshd.disabled").touch()
    (paths.settings / "client-release.d/50-site.yml").write_text("plugins.timeout: 3m\n")
    command(paths, "release", "create", "--yes")
    yield paths
    shutil.rmtree(paths.root)


def file_of(site: Paths, number: int, ending: str) -> Path:
    (found,) = site.releases.glob(f"{number}/*{ending}")
    return found


def assert_as_signed(root: Root, site: Paths, number: int) -> None:
    """Everything that the manifest names is there, with contents and mode; the modules in the environment too."""
    certificate = Certificate.from_text((site.releases / "server.asc").read_text())
    tree = root.at(CLIENT)
    if tree.is_symlink():
        tree = tree.parent / tree.readlink()
    manifest = Manifest.load(
        (tree / "manifest.json").read_bytes(), (tree / "manifest.json.asc").read_bytes(), certificate
    )
    assert manifest.release == number
    (code,) = (tree / (tree / "venv").readlink()).glob("lib/python3.*/site-packages")
    wrong = []
    for name, entry in manifest.files.items():
        path = code / name.removeprefix("code/") if name.startswith("code/") else tree / name
        status = path.stat()
        there = (sha256(path.read_bytes()).hexdigest(), status.st_size, status.st_mode & 0o7777, status.st_uid)
        if there != (entry.sha256, entry.size, entry.mode, 0):
            wrong.append(name)
    assert wrong == []
    named = {name.removeprefix("code/") for name in manifest.files if name.startswith("code/")}
    installed = {str(path.relative_to(code)) for path in (code / "penguindome").rglob("*.py")}
    assert named == installed
    assert root.run("penguindome-client", "--version").stdout.startswith("penguindome-client ")


def test_dpkg_installs_a_release_over_the_base_package_and_the_next_over_that(site: Paths) -> None:
    with fresh_root("debian12-ready") as root:
        root.run("dpkg", "--install", root.take(debian_packages().client))
        root.run("dpkg", "--install", root.take(file_of(site, 1, ".deb")))
        assert_as_signed(root, site, 1)
        (environment,) = root.at(CLIENT).glob("venv-*")
        root.run("dpkg", "--install", root.take(file_of(site, 2, ".deb")))
        assert_as_signed(root, site, 2)
        assert root.at(f"{CLIENT}/plugins/printers").exists()
        assert not root.at(f"{CLIENT}/plugins/sshd.py").exists()
        # The libraries are the same, so the environment was not made again.
        assert list(root.at(CLIENT).glob("venv-*")) == [environment]
        assert root.run("dpkg", "--verify", "penguindome-client").stdout == ""
        shown = root.run("dpkg-query", "--show", "--showformat=${Version} ${Architecture} ${db:Status-Status}",
                         "penguindome-client").stdout  # fmt: skip
        assert shown == "1:2+0.1.0 amd64 installed"


def test_apt_upgrades_to_a_release_and_refuses_the_older_one(site: Paths) -> None:
    with fresh_root("debian12-ready") as root:
        root.apt("install", str(file_of(site, 2, ".deb")))
        refused = root.apt("install", str(file_of(site, 1, ".deb")), check=False)
        assert "downgrade" in refused.output
        kept = root.apt("install", str(debian_packages().client), check=False)
        assert kept.status != 0
        assert_as_signed(root, site, 2)


def test_lintian_finds_no_error_in_the_package_of_a_release(site: Paths) -> None:
    command_ = [require_program("lintian"), "--allow-root", "--fail-on", "error", file_of(site, 2, ".deb")]
    done = subprocess.run(command_, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_pacman_installs_a_release_over_the_base_package_and_the_next_over_that(site: Paths, tmp_path: Path) -> None:
    with fresh_root("pacman") as root:
        pacman(root, "-U", *stand_ins(tmp_path))
        pacman(root, "-U", pacman_packages().client)
        pacman(root, "-U", file_of(site, 1, ".zst"))
        assert_as_signed(root, site, 1)
        pacman(root, "-U", file_of(site, 2, ".zst"))
        assert_as_signed(root, site, 2)
        assert root.run("pacman", "-Q", "penguindome-client").stdout == "penguindome-client 1:2+0.1.0-1\n"
        assert "0 altered files" in root.run("pacman", "-Qkk", "penguindome-client").stdout
        assert "Architecture    : x86_64" in root.run("pacman", "-Qi", "penguindome-client").stdout


def test_the_package_for_pacman_says_what_makepkg_would_say_of_it(site: Paths, tmp_path: Path) -> None:
    """bsdtar, which makepkg uses, writes the same .MTREE for the same files."""
    package = file_of(site, 2, ".zst")
    subprocess.run(["bsdtar", "-xpf", package, "-C", tmp_path], check=True)
    options = "--options=!all,use-set,type,uid,gid,mode,time,size,md5,sha256,link"
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name != ".MTREE")
    made = subprocess.run(
        ["bsdtar", "-cnf", "-", "--uid=0", "--gid=0", "--format=mtree", options, "--null", "--files-from", "-"],
        cwd=tmp_path, input="\0".join(names).encode(), capture_output=True, check=True,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout  # fmt: skip
    ours = subprocess.run(["gzip", "-dc", tmp_path / ".MTREE"], capture_output=True, check=True).stdout
    assert entries(ours.decode()) == entries(made.decode())


def entries(mtree: str) -> Mapping[str, Mapping[str, str]]:
    """Path -> keywords, with those that `/set` gives to all."""
    common: dict[str, str] = {}
    found = {}
    for line in mtree.splitlines():
        first, *words = line.split()
        keywords = dict(word.split("=", 1) for word in words)
        if first == "/set":
            common = {**common, **keywords}
        elif not first.startswith("#"):
            found[first] = {**common, **keywords}
    return found


def test_pacman_orders_what_the_packages_say(site: Paths) -> None:
    info = subprocess.run(["bsdtar", "-xOf", file_of(site, 2, ".zst"), ".PKGINFO"], capture_output=True, check=True)
    (version,) = re.findall(r"^pkgver = (.*)$", info.stdout.decode(), re.MULTILINE)
    assert version == "1:2+0.1.0-1"


@pytest.fixture(scope="module")
def keys_of(site: Paths) -> list[bytes]:
    """What no package for everybody may hold."""
    enrolment = (site.keys / "enrolment.key").read_bytes()
    return [b"PRIVATE KEY BLOCK", enrolment.splitlines()[5]]


def test_no_package_but_the_tar_holds_a_private_key(site: Paths, keys_of: list[bytes], tmp_path: Path) -> None:
    for number in (1, 2):
        place = tmp_path / str(number)
        place.mkdir()
        subprocess.run(["dpkg-deb", "--raw-extract", file_of(site, number, ".deb"), place / "deb"], check=True)
        (place / "pacman").mkdir()
        subprocess.run(["bsdtar", "-xpf", file_of(site, number, ".zst"), "-C", place / "pacman"], check=True)
    held = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(held) > 100
    assert [path for path in held if any(key in path.read_bytes() for key in keys_of)] == []
    with tarfile.open(file_of(site, 1, ".tar")) as tar:
        secret = [member for member in tar if member.isfile() and has_key(tar, member, keys_of)]
    assert [(member.name, member.mode) for member in secret] == [(f"{TOP.format(1)}/bundle.json", 0o600)]


def has_key(tar: tarfile.TarFile, member: tarfile.TarInfo, keys: list[bytes]) -> bool:
    file = tar.extractfile(member)
    assert file is not None
    contents = file.read()
    return any(key in contents or key.replace(b"\n", b"\\n") in contents for key in keys)


@pytest.fixture
def bare() -> Iterator[Root]:
    """A system with Python and GnuPG alone."""
    with fresh_root("debian12") as root:
        root.apt("install", "--no-install-recommends", "python3", "gnupg")
        root.run("systemd-tmpfiles", "--create", check=False)
        yield root


def unpack(root: Root, site: Paths, number: int) -> str:
    """Unpack the tar as an administrator does; returns the program's name."""
    root.shell(f"cd /root && tar xf {root.take(file_of(site, number, '.tar'))}")
    return f"/root/{TOP.format(number)}/setup"


def in_use(root: Root) -> str:
    return str(root.at(CLIENT).readlink())


def releases(root: Root) -> list[str]:
    return sorted(path.name for path in root.at("/usr/lib/penguindome/releases").glob("client-*"))


def test_the_tar_makes_a_client_of_a_system_with_python_and_gnupg_alone(site: Paths, bare: Root) -> None:
    before = bare.files()
    setup = unpack(bare, site, 1)
    said = bare.run(setup).stdout
    assert "release 1+0.1.0 is in use" in said
    assert in_use(bare) == "releases/client-1"
    assert_as_signed(bare, site, 1)
    assert bare.at(f"{CLIENT}/package-kind".replace("client/", "releases/client-1/")).read_text() == "tar\n"
    fingerprint = (site.keys / "server.fingerprint").read_text().strip()
    assert fingerprint in bare.run("penguindome-client", "setup", "--print").stdout
    assert bare.run("stat", "--format=%U %a", "/var/lib/penguindome/client").stdout == "root 700\n"
    bare.run("systemd-analyze", "verify", "--man=no", "penguindome-client.timer", "penguindome-client-python.path")

    # Once more: nothing changes, and neither does by the next release what is the administrator's.
    key = bare.run("sha256sum", "/var/lib/penguindome/client/device.key").stdout
    installed = bare.files()
    bare.run(setup)
    assert set(differences(installed, bare.files())) <= {"var/log/penguindome/client/client.log"}
    bare.write("/etc/penguindome/client.yml", "# mine\n")
    bare.run(unpack(bare, site, 2))
    assert in_use(bare) == "releases/client-2"
    assert_as_signed(bare, site, 2)
    assert releases(bare) == ["client-1", "client-2"]
    assert bare.run("sha256sum", "/var/lib/penguindome/client/device.key").stdout == key
    assert bare.at("/etc/penguindome/client.yml").read_text() == "# mine\n"
    older = bare.run(setup, check=False)
    assert (older.status, in_use(bare)) == (1, "releases/client-2")
    assert "is the older" in older.stderr

    bare.run("/usr/lib/penguindome/client/setup", "--uninstall")
    left = [
        name for name in differences(before, bare.files()) if not name.startswith(("root", "var/", "etc/penguindome"))
    ]
    assert left == []
    assert bare.run("sha256sum", "/var/lib/penguindome/client/device.key").stdout == key


def test_an_update_from_the_tar_installs_the_release_and_starts_nothing(site: Paths, bare: Root) -> None:
    bare.run(unpack(bare, site, 1))
    before = bare.files()
    setup = unpack(bare, site, 2)
    bare.run(setup, "--release-only", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    assert in_use(bare) == "releases/client-2"
    assert_as_signed(bare, site, 2)
    touched = {
        name for name in differences(before, bare.files()) if not name.startswith(("root/", "usr/lib/penguindome"))
    }
    assert touched <= {"var/log/penguindome/client", "var/log/penguindome/client/client.log"}
    # The way back is the link.
    bare.run("ln", "-sfn", "releases/client-1", CLIENT)
    assert_as_signed(bare, site, 1)
    bare.run(setup, "--release-only")
    assert in_use(bare) == "releases/client-2"


def test_a_release_that_cannot_make_its_environment_leaves_the_old_one_in_use(site: Paths, bare: Root) -> None:
    bare.run(unpack(bare, site, 1))
    setup = unpack(bare, site, 2)
    bare.shell(f"rm {Path(setup).parent}/root/usr/lib/penguindome/client/wheels/urllib3-*")
    refused = bare.run(setup, check=False)
    assert refused.status == 1
    assert "was not put into use" in refused.stderr
    assert in_use(bare) == "releases/client-1"
    assert_as_signed(bare, site, 1)


def test_a_killed_installation_leaves_the_old_release_or_the_new_one(site: Paths, bare: Root) -> None:
    bare.run(unpack(bare, site, 1))
    setup = unpack(bare, site, 2)
    for tenths in (1, 3, 5, 8, 13, 20, 30, 45):
        # bash's `kill -1` means all processes but bash itself.
        bare.shell(f"{setup} >/dev/null & sleep {tenths / 10}; kill -KILL -1 || true; wait || true")
        assert in_use(bare) in ("releases/client-1", "releases/client-2")
        assert_as_signed(bare, site, int(in_use(bare)[-1]))
    bare.run(setup)
    assert in_use(bare) == "releases/client-2"
    assert_as_signed(bare, site, 2)
    assert releases(bare) == ["client-1", "client-2"]
    assert not list(bare.at("/usr/lib/penguindome/releases").glob(".new-*"))


def test_an_ordinary_user_is_told_to_be_root(site: Paths, bare: Root) -> None:
    setup = unpack(bare, site, 1)
    bare.shell("chmod 755 /root")
    refused = bare.shell(f"setpriv --reuid=65534 --regid=65534 --clear-groups {setup}", check=False)
    assert refused.status == 1
    assert "run it as root" in refused.stderr


def test_a_client_of_a_package_is_left_to_the_package_manager(site: Paths) -> None:
    with fresh_root("debian12-ready") as root:
        root.run("dpkg", "--install", root.take(file_of(site, 1, ".deb")))
        refused = root.run(unpack(root, site, 2), check=False)
        assert refused.status == 1
        assert "package manager" in refused.stderr
        assert_as_signed(root, site, 1)


def test_what_is_built_and_carried_is_what_releases_are_made_of(site: Paths) -> None:
    described = json.loads((site.releases / "2/release.json").read_bytes())
    assert described["machine"] == os.uname().machine
    assert set(described["packages"]) == {"deb", "pacman", "tar"}
