"""Make what a task needs: `python3 environment.py NEED...`, where a need is `venv`, `tests`, `run`, `mongod` or `lint`.

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
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
LOCK = CHECKOUT / "tools/locks/development.txt"
CACHE = CHECKOUT / ".cache"
OLDEST_PYTHON = (3, 11)  # the server's; the client also runs on 3.10

# Program or path -> the package that has it on Debian and Ubuntu, and on Arch.
PACKAGES = {
    "gpg": ("gnupg", "gnupg"),
    "gpg-agent": ("gpg-agent", "gnupg"),
    "ip": ("iproute2", "iproute2"),
    "lsblk": ("util-linux", "util-linux"),
    "openssl": ("openssl", "openssl"),
    "setpriv": ("util-linux", "util-linux"),
    "shellcheck": ("shellcheck", "shellcheck"),
    "/usr/share/zoneinfo/Europe/Berlin": ("tzdata", "tzdata"),
    "/etc/ssl/certs/ca-certificates.crt": ("ca-certificates", "ca-certificates"),
}
ENSUREPIP = ("python3-venv", "python")
RUN = ("gpg", "gpg-agent", "ip", "lsblk", "openssl", "setpriv", "/usr/share/zoneinfo/Europe/Berlin")
NEEDS = {"venv": (), "run": RUN, "tests": RUN, "mongod": ("setpriv",), "lint": ("shellcheck",)}


class Missing(Exception):
    """What the machine lacks, said so that its user can help."""


def main(needs: Sequence[str]) -> None:
    """Make `.venv` and what `needs` add to it."""
    if sys.version_info < OLDEST_PYTHON:
        raise Missing("Python 3.11 or newer is needed (make PYTHON=/path/to/python3 ...)")
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "environment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure_system_packages([thing for need in needs for thing in NEEDS[need]])
        home = CHECKOUT / ".venv"
        ensure_venv(home, Path(sys.executable))
    if "mongod" in needs and not shutil.which("mongod"):
        # Its own module knows whether it is there already; asking costs half a second, the directory tells sooner.
        if not list((CACHE / "mongod").glob("*/bin/mongod")):
            _say("fetching a mongod for tests")
        _run([str(home / "bin/python"), "-m", "penguindome_tools.development.mongod", "fetch"])


def ensure_system_packages(things: Sequence[str], extra: Sequence[tuple[str, str]] = ()) -> None:
    """Install the packages that `things` are missing from, or raise Missing with the command that would."""
    missing = [PACKAGES[thing] for thing in things if not _is_there(thing)] + list(extra)
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


def ensure_venv(home: Path, python: Path) -> None:
    """Make `home` a venv of `python` that holds what the lock says and the project; at once done if its stamps fit."""
    contents = _stamp(LOCK.read_bytes(), _version_of(python))
    if _read(home / "stamp.lock") != contents:
        _make_venv(home, python)
        _say(f"installing what {LOCK.relative_to(CHECKOUT)} names into {home.relative_to(CHECKOUT)}")
        _pip(home, "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(LOCK))
        (home / "stamp.lock").write_text(contents)
    project = _stamp((CHECKOUT / "pyproject.toml").read_bytes(), str(CHECKOUT))
    if _read(home / "stamp.project") != project:
        _pip(home, "--no-deps", "--no-index", "--no-build-isolation", "--editable", str(CHECKOUT))
        (home / "stamp.project").write_text(project)


def _make_venv(home: Path, python: Path) -> None:
    if python == Path(sys.executable) and not find_spec("ensurepip"):
        ensure_system_packages([], extra=[ENSUREPIP])
    ensure_system_packages(["/etc/ssl/certs/ca-certificates.crt"] if shutil.which("apt-get") else [])
    _run([str(python), "-m", "venv", "--clear", str(home)])


def _pip(home: Path, *arguments: str) -> None:
    command = [str(home / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    # Versions are locked: what another index or a folder of wheels offers makes no difference but noise.
    _run([*command, "--no-warn-script-location", *arguments])


def _version_of(python: Path) -> str:
    if python == Path(sys.executable):
        return f"{sys.version}\n"
    return subprocess.run(
        [str(python), "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=True
    ).stdout


def _is_there(thing: str) -> bool:
    if thing.startswith("/"):
        return Path(thing).exists()
    # Root's programs (setpriv's neighbours, ip) are not on every user's PATH.
    return shutil.which(thing, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is not None


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
