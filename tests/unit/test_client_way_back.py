"""The copy of the old package, by which a client goes back from a release that does not work."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import require
from penguindome.client.package_managers import keep_copy

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
