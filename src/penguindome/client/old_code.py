"""A copy of the running code, which watches over its own replacement: the package's scripts may then delete the old
environment, and a new one that does not work can do no harm to the way back.

It lies in `updater-N/` of the state directory: `code/` (our package and what it needs), `settings/` (those of the
release in force), `manifest.signed.json` (likewise), `resume` (a program that goes on with the update, for whoever
finds it: the minute, or the boot), and last `complete`. It runs on the interpreter of the machine itself.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import penguindome
from penguindome import processes
from penguindome.client import installed
from penguindome.client.settings import RELEASED
from penguindome.errors import PenguinDomeError
from penguindome.files import sync_directory, write_atomically
from penguindome.paths import Paths

PREFIX = "updater-"
COMPLETE = "complete"
RESUME = "resume"
_MAIN = """\
from __future__ import annotations

import sys

from penguindome.client.watcher import main

sys.exit(main(sys.argv[1:]))
"""
_NEEDED = re.compile(r"[A-Za-z0-9._-]+")


class NoCopy(PenguinDomeError):
    """The running code could not be copied."""

    code = "no-copy"


def place(paths: Paths, release: int) -> Path:
    """Where the copy lies that watches over the move to a release."""
    return paths.client_state / f"{PREFIX}{release}"


def is_usable(directory: Path) -> bool:
    """Whether a copy is complete, and the interpreter that it was made for is still there."""
    return (directory / COMPLETE).exists() and os.access(_text(directory / COMPLETE), os.X_OK)


def command(directory: Path, *words: str) -> list[str]:
    """The words that start the watcher of a copy."""
    return [_text(directory / COMPLETE), "-I", str(directory / "code"), *words]


def make(paths: Paths, release: int) -> Path:
    """Copy the running code, unless there is a usable copy already; it is tried once. Raises NoCopy or OSError."""
    directory = place(paths, release)
    if is_usable(directory):
        return directory
    remove(directory)
    code = directory / "code"
    code.mkdir(parents=True)
    directory.chmod(0o700)
    try:
        _copy_code(code)
        (code / "__main__.py").write_text(_MAIN)
        for source in sorted((paths.client_code / RELEASED).glob("*")):
            (directory / RELEASED).mkdir(exist_ok=True)
            # With the mode, which the manifest names.
            shutil.copy(source, directory / RELEASED / source.name)
        if (paths.client_state / installed.NAME).exists():
            shutil.copyfile(paths.client_state / installed.NAME, directory / installed.NAME)
        python = _interpreter()
        words = [python, "-I", str(code), "--test"]
        processes.run(words, timeout=120)
    except BaseException:
        remove(directory)
        raise
    write_atomically(directory / RESUME, f'#!/bin/sh\nexec "{python}" -I "{code}" resume\n', mode=0o700)
    os.sync()
    write_atomically(directory / COMPLETE, python, mode=0o600)
    sync_directory(paths.client_state)
    return directory


def remove(directory: Path) -> None:
    """Delete a copy; from here on it is not complete."""
    (directory / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def prune(paths: Paths, *, keep: int | None = None) -> None:
    """Delete the copies of updates that are over."""
    for directory in paths.client_state.glob(f"{PREFIX}*"):
        if keep is None or directory != place(paths, keep):
            remove(directory)


def _copy_code(target: Path) -> None:
    own = Path(penguindome.__file__).resolve().parent
    shutil.copytree(own, target / own.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in sorted(_distributions("penguindome")):
        for file in metadata.distribution(name).files or ():
            # Programs and manual pages lie outside; caches are made again.
            if ".." in file.parts or file.is_absolute() or "__pycache__" in file.parts or file.parts[0] == own.name:
                continue
            place_ = target / file
            place_.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), place_)


def _distributions(name: str, found: set[str] | None = None) -> set[str]:
    """A distribution and all that it needs, by the metadata of what is installed; extras are left out."""
    found = set() if found is None else found
    for line in metadata.distribution(name).requires or ():
        match = _NEEDED.match(line)
        needed = match[0] if match else ""
        if "extra ==" in line or needed in found:
            continue
        try:
            metadata.distribution(needed)
        except metadata.PackageNotFoundError:
            # For another Python or system: a marker says so.
            continue
        found.add(needed)
        _distributions(needed, found)
    return found


def _interpreter() -> str:
    """The interpreter that the environment was made of, by the name that has its minor version."""
    base = str(getattr(sys, "_base_executable", None) or sys.executable)
    named = Path(sys.base_prefix) / f"bin/python3.{sys.version_info.minor}"
    return str(named) if named.exists() else base


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
