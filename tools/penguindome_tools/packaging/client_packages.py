"""The client's packages, of Debian and Arch both, which the server's package carries and makes releases from.

They are built first, each of the same sources as the server's, and kept in `.cache/client-packages` by the digest of
those sources. In the sources of the server's package they lie in `client-packages/`, beside the wheelhouse.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from pathlib import Path

from penguindome_tools.packaging.dpkg import build_debs
from penguindome_tools.packaging.makepkg import build_package
from penguindome_tools.packaging.sources import digest, link_or_copy

DIRECTORY = "client-packages"
KEPT_SECONDS = 24 * 3600


def add_to(source: Path, cache: Path) -> list[Path]:
    """Put the client's packages, built of exported `source` unless `cache` has them, into it; returns them."""
    made = _cached(source, cache)
    target = source / DIRECTORY
    target.mkdir()
    for path in sorted(made.iterdir()):
        link_or_copy(str(path), str(target / path.name))
    return sorted(target.iterdir())


def _cached(source: Path, cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / digest(source)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            unfinished = cache / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(source, unfinished)
            _forget_old(cache)
            unfinished.rename(directory)
    return directory


def _forget_old(cache: Path) -> None:
    for path in cache.iterdir():
        # Another build of what lay in the checkout just now may still be at work with it.
        if path.is_dir() and path.name != "unfinished" and time.time() - path.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(path)


def build(source: Path, output: Path) -> None:
    """Build the two packages of exported `source`, which stays as it is, into `output`."""
    with tempfile.TemporaryDirectory(prefix="penguindome-client-") as directory:
        copy = Path(directory) / "penguindome"
        shutil.copytree(source, copy, copy_function=_link_wheel)
        made = Path(directory) / "made"
        made.mkdir()
        (deb,) = build_debs(copy, made, only_client=True)
        shutil.copyfile(deb, output / deb.name)
    build_package(source, "client", output)


def _link_wheel(source: str, target: str) -> None:
    if source.endswith(".whl"):
        link_or_copy(source, target)
    else:
        shutil.copy2(source, target)
