"""The sources that packages are built of: a copy of what belongs to the checkout, and the wheelhouse."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

from penguindome_tools.packaging import wheelhouse

CHECKOUT = Path(__file__).resolve().parents[3]
CACHE = CHECKOUT / ".cache/client-packages"


def options(description: str) -> argparse.ArgumentParser:
    """The parser of a program that builds packages."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist", help="where the packages go")
    parser.add_argument("--version", help="the version that they get, in place of the one in debian/changelog")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the client's packages are kept once built")
    return parser


def export(target: Path, *, version: str | None = None) -> None:
    """Copy into `target` what belongs to the project, and the wheelhouse; file modes are those that git knows.

    `version` (`0.2.0-1`) takes the place of the one in debian/changelog.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (CHECKOUT / ".git").exists():
        sys.exit(f"make: {CHECKOUT} is no checkout of git, which knows what belongs to the sources")
    listed = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = CHECKOUT / name
        if not path.is_file() or name.startswith("tests/"):
            continue
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    shutil.copytree(wheelhouse.WHEELHOUSE, target / "wheelhouse", copy_function=link_or_copy)
    if version:
        _set_version(target, version)


def _set_version(source: Path, version: str) -> None:
    upstream = version.partition("-")[0]
    for name, pattern, text in (
        ("debian/changelog", r"\(.*?\)", f"({version})"),
        ("pyproject.toml", r'^version = ".*"$', f'version = "{upstream}"'),
        ("arch/PKGBUILD", r"^pkgver=.*$", f"pkgver={upstream}"),
    ):
        path = source / name
        path.write_text(re.sub(pattern, text, path.read_text(), count=1, flags=re.MULTILINE))


def digest(source: Path) -> str:
    """Names the contents of exported sources; of the wheels it looks at the list of their hashes alone."""
    found = hashlib.sha256()
    for path in sorted(source.rglob("*")):
        name = str(path.relative_to(source))
        if path.is_file() and not name.startswith("wheelhouse/wheels/"):
            found.update(f"{name}\0{path.stat().st_mode & 0o111}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def date_of_changelog(source: Path) -> int:
    """The date of both distributions' packages: that of the newest entry in debian/changelog."""
    found = re.search(r"^ -- .*>  (.*)$", (source / "debian/changelog").read_text(), re.MULTILINE)
    assert found, "debian/changelog has an entry with a date"
    return int(parsedate_to_datetime(found[1]).timestamp())


def link_or_copy(source: str, target: str) -> None:
    """Link a file that nobody will change, or copy it where another file system begins."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def run_builder(name: str, command: Sequence[str], place: Path, environment: Mapping[str, str]) -> None:
    """Run a program that builds packages in the directory `place`; when it fails, end with all that it said, and its
    `name`.
    """
    done = subprocess.run(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{name} failed with status {done.returncode}")
