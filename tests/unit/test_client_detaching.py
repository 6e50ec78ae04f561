"""A mount is detached by what it is, whatever somebody makes of the path to it meanwhile."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from needs import require
from penguindome.client import detaching, mounts
from penguindome.client.erase import erase
from penguindome.client.mounts import Mount

Mounting = Callable[[Path], Mount]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounting]:
    require(os.geteuid() == 0, "only root can mount")

    def make(at: Path) -> Mount:
        at.mkdir(parents=True, exist_ok=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "test", str(at)], capture_output=True, check=False)
        require(mounted.returncode == 0, f"mounting does not work here: {mounted.stderr!r}")
        (at / "file").write_text(at.name)
        return mounted_at(at)[-1]

    yield make
    while left := mounted_at(tmp_path):
        subprocess.run(["umount", "--lazy", left[-1].point], check=True)


def mounted_at(place: Path) -> list[Mount]:
    return [each for each in mounts.read() if mounts.is_below(each.point, str(place))]


def test_a_mount_is_detached(tmp_path: Path, mount: Mounting) -> None:
    made = mount(tmp_path / "strange\n name\x0b\u2028")
    detaching.detach(made.point, made.number)
    assert mounted_at(tmp_path) == []


def test_a_link_that_came_into_the_path_leads_to_nothing_else(tmp_path: Path, mount: Mounting) -> None:
    volume = mount(tmp_path / "volumes/home")
    own = mount(tmp_path / "alice/a/home")
    # What mountinfo said is what was true before she did this.
    (tmp_path / "alice/a").rename(tmp_path / "alice/b")
    (tmp_path / "alice/a").symlink_to(tmp_path / "volumes")
    with pytest.raises(NotADirectoryError):
        detaching.detach(own.point, own.number)
    (tmp_path / "alice/a").unlink()
    (tmp_path / "alice/a").mkdir()
    (tmp_path / "alice/a/home").symlink_to(tmp_path / "volumes/home")
    with pytest.raises(OSError, match="another mount"):
        detaching.detach(own.point, own.number)
    assert {each.number for each in mounted_at(tmp_path)} == {volume.number, own.number}
    detaching.detach(str(tmp_path / "alice/b/home"), own.number)
    assert [each.number for each in mounted_at(tmp_path)] == [volume.number]


def test_another_mount_at_the_same_point_stays(tmp_path: Path, mount: Mounting) -> None:
    below = mount(tmp_path / "point")
    above = mount(tmp_path / "point")
    with pytest.raises(OSError, match="another mount"):
        detaching.detach(below.point, below.number)
    detaching.detach(above.point, above.number)
    detaching.detach(below.point, below.number)
    assert mounted_at(tmp_path) == []


def test_no_mount_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="another mount"):
        detaching.detach(str(tmp_path / "directory"), 1 << 30)
    with pytest.raises(FileNotFoundError):
        detaching.detach(str(tmp_path / "nothing/there"), 1 << 30)


def test_what_was_emptied_is_detached_where_it_is_and_not_where_its_path_leads(tmp_path: Path, mount: Mounting) -> None:
    mount(tmp_path / "volumes/home")
    own = mount(tmp_path / "alice/a/home")
    local = {each.number for each in mounts.read()}

    def may_enter(number: int) -> bool:
        """While it is being emptied, the directory above is moved away."""
        if number == own.number:
            (tmp_path / "alice").rename(tmp_path / "moved")
            (tmp_path / "alice").mkdir()
            (tmp_path / "alice/a").symlink_to(tmp_path / "volumes")
        return number in local

    erase(str(tmp_path / "alice/a"), may_enter=may_enter)
    assert (tmp_path / "volumes/home/file").read_text() == "home"
    assert [each.point for each in mounted_at(tmp_path)] == [str(tmp_path / "volumes/home")]


def test_only_the_way_to_others_need_be_detached() -> None:
    def at(number: int, parent: int, point: str) -> Mount:
        return Mount(number, parent, "0:1", "/", point, "nfs", "server:/")

    root, outer, local, inner = at(1, 1, "/"), at(2, 1, "/net"), at(3, 2, "/net/a/disk"), at(4, 3, "/net/a/disk/b")
    first, second, deeper = at(5, 1, "/mnt"), at(6, 5, "/mnt"), at(7, 6, "/mnt/x")
    everything = [root, outer, local, inner, first, second, deeper]
    assert mounts.highest([deeper, second, first, inner, outer], everything) == [second, first, outer]
    assert mounts.highest([deeper, inner], everything) == [deeper, inner]
