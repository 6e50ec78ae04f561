"""Files: replaced atomically, read with a limit, locked against a second process."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar

from penguindome.errors import InvalidData, PenguinDomeError

T = TypeVar("T")


class AlreadyRunning(PenguinDomeError):
    """Another process holds the lock."""

    code: ClassVar[str] = "already-running"


def write_atomically(path: Path, data: bytes | str, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace the contents of `path` such that every reader, and a crash at any instant, sees the old file or the new.

    The new file has exactly `mode` (whatever the umask) and `owner` (uid, gid) before it holds a byte. File and
    directory are synced to disk. A link at `path` is replaced, not followed. Raises OSError; the old file is then still
    there.
    """
    path = Path(path)
    contents = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name[:200]}.{os.urandom(6).hex()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, mode if owner is None else mode & 0o600)
    try:
        try:
            if owner is not None:
                os.fchown(descriptor, *owner)
            if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
                os.fchmod(descriptor, mode)
            _write_all(descriptor, contents)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names that were added to, or removed from, a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_limited(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises OSError, or InvalidData when it is larger or no
    regular file (a FIFO or device is not opened for reading, so that nothing blocks).
    """
    return _read_regular(path, limit, os.O_RDONLY)[0]


def read_with_mode(path: Path, limit: int) -> tuple[bytes, int]:
    """`read_limited`, and the permission bits of the file; a link is refused as well (InvalidData)."""
    try:
        return _read_regular(path, limit, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidData(f"{path} is a link", hint="name the file that it leads to") from error
        raise


def _read_regular(path: Path, limit: int, flags: int) -> tuple[bytes, int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise InvalidData(f"{path} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            contents = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(contents) > limit:
        raise InvalidData(f"{path} is larger than {limit} bytes")
    return contents, stat.S_IMODE(mode)


def ensure_directory(path: Path, mode: int = 0o755) -> None:
    """Make a directory with exactly `mode`, and its parents (0755), unless they are there.

    One that is there is narrowed to `mode` if it grants more, and otherwise left alone. Raises OSError.
    """
    path = Path(path)
    if not path.parent.is_dir():
        ensure_directory(path.parent)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        current = stat.S_IMODE(os.stat(path).st_mode)
        if not path.is_dir():
            raise
        if current & ~mode & 0o777:
            os.chmod(path, current & (mode | 0o7000))
    else:
        if stat.S_IMODE(os.stat(path).st_mode) != mode:
            os.chmod(path, mode)


class FileLock:
    """An exclusive lock on a file, which stays behind when it is released (deleting it would let two hold it).

    `with FileLock(path):` raises AlreadyRunning at once, or after `wait` seconds, when another process, or another
    FileLock of this one, holds it. The kernel releases it with the process, however that ends; children do not inherit
    it.
    """

    def __init__(self, path: Path, *, wait: float = 0.0) -> None:
        self.path = Path(path)
        self.wait = wait
        self._descriptor: int | None = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock. Raises AlreadyRunning, or OSError when the file cannot be made."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            self._lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f" (process {holder})" if holder.isdigit() else ""
            raise AlreadyRunning(f"another run{who} holds {self.path}", hint="wait until it has ended") from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + self.wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.01)

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def patiently(made: Callable[[], AbstractContextManager[T]], seconds: float) -> Iterator[T]:
    """Hold the lock that is `made`, even though somebody else may have it just now.

    Raises AlreadyRunning when he has it for longer than so many seconds.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as held:
        while (taken := _taken(held, made, deadline)) is None:
            time.sleep(0.1)
        yield taken[0]


def _taken(held: ExitStack, lock: Callable[[], AbstractContextManager[T]], deadline: float) -> tuple[T] | None:
    try:
        return (held.enter_context(lock()),)
    except AlreadyRunning:
        if time.monotonic() > deadline:
            raise
        return None


class LineFile:
    """A file of lines that is rotated by size, and to which several processes may write.

    Each line is one `write` to a file opened for appending; rotation happens under a lock, and a writer whose file was
    rotated away by another notices it. Nothing raises: what cannot be written is lost.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int, *, mode: int = 0o640) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.backups = backups
        self.mode = mode
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        """Append a line; its end is added."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            try:
                self._append(data)
            except OSError:
                self._close()

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        with self._lock:
            self._close()

    def _append(self, data: bytes) -> None:
        if self._descriptor is None or not self._is_current(self._descriptor):
            self._open()
        if self._descriptor is None:
            return
        size = os.fstat(self._descriptor).st_size
        if size and size + len(data) > self.max_bytes:
            self._rotate()
        os.write(self._descriptor, data)

    def _is_current(self, descriptor: int) -> bool:
        try:
            there = self.path.lstat()
        except OSError:
            return False
        return os.path.samestat(os.fstat(descriptor), there)

    def _open(self) -> None:
        self._close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
        try:
            self._descriptor = os.open(self.path, flags, self.mode)
        except FileNotFoundError:
            self.path.parent.mkdir(0o750, parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, flags, self.mode)

    def _rotate(self) -> None:
        assert self._descriptor is not None
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        # Another process may have rotated while we waited for the lock, which the old file's descriptor still holds.
        if self._is_current(self._descriptor):
            for number in range(self.backups - 1, 0, -1):
                older = Path(f"{self.path}.{number}")
                if older.is_file():
                    older.rename(f"{self.path}.{number + 1}")
            self.path.rename(f"{self.path}.1")
        self._open()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _write_all(descriptor: int, contents: bytes) -> None:
    rest = memoryview(contents)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
