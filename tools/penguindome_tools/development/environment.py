"""Make what a task needs: `python3 environment.py NEED...`, where a need is `venv` or another name in NEEDS below.

`venv` is `.venv` with exactly what tools/locks/development.txt says and the project itself, editable. It carries
stamps of what it was made from, so that the second time costs nothing. The other needs add system packages: they are
installed when root runs this on Debian, Ubuntu or Arch, and named otherwise. `mongod` adds a mongod for tests.

This is the first thing that runs on a bare machine: stdlib only, and nothing newer than Python 3.8 before the version
of Python is looked at.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from ctypes import CDLL
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
LOCK = CHECKOUT / "tools/locks/development.txt"
CACHE = CHECKOUT / ".cache"
OLDEST_PYTHON = (3, 11)  # the server's; the client also runs on 3.10

# Program, path, module of Python or library -> the package that has it on Debian and Ubuntu, and on Arch.
PACKAGES = {
    "gpg": ("gnupg", "gnupg"),
    "gpg-agent": ("gpg-agent", "gnupg"),
    "curl": ("curl", "curl"),
    "ip": ("iproute2", "iproute2"),
    "lsblk": ("util-linux", "util-linux"),
    "openssl": ("openssl", "openssl"),
    "setpriv": ("util-linux", "util-linux"),
    "shellcheck": ("shellcheck", "shellcheck"),
    "dpkg-buildpackage": ("dpkg-dev", "dpkg"),
    "dh": ("debhelper", "debhelper"),
    "debconf-gettextize": ("po-debconf", "po-debconf"),
    "lintian": ("lintian", "lintian"),
    "git": ("git", "git"),
    "makepkg": ("makepkg", "pacman"),
    "pacman-conf": ("pacman-package-manager", "pacman"),  # makepkg wants pacman itself, which Debian only recommends
    "bsdtar": ("libarchive-tools", "libarchive"),
    "fakeroot": ("fakeroot", "fakeroot"),
    "zstd": ("zstd", "zstd"),
    "man": ("man-db", "man-db"),
    "chattr": ("e2fsprogs", "e2fsprogs"),
    "cryptsetup": ("cryptsetup-bin", "cryptsetup"),
    "mkfs.btrfs": ("btrfs-progs", "btrfs-progs"),
    "mmdebstrap": ("mmdebstrap", "mmdebstrap"),
    "systemd-nspawn": ("systemd-container", "systemd"),
    "/usr/bin/python3": ("python3", "python"),
    "/usr/share/zoneinfo/Europe/Berlin": ("tzdata", "tzdata"),
    "import ensurepip": ("python3-venv", "python"),
    "libcurl.so.4": ("libcurl4", "curl"),  # the fetched mongod is linked to it
}
TO_MAKE_A_VENV = ("import ensurepip",)
RUN = ("gpg", "gpg-agent", "ip", "lsblk", "openssl", "setpriv", "/usr/share/zoneinfo/Europe/Berlin")
PACMAN = ("git", "makepkg", "pacman-conf", "bsdtar", "fakeroot", "setpriv", "zstd", "/usr/bin/python3")
DEB = ("git", "dpkg-buildpackage", "dh", "debconf-gettextize", "/usr/bin/python3")
DISKS = ("chattr", "cryptsetup", "mkfs.btrfs")
NEEDS = {
    "venv": (),
    "run": RUN,
    "tests": (*RUN, "curl"),
    "mongod": ("setpriv", "libcurl.so.4"),
    "lint": ("shellcheck",),
    "deb": DEB,
    "pacman": PACMAN,
    "packages": (*DEB, *PACMAN, *DISKS, "lintian", "man", "mmdebstrap", "systemd-nspawn"),
}
# Tests with clean systems, packages and disks: nobody else can run them all, so they are skipped elsewhere.
FOR_ROOT_ON_DEBIAN = {"packages"}


class Missing(Exception):
    """What the machine lacks, said so that its user can help."""


def main(needs: Sequence[str]) -> None:
    """Make `.venv` and what `needs` add to it."""
    if sys.version_info < OLDEST_PYTHON:
        raise Missing("Python 3.11 or newer is needed (make PYTHON=/path/to/python3 ...)")
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "environment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home = CHECKOUT / ".venv"
        able = os.geteuid() == 0 and shutil.which("apt-get") is not None
        wanted = [thing for need in needs if able or need not in FOR_ROOT_ON_DEBIAN for thing in NEEDS[need]]
        ensure_system_packages(wanted if (home / "bin/python").exists() else [*TO_MAKE_A_VENV, *wanted])
        # Resolved, because in an active venv `python3` is a link in the very directory that is made anew.
        ensure_venv(home, Path(sys.executable).resolve(), sys.version)
    if "mongod" in needs:
        if not shutil.which("mongod") and not (CACHE / "mongod").exists():
            _say("fetching a mongod for tests")
        _run([str(home / "bin/python"), "-m", "penguindome_tools.development.mongod", "fetch"])


def ensure_system_packages(things: Sequence[str]) -> None:
    """Install the packages that `things` are missing from, or raise Missing with the command that would."""
    missing = [PACKAGES[thing] for thing in things if not _is_there(thing)]
    if not missing:
        return
    if shutil.which("apt-get"):
        names = sorted({debian for debian, _ in missing})
        install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *names]
        refresh = ["apt-get", "update", "--quiet"]
    elif shutil.which("pacman"):
        names = sorted({arch for _, arch in missing})
        install = ["pacman", "--sync", "--needed", "--noconfirm", *names]
        refresh = ["pacman", "--sync", "--refresh"]
    else:
        names = sorted({debian for debian, _ in missing})
        raise Missing(f"please install the system packages: {' '.join(names)} (their names on Debian)")
    if os.geteuid() != 0:
        raise Missing(f"system packages are missing; please run: sudo {' '.join(install)}")
    _say(f"installing system packages: {' '.join(names)}")
    _run(refresh, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    _run(install, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def ensure_venv(home: Path, python: Path, version: str) -> None:
    """Make `home` a venv of `python` that holds what the lock says and the project; at once done if its stamps fit.

    `version` is what that Python calls `sys.version`.
    """
    contents = _stamp(LOCK.read_bytes(), version, str(CHECKOUT))
    if _read(home / "stamp.lock") != contents:
        _run([str(python), "-m", "venv", "--clear", str(home)])
        _say(f"installing what {LOCK.relative_to(CHECKOUT)} names into {home.relative_to(CHECKOUT)}")
        _pip(home, "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(LOCK))
        (home / "stamp.lock").write_text(contents)
    project = _stamp((CHECKOUT / "pyproject.toml").read_bytes())
    if _read(home / "stamp.project") != project:
        _pip(home, "--no-deps", "--no-index", "--no-build-isolation", "--editable", str(CHECKOUT))
        (home / "stamp.project").write_text(project)


def _pip(home: Path, *arguments: str) -> None:
    command = [str(home / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    # Versions are locked: what another index or a folder of wheels offers makes no difference but noise.
    _run([*command, "--no-warn-script-location", *arguments])


def _is_there(thing: str) -> bool:
    if thing.startswith("import "):
        return find_spec(thing.split()[1]) is not None
    if ".so." in thing:
        return _is_library(thing)
    if thing.startswith("/"):
        return Path(thing).exists()
    # Root's programs (setpriv's neighbours, ip) are not on every user's PATH.
    return shutil.which(thing, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is not None


def _is_library(name: str) -> bool:
    try:
        CDLL(name)
    except OSError:
        return False
    return True


def _stamp(data: bytes, *more: str) -> str:
    return sha256(b"\0".join([data, *(text.encode() for text in more)])).hexdigest() + "\n"


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _run(command: Sequence[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise Missing(f"this failed with status {done.returncode}: {' '.join(command)}")


def _say(text: str) -> None:
    print(f"make: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Missing as problem:
        sys.exit(f"make: {problem}")
