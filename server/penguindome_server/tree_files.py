"""Files of the trees that root publishes, opened for strangers who name them.

No name leads out of a tree: each directory is opened below the one before it without following links, names are of a
plain alphabet, and what is opened is a regular file. Whatever else was asked for is not there.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEEPEST = 12

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_:~@=-]{0,254}")
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open regular file, which its holder has to close; and what makes this version of it tell from others."""

    name: str
    descriptor: int
    size: int
    modified_at: int
    inode: int
    modified_ns: int

    def close(self) -> None:
        """Close it."""
        os.close(self.descriptor)


def are_names(parts: Sequence[str]) -> bool:
    """Whether these can be names of directories and, at the end, a file."""
    return 0 < len(parts) <= DEEPEST and all(_NAME.fullmatch(part) for part in parts)


def open_inside(directory: Path, parts: Sequence[str]) -> OpenFile:
    """Open the regular file that `parts` lead to below `directory`, which may itself be reached by links.

    Raises FileNotFoundError for what is not there or is anything else; OSError for what root got wrong.
    """
    if not are_names(parts):
        raise FileNotFoundError(errno.ENOENT, "no such name")
    try:
        here = os.open(directory, _DIRECTORY)
        try:
            for name in parts[:-1]:
                below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = below
            return _open_file(here, parts[-1])
        finally:
            os.close(here)
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise FileNotFoundError(error.errno, "no such file") from error
        raise


def _open_file(directory: int, name: str) -> OpenFile:
    # Looked at before it is opened: some devices do something when they are.
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        raise FileNotFoundError(errno.ENOENT, "no regular file")
    descriptor = os.open(name, _FILE, dir_fd=directory)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "no regular file")
    return OpenFile(
        name, descriptor, status.st_size, int(status.st_mtime), status.st_ino, modified_ns=status.st_mtime_ns
    )
