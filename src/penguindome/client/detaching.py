"""Detaching a mount by what it is. A path may lead elsewhere by the time it is used: its owner puts links into it.

The point is opened one name after the other, no link being followed, and neither a server asked nor an automatic mount
made for it. What was opened is detached if it is the mount that was meant, by its descriptor, which always leads there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from pathlib import Path

PATIENCE = 30.0
_MNT_DETACH = 2
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def mount_number(descriptor: int) -> int:
    """The number of the mount through which a descriptor was reached, as mountinfo has it, see proc_pid_fdinfo(5)."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("\n"):
        if line.startswith("mnt_id:"):
            return int(line.split()[1])
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def detach(point: str, number: int) -> None:
    """Detach the mount of this number from an absolute path. Raises OSError: another mount, or none, is found there.

    What hangs, because its server is gone, is waited for no longer than PATIENCE.
    """
    failure: OSError | None = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def work() -> None:
        nonlocal failure
        try:
            _detach(point, number)
            failure = None
        except OSError as error:
            failure = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failure is not None:
        raise failure


def detach_in(directory: int, name: str, number: int) -> None:
    """The same for a name in an open directory, without a limit of time."""
    place = os.open(name, _PLACE, dir_fd=directory)
    try:
        if mount_number(place) != number:
            raise OSError(errno.EXDEV, "it is another mount now")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(f"/proc/self/fd/{place}".encode(), _MNT_DETACH):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(place)


def _detach(point: str, number: int) -> None:
    *above, name = [part for part in point.split("/") if part]
    directory = os.open("/", _PLACE)
    try:
        for part in above:
            inner = os.open(part, _PLACE, dir_fd=directory)
            os.close(directory)
            directory = inner
        detach_in(directory, name, number)
    finally:
        os.close(directory)
