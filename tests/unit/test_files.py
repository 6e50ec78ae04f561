"""Files: replaced atomically, read with a limit, locked, and logged to by several processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import require
from penguindome.errors import InvalidData
from penguindome.files import (
    AlreadyRunning,
    FileLock,
    LineFile,
    ensure_directory,
    read_limited,
    read_with_mode,
    write_atomically,
)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask of whoever started us must not matter."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_file_has_exactly_the_mode_asked_for(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"new", mode=mode)
    assert (mode_of(path), path.read_bytes()) == (mode, b"new")


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, "neu: ä")
    assert path.read_text(encoding="utf-8") == "neu: ä"
    assert names_in(tmp_path) == ["file"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """The writer is killed again and again; what is there is always one whole version."""
    path = tmp_path / "file"
    write_atomically(path, b"0" * 100_000)
    script = (
        "import sys; from pathlib import Path; from penguindome.files import write_atomically\n"
        "print('go', flush=True)\n"
        "for n in range(10**9): write_atomically(Path(sys.argv[1]), str(n % 10).encode() * 100_000)\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            for _ in range(50):
                contents = path.read_bytes()
                assert len(contents) == 100_000
                assert contents == contents[:1] * 100_000
            writer.send_signal(signal.SIGKILL)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_atomically(link, "new")
    assert target.read_text() == "precious"
    assert not link.is_symlink()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, "new")
    assert names_in(tmp_path) == ["directory"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_file_belongs_to_the_owner_asked_for(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "only root can give files away")
    path = tmp_path / "file"
    write_atomically(path, "x", mode=0o640, owner=(1, 2))
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (1, 2, 0o640)


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_limited(path, 100) == b"x" * 100
    with pytest.raises(InvalidData, match="larger than 99"):
        read_limited(path, 99)
    with pytest.raises(FileNotFoundError):
        read_limited(tmp_path / "none", 99)


def test_a_file_that_is_read_with_its_mode_is_no_link_and_nothing_but_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    path.chmod(0o4751)
    assert read_with_mode(path, 8) == (b"contents", 0o4751)
    (tmp_path / "link").symlink_to(path)
    for name, limit in (("file", 7), ("link", 8)):
        with pytest.raises(InvalidData):
            read_with_mode(tmp_path / name, limit)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidData):
        read_with_mode(tmp_path / "fifo", 8)


def test_a_lock_is_waited_for_as_long_as_one_will(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = FileLock(path)
    held.acquire()
    timer = threading.Timer(0.1, held.release)
    timer.start()
    with FileLock(path, wait=30):
        timer.join()
        with pytest.raises(AlreadyRunning):
            FileLock(path).acquire()


@pytest.mark.timeout(10)
def test_a_fifo_does_not_block_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidData, match="regular"):
        read_limited(tmp_path / "fifo", 10)
    with pytest.raises(InvalidData, match="regular"):
        read_limited(Path("/dev/zero"), 10)


def test_a_directory_is_made_with_its_parents(tmp_path: Path, umask: int) -> None:
    ensure_directory(tmp_path / "a/b/c", 0o750)
    assert [mode_of(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o755, 0o755, 0o750]


def test_a_directory_that_is_there_is_narrowed_and_never_widened(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.mkdir()
    path.chmod(0o755)
    ensure_directory(path, 0o700)
    assert mode_of(path) == 0o700
    ensure_directory(path, 0o755)
    assert mode_of(path) == 0o700


def test_a_file_in_the_way_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(FileExistsError):
        ensure_directory(tmp_path / "x")


def test_a_lock_is_held_by_one_and_free_again_afterwards(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(AlreadyRunning, match=str(os.getpid())):
        FileLock(tmp_path / "lock").acquire()
    with FileLock(tmp_path / "lock"):
        pass


def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from penguindome.files import FileLock\n"
        "FileLock(Path(sys.argv[1])).acquire(); print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=str(holder.pid)):
            FileLock(tmp_path / "lock").acquire()
        holder.kill()
        holder.wait()
        with FileLock(tmp_path / "lock"):
            pass


def test_a_lock_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        FileLock(tmp_path / "lock").acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_lines_are_kept_within_the_size_and_number_of_files(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "logs/log", 1000, 2)
    for number in range(200):
        file.write(f"line {number:03} {'x' * 40}")
    file.close()
    assert names_in(tmp_path / "logs") == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 1000 for path in (tmp_path / "logs").iterdir())
    assert "line 199" in (tmp_path / "logs/log").read_text()


def test_several_processes_write_to_one_file_and_lose_no_line(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from penguindome.files import LineFile\n"
        "file = LineFile(Path(sys.argv[1]), 20_000, 50)\n"
        "for n in range(400): file.write(f'{sys.argv[2]} {n} {100 * chr(120)}')\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log"), str(number)]) for number in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{writer} {number} {'x' * 100}" for writer in range(3) for number in range(400))


def test_lines_that_cannot_be_written_are_lost_without_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    LineFile(tmp_path / "file/log", 1000, 2).write("x")
    LineFile(Path("/dev/full"), 1000, 2).write("x")
    os.mkfifo(tmp_path / "fifo")
    LineFile(tmp_path / "fifo", 1000, 2).write("x")
    (tmp_path / "link").symlink_to("/etc/hostname")
    LineFile(tmp_path / "link", 1000, 2).write("x")
