"""The packages of this checkout, built once for all tests that install them."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from needs import require_program

CHECKOUT = Path(__file__).resolve().parents[1]
HOME = CHECKOUT / ".cache/packages"
KEPT_SECONDS = 3600
PROGRAMS = ("dpkg-buildpackage", "makepkg", "fakeroot", "zstd", "bsdtar")
"""What building takes: of both kinds, because the server's package carries the client's of both."""


@dataclass(frozen=True)
class Packages:
    """Files of the client's and the server's package."""

    client: Path
    server: Path

    @property
    def digest(self) -> str:
        """Names what they were built of."""
        return self.client.parent.name


def debian_packages() -> Packages:
    """The Debian packages as they are built of what lies in the checkout now."""
    return _built("deb")


def pacman_packages() -> Packages:
    """The packages of Arch, likewise."""
    return _built("pacman")


def _built(kind: str) -> Packages:
    for program in PROGRAMS:
        require_program(program)
    HOME.mkdir(parents=True, exist_ok=True)
    directory = HOME / f"{kind}-{_sources()}"
    with (HOME / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            for old in HOME.glob(f"{kind}-*"):
                # Tests of what lay in the checkout just now may still be at work with it.
                if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                    shutil.rmtree(old)
            unfinished = HOME / f"{kind}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            command = [sys.executable, "-m", f"penguindome_tools.packaging.{kind}", "--output", str(unfinished)]
            done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            unfinished.rename(directory)
    (client,) = directory.glob("penguindome-client[_-]*")
    (server,) = directory.glob("penguindome-server[_-]*")
    return Packages(client, server)


def repacked(package: Path, target: Path, *, version: str, without: str = "", mark: str = "") -> Path:
    """The package with another version: without the files that the pattern `without` names, and with its locked
    libraries `mark`ed as different ones.
    """
    tree = target / f"{package.stem}-{version}"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = [line for line in control.read_text().splitlines() if not line.startswith("Version:")]
    control.write_text("\n".join([*lines, f"Version: {version}", ""]))
    for file in tree.glob(without) if without else ():
        file.unlink()
    if mark:
        for requirements in tree.glob("usr/lib/penguindome/*/requirements.txt"):
            requirements.write_text(f"{requirements.read_text()}# {mark}\n")
    (tree / "DEBIAN/md5sums").unlink(missing_ok=True)
    made = target / f"{package.name.partition('_')[0]}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, made], check=True, capture_output=True)
    shutil.rmtree(tree)
    return made


def _sources() -> str:
    """A digest of all that goes into packages."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed.split("\0"))):
        path = CHECKOUT / name
        if path.is_file() and not name.startswith("tests/"):
            digest.update(
                f"{name}\0{path.stat().st_mode & 0o111}\0".encode() + hashlib.sha256(path.read_bytes()).digest()
            )
    return digest.hexdigest()[:16]
