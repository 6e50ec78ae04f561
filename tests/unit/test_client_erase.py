"""Deleting a directory with all in it, and nothing that is not."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from needs import require, require_program
from penguindome.client import erase as erasing
from penguindome.client import mounts
from penguindome.client.erase import Erased, erase


def remove(path: Path, may_enter: Callable[[int], bool] = lambda number: True) -> Erased:
    return erase(str(path.resolve()), may_enter=may_enter)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "a/b").mkdir(parents=True)
    (home / "a/b/file").write_text("x")
    (home / ".hidden").write_text("x")
    return home


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., None]]:
    require(os.geteuid() == 0, "only root can mount")
    done: list[Path] = []

    def make(*words: str, at: Path) -> None:
        at.mkdir(parents=True, exist_ok=True)
        mounted = subprocess.run(["mount", *words, str(at)], capture_output=True, check=False)
        require(mounted.returncode == 0, f"mount {words} does not work here: {mounted.stderr!r}")
        done.append(at)

    yield make
    for at in reversed(done):
        subprocess.run(["umount", "--lazy", str(at)], capture_output=True, check=False)


def test_all_of_a_directory_goes_and_nothing_beside_it(home: Path) -> None:
    beside = home.parent / "beside"
    beside.write_text("stays")
    result = remove(home)
    assert (result.gone, result.left) == (5, 0)
    assert not home.exists()
    assert beside.read_text() == "stays"


def test_nothing_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert remove(tmp_path / "no/such/home") == Erased()


def test_links_are_deleted_and_not_followed(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (home / "link").symlink_to(outside)
    (home / "a/b/up").symlink_to("../../..")
    (home / "hard").hardlink_to(outside / "kept")
    assert remove(home).left == 0
    assert (outside / "kept").read_text() == "kept"


def test_a_home_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    result = erase(str(tmp_path / "link"), may_enter=lambda number: True)
    assert (tmp_path / "real").is_dir()
    assert result.gone == 1


def test_special_files_and_strange_names_go(home: Path) -> None:
    os.mkfifo(home / "fifo")
    os.close(os.open(os.fsencode(home) + b"/\xff\n name", os.O_CREAT))
    (home / "-rf").mkdir()
    here = Path.cwd()
    os.chdir(home)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(here)
    if os.geteuid() == 0:
        with suppress(PermissionError):
            os.mknod(home / "device", 0o600 | 0o020000, os.makedev(1, 3))
    assert remove(home).left == 0
    assert not home.exists()


def test_directories_deeper_than_any_path_may_be_long_go(home: Path) -> None:
    name, depth = "d" * 200, 3000
    descriptor = os.open(home, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    result = remove(home)
    assert (result.gone, result.left) == (5 + depth, 0)
    assert not home.exists()


def test_a_directory_of_more_names_than_are_read_at_once_goes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "NAMES_AT_ONCE", 3)
    for number in range(10):
        (home / f"{number}/many").mkdir(parents=True)
        for name in range(8):
            (home / f"{number}/many/{name}").write_text("x")
    result = remove(home)
    assert (result.gone, result.left) == (5 + 10 * 10, 0)
    assert not home.exists()


def test_names_that_stay_are_not_read_for_ever(home: Path, mount: Callable[..., None]) -> None:
    points = [home / f"many/{number}" for number in range(12)]
    for point in points:
        mount("-t", "tmpfs", "tmpfs", at=point)
    local = {each.number for each in mounts.read() if Path(each.point) not in points}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erasing, "NAMES_AT_ONCE", 5)
        result = remove(home, may_enter=lambda number: number in local)
    assert result.left >= 5
    assert all(point.exists() for point in points)


def test_files_that_were_made_immutable_go(home: Path) -> None:
    require(os.geteuid() == 0, "only root can protect files from root")
    chattr = require_program("chattr")
    done = subprocess.run([chattr, "+i", home / "a/b/file", home / "a/b", home / "a"], capture_output=True, check=False)
    try:
        require(done.returncode == 0, f"this file system has no flags: {done.stderr!r}")
        assert remove(home).left == 0
        assert not home.exists()
    finally:
        subprocess.run([chattr, "-R", "-i", home], capture_output=True, check=False)


def test_a_mount_that_may_not_be_touched_is_left_with_all_in_it(
    home: Path, tmp_path: Path, mount: Callable[..., None]
) -> None:
    share = tmp_path / "share"
    mount("-t", "tmpfs", "tmpfs", at=share)
    (share / "kept").write_text("kept")
    mount("--bind", str(share), at=home / "a/share")
    mount("--bind", str(tmp_path / "share"), at=home / "second")
    local = {each.number for each in mounts.read() if not each.point.startswith((f"{home}/a/share", f"{home}/second"))}
    result = remove(home, may_enter=lambda number: number in local)
    assert (home / "a/share/kept").read_text() == (share / "kept").read_text() == "kept"
    assert result.left >= 2
    assert any("must not be touched" in line for line in result.shown)
    assert not (home / ".hidden").exists()
    assert not (home / "a/b").exists()


def test_mounts_that_may_be_touched_are_emptied_and_detached(
    home: Path, tmp_path: Path, mount: Callable[..., None]
) -> None:
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    (data / "inner/file").write_text("x")
    mount("-t", "tmpfs", "tmpfs", at=home / "scratch")
    (home / "scratch/file").write_text("x")
    mount("--bind", str(data), at=home / "a/data")
    result = remove(home)
    assert (result.left, result.shown) == (0, [])
    assert not home.exists()
    assert list(data.iterdir()) == []
    assert not [each for each in mounts.read() if each.point.startswith(str(home))]


def test_the_top_itself_must_be_one_that_may_be_touched(home: Path) -> None:
    result = remove(home, may_enter=lambda number: False)
    assert result.gone == 0
    assert (home / "a/b/file").exists()


def test_a_file_that_is_a_mount_is_named(home: Path, tmp_path: Path, mount: Callable[..., None]) -> None:
    (tmp_path / "other").write_text("kept")
    (home / "file").write_text("x")
    bound = subprocess.run(["mount", "--bind", tmp_path / "other", home / "file"], capture_output=True, check=False)
    require(os.geteuid() == 0 and bound.returncode == 0, "only root can mount")
    try:
        result = remove(home)
        assert result.shown[0].startswith(f"{home}/file: ")
        assert (tmp_path / "other").read_text() == "kept"
    finally:
        subprocess.run(["umount", home / "file"], check=True)


def test_somebody_who_goes_on_writing_does_not_keep_it_from_ending(home: Path) -> None:
    script = "while :; do mkdir -p $0/a/b 2>/dev/null; : > $0/a/b/$$.$RANDOM; done 2>/dev/null"
    writer = subprocess.Popen(["bash", "-c", script, str(home)])
    try:
        result = remove(home)
    finally:
        writer.kill()
        writer.wait()
    assert result.gone >= 1
    assert remove(home).left == 0
    assert not home.exists()


def test_subvolumes_and_snapshots_of_btrfs_go_too(tmp_path: Path, mount: Callable[..., None]) -> None:
    btrfs, image, disk = require_program("btrfs"), tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run([require_program("mkfs.btrfs"), "--quiet", image], check=True, capture_output=True)
    mount("-o", "loop", str(image), at=disk)
    home = disk / "home"
    home.mkdir()
    subprocess.run([btrfs, "subvolume", "create", home / "inner"], check=True, capture_output=True)
    (home / "inner/file").write_text("x")
    snapshot = [btrfs, "subvolume", "snapshot", "-r", home / "inner", home / "snapshot"]
    subprocess.run(snapshot, check=True, capture_output=True)
    local = {each.number for each in mounts.read() if each.is_local}
    assert remove(home, may_enter=lambda number: number in local).left == 0
    assert list(disk.iterdir()) == []
