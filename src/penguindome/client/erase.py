"""Deleting a directory with all that is in it, and nothing that is not.

Every step is relative to the descriptor of an open directory: no link is followed, and a directory that is moved while
we are in it does not lead us out. Another mount is entered only when the caller says so, and asked for nothing before;
the subvolumes of btrfs are no mounts. At most three descriptors are open, however deep it goes. Files are unlinked, not
opened: neither FIFOs nor devices do anything.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from penguindome.client.detaching import detach_in, mount_number

SHOWN = 20
NAMES_AT_ONCE = 100_000
"""Somebody may have as many files in a directory as the machine has no memory for."""
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

# ioctl(2) numbers and bits of <linux/fs.h> and <linux/btrfs.h>.
_GET_FLAGS, _SET_FLAGS, _FIXED = 0x80086601, 0x40086602, 0x10 | 0x20
_SET_SUBVOLUME_FLAGS = 0x4008941A
_SUBVOLUME_INODE = 256
_AGAIN = 3


@dataclass
class Erased:
    """How many files and directories went, and what did not: the first few, as `path: why`."""

    gone: int = 0
    left: int = 0
    shown: list[str] = field(default_factory=list)

    def leave(self, path: str, why: str) -> None:
        """Note something that stays."""
        self.left += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{path}: {why}")


@dataclass
class _Level:
    name: str
    device: int
    inode: int
    mount: int
    names: list[str]
    # How much had gone when `names` was read, of a directory that has more.
    gone: int | None = None
    again: int = 0


def erase(path: str, *, may_enter: Callable[[int], bool]) -> Erased:
    """Delete what lies at an absolute path without links in it; nothing there is nothing to do.

    `may_enter(number)` says whether the mount of that number may be emptied; one that was is detached.
    """
    result = Erased()
    parent_path, name = os.path.split(path)
    try:
        parent = _open_directory(parent_path)
    except FileNotFoundError:
        return result
    except OSError as error:
        result.leave(path, str(error.strerror))
        return result
    try:
        top = _Level(name, *_identity(parent), [name])
        _Eraser(parent, parent_path, top, may_enter, result).run()
    finally:
        os.close(parent)
    return result


def _open_directory(path: str) -> int:
    descriptor = os.open("/", _OPEN)
    for part in path.split("/"):
        if part:
            try:
                inner = os.open(part, _OPEN, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
    return descriptor


def _identity(descriptor: int) -> tuple[int, int, int]:
    """Device, inode, and number of the mount through which it was reached."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, mount_number(descriptor)


class _Eraser:
    """One walk; `current` is the directory that we are in."""

    def __init__(self, parent: int, path: str, top: _Level, may_enter: Callable[[int], bool], result: Erased) -> None:
        self.current = os.dup(parent)
        self.path = path
        self.levels = [top]
        self.may_enter = may_enter
        self.result = result

    def run(self) -> None:
        """Empty and remove what the top level names."""
        try:
            while True:
                level = self.levels[-1]
                if level.names:
                    self._remove(level.names.pop())
                elif level.gone is not None and level.gone < self.result.gone:
                    self._list(level, self.current)
                elif len(self.levels) == 1 or not self._up():
                    break
        finally:
            os.close(self.current)

    def _where(self, name: str) -> str:
        return "/".join([self.path.rstrip("/"), *(level.name for level in self.levels[1:]), name])

    def _remove(self, name: str) -> None:
        try:
            self._unlink(name)
            self.result.gone += 1
        except FileNotFoundError:
            return
        except IsADirectoryError:
            self._enter(name)
        except OSError as error:
            self.result.leave(self._where(name), str(error.strerror))

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.current)
        except PermissionError:
            # chattr(1) protects files from root too, until root thinks better of it.
            if stat.S_ISDIR(os.lstat(name, dir_fd=self.current).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
            _loosen(self.current)
            if stat.S_ISREG(os.lstat(name, dir_fd=self.current).st_mode):
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self.current)
                try:
                    _loosen(file)
                finally:
                    os.close(file)
            os.unlink(name, dir_fd=self.current)

    def _enter(self, name: str) -> None:
        above = self.levels[-1]
        try:
            inner = self._open(name, above)
        except OSError as error:
            self.result.leave(self._where(name), str(error.strerror))
            return
        device, inode, mount = _identity(inner)
        if device != above.device and inode == _SUBVOLUME_INODE:
            _make_writable(inner)
        level = _Level(name, device, inode, mount, [])
        try:
            self._list(level, inner)
        except OSError as error:
            os.close(inner)
            self.result.leave(self._where(name), str(error.strerror))
            return
        os.close(self.current)
        self.current = inner
        self.levels.append(level)

    def _list(self, level: _Level, directory: int) -> None:
        with os.scandir(directory) as entries:
            level.names = [entry.name for entry in islice(entries, NAMES_AT_ONCE)]
        level.gone = self.result.gone if len(level.names) == NAMES_AT_ONCE else None

    def _open(self, name: str, above: _Level) -> int:
        place = os.open(name, _PLACE, dir_fd=self.current)
        try:
            mount = mount_number(place)
            # The directory that we were asked to delete may be a mount itself.
            if (mount != above.mount or len(self.levels) == 1) and not self.may_enter(mount):
                raise OSError(errno.EXDEV, "it is a mount that must not be touched")
            # What is mounted on it meanwhile is not reached from here.
            return os.open(".", _OPEN, dir_fd=place)
        finally:
            os.close(place)

    def _up(self) -> bool:
        """Go back to the directory above, and remove the one that was emptied; False when the way back is lost."""
        level = self.levels.pop()
        above = self.levels[-1]
        parent = os.open("..", _OPEN, dir_fd=self.current)
        os.close(self.current)
        self.current = parent
        if _identity(parent)[:2] != (above.device, above.inode):
            self.result.leave(self._where(level.name), "it was moved away meanwhile")
            return False
        try:
            self._rmdir(level, above)
            self.result.gone += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                self._again(level, above)
            else:
                self.result.leave(self._where(level.name), str(error.strerror))
        return True

    def _rmdir(self, level: _Level, above: _Level) -> None:
        if level.mount != above.mount:
            detach_in(self.current, level.name, level.mount)
        try:
            os.rmdir(level.name, dir_fd=self.current)
        except PermissionError:
            _loosen(self.current)
            with suppress(OSError):
                inner = os.open(level.name, _OPEN, dir_fd=self.current)
                _loosen(inner)
                os.close(inner)
            os.rmdir(level.name, dir_fd=self.current)

    def _again(self, level: _Level, above: _Level) -> None:
        """Something is in it still: what could not be deleted, which was noted, or what came meanwhile."""
        before = self.result.left
        if level.again < _AGAIN and before == 0:
            self._enter(level.name)
            if self.levels[-1] is not above:
                self.levels[-1].again = level.again + 1
        elif before == 0:
            self.result.leave(self._where(level.name), "something writes into it")


def _loosen(descriptor: int) -> None:
    """Take away the flags that keep a file or directory from being changed."""
    import fcntl
    import struct

    with suppress(OSError):
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0)))
        if flags & _FIXED:
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags & ~_FIXED))


def _make_writable(descriptor: int) -> None:
    """A snapshot is a subvolume that nobody may write to, until it is told otherwise."""
    import fcntl
    import struct

    with suppress(OSError):
        fcntl.ioctl(descriptor, _SET_SUBVOLUME_FLAGS, struct.pack("Q", 0))
