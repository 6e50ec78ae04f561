"""The copy of the old package, by which a client goes back from a release that does not work."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_peer import soon
from needs import NOBODY, require
from penguindome.client.package_managers import keep_copy, roots_own

NAME = "penguindome-client_1+0.1.0_amd64.deb"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A cache on a disk with room for a megabyte."""
    require(os.geteuid() == 0, "only root can mount a small disk")
    cache = tmp_path / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(cache)], check=True)
    try:
        yield cache
    finally:
        subprocess.run(["umount", "--lazy", str(cache)], check=True)


def test_a_disk_that_is_too_full_for_the_way_back_is_not_left_full(small: Path, tmp_path: Path) -> None:
    package = tmp_path / "package.deb"
    package.write_bytes(bytes(range(256)) * (3 << 12))
    with pytest.raises(OSError, match="No space left") as caught:
        keep_copy(package, small, NAME)
    assert caught.value.errno == errno.ENOSPC
    assert list(small.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
    keep_copy(package, small, NAME)
    assert [path.name for path in small.iterdir()] == [NAME]
    assert (small / NAME).read_bytes() == package.read_bytes()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A package in a cache of root's."""
    require(os.geteuid() == 0, "only root has files that are root's")
    package = tmp_path / "cache" / NAME
    package.parent.mkdir(mode=0o755)
    package.write_bytes(b"a package")
    package.chmod(0o644)
    return package


def test_a_package_that_root_alone_writes_is_a_way_back_wherever_a_link_of_roots_leads_to_it(kept: Path) -> None:
    assert roots_own(kept) == kept
    link = kept.parent.with_name("link")
    link.symlink_to(kept.parent)
    assert roots_own(link / NAME) == kept


@pytest.mark.parametrize("which", ["file", "directory"])
@pytest.mark.parametrize("how", ["owned", "group", "everybody"])
def test_a_package_that_somebody_else_may_have_written_is_no_way_back(kept: Path, which: str, how: str) -> None:
    place = kept if which == "file" else kept.parent
    if how == "owned":
        os.chown(place, NOBODY, 0)
    else:
        place.chmod(0o775 if how == "group" else 0o757)
    assert roots_own(kept) is None


def test_a_package_on_a_share_is_no_way_back(kept: Path, tmp_path: Path) -> None:
    require(shutil.which("mount") and Path("/dev/fuse").exists(), "this machine has no FUSE")
    program = [sys.executable, Path(__file__).parents[1] / "fuse_share.py", kept.parent, tmp_path / "log", "0"]
    with subprocess.Popen(program) as share:
        try:
            assert soon((kept.parent / "kept").exists)
            assert (kept.parent / "kept").stat().st_uid == 0
            assert roots_own(kept.parent / "kept") is None
        finally:
            subprocess.run(["umount", "--lazy", str(kept.parent)], check=True)
            share.wait(30)
