#!/usr/bin/python3 -I
"""Make the private Python environment of an installed PenguinDome from the wheels beside this program, offline.

    pkg-setup venv      make it, unless the one in use is what it would make
    pkg-setup matches   exit status 0: the one in use fits the Python that it was made for; 1: it does not
    pkg-setup remove    delete all of them

Maintainer scripts run it as /usr/lib/penguindome/ROLE/pkg-setup with the Python of the machine; so it is one file,
needs only the standard library, and runs on every Python that the client supports. Beside it lie `wheels/` and
`requirements.txt`, which has the hash of each wheel. An environment is a directory `venv-MINOR-HASH`, complete when it
holds the file `stamp`; the link `venv` names the one in use, and is replaced only when the new one has been tested.
What goes wrong is one line on stderr, and then the one in use is left alone.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LINK = "venv"
STAMP = "stamp"
IMPORT_TEST = """\
import importlib, sys
from importlib import metadata, util
modules = {name for name in metadata.packages_distributions() if name.isidentifier() and not name.startswith("_")}
modules |= {name for name in sys.argv[1:] if name.partition(".")[0] in modules}
for name in sorted(modules):
    importlib.import_module(name)
"""
PROGRAMS = ("penguindome.client.cli", "penguindome_server.application", "penguindome_tools.cli")
"""Modules of ours that import most of what is installed; those that a role has are imported before it is used."""


class SetupFailed(Exception):
    """What keeps the environment from being made, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the verb says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pkg-setup", description="The private Python environment of PenguinDome.")
    parser.add_argument(
        "--home", type=Path, default=Path(__file__).resolve().parent, help="what lies beside the wheels"
    )
    parser.add_argument("verb", choices=("venv", "matches", "remove"))
    options = parser.parse_args(arguments)
    options.home = options.home.absolute()
    os.umask(0o022)  # the service user reads what root makes, whatever root's own umask is
    try:
        if options.verb == "matches":
            return 0 if matches(options.home) else 1
        with Locked(options.home):
            if options.verb == "venv":
                make(options.home)
            else:
                remove(options.home)
    except (SetupFailed, OSError) as error:
        kept = "; the environment that was in use stays" if matches(options.home) else ""
        print(f"pkg-setup: {options.home}: {error}{kept}", file=sys.stderr)
        return 1
    return 0


class Locked:
    """Holds the directory for one process at a time: a package manager and its trigger may meet."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __enter__(self) -> None:
        self.descriptor = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)


def matches(home: Path) -> bool:
    """Whether there is an environment in use, complete, and the Python that it was made for is still there."""
    current = home / LINK
    return (current / STAMP).exists() and os.access(current / "bin/python", os.X_OK)


def make(home: Path) -> None:
    """Make the environment for this Python, test it, put it into use and delete the others; raises SetupFailed."""
    requirements = (home / "requirements.txt").read_bytes()
    name = f"{LINK}-{sys.version_info.major}.{sys.version_info.minor}-{hashlib.sha256(requirements).hexdigest()[:16]}"
    directory = home / name
    if not (directory / STAMP).exists() or not os.access(directory / "bin/python", os.X_OK):
        _refuse_unsupported_python(home / "wheels")
        _delete(directory)
        try:
            _fill(directory, home)
        except BaseException:
            _delete(directory)
            raise
    _use(home, name)
    for other in home.glob(f"{LINK}-*"):
        if other.name != name:
            _delete(other)


def remove(home: Path) -> None:
    """Delete every environment below `home` and the link."""
    for path in (home / LINK, *home.glob(f"{LINK}-*")):
        _delete(path)


def _refuse_unsupported_python(wheels: Path) -> None:
    minors = sorted({int(minor) for path in wheels.iterdir() for minor in re.findall(r"-cp3(\d+)-cp3\1-", path.name)})
    if minors and sys.version_info[:2] not in [(3, minor) for minor in minors]:
        raise SetupFailed(
            f"this package serves Python 3.{minors[0]} to 3.{minors[-1]}, and this machine has "
            f"{sys.version_info.major}.{sys.version_info.minor}; install a newer PenguinDome package"
        )


def _fill(directory: Path, home: Path) -> None:
    # By its full name (python3.11): so an environment never runs on another minor version than it was made for.
    named = Path(sys.base_prefix) / f"bin/python3.{sys.version_info.minor}"
    base = named if named.exists() else Path(sys.executable).resolve()
    _run("making an environment", [str(base), "-m", "venv", "--without-pip", str(directory)])
    python = str(directory / "bin/python")
    pip = next(iter(sorted((home / "wheels").glob("pip-*.whl"))), None)
    if pip is None:
        raise SetupFailed("there is no wheel of pip")
    install = [python, f"{pip}/pip", "install", "--isolated", "--quiet", "--disable-pip-version-check", "--no-index"]
    install += ["--find-links", str(home / "wheels"), "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    install += ["--no-cache-dir", "--no-compile", "--no-warn-script-location", "--root-user-action", "ignore"]
    _run("installing the wheels", [*install, "--requirement", str(home / "requirements.txt")])
    _run("compiling", [python, "-I", "-m", "compileall", "-q", str(directory / "lib")])
    _run("importing what was installed", [python, "-I", "-c", IMPORT_TEST, *PROGRAMS])
    # The stamp says that all of it is on the disk, also after the machine lost its power.
    os.sync()
    (directory / STAMP).touch()


def _use(home: Path, name: str) -> None:
    link = home / LINK
    if link.is_symlink() and str(link.readlink()) == name:
        return
    beside = home / f"{LINK}.new"
    _delete(beside)
    beside.symlink_to(name)
    beside.replace(link)


def _delete(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _run(purpose: str, command: Sequence[str]) -> None:
    """Run a program to its end, away from the caller's environment, or raise SetupFailed with the last that it said."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    environment |= {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    done = subprocess.run(
        command,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        told = [line for line in said if line.startswith("ERROR: ")] or said
        raise SetupFailed(f"{purpose} failed with status {done.returncode}: {told[-1] if told else ''}")


if __name__ == "__main__":
    sys.exit(main())
