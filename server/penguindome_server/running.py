"""Whether the server runs on this machine: every process of it holds a shared lock, and what must have it stopped takes
the lock for itself.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from penguindome.errors import PenguinDomeError
from penguindome.paths import Paths
from penguindome_server import restoring

NAME = "server.lock"


class ServerRuns(PenguinDomeError):
    """The server runs, and what was asked for must not happen beside it."""

    code: ClassVar[str] = "server-runs"


class BeingRestored(PenguinDomeError):
    """What must have the server stopped is under way."""

    code: ClassVar[str] = "being-restored"


def hold(paths: Paths) -> int:
    """Say that the server runs, for as long as the returned descriptor is open here or in a process that was forked.

    Raises BeingRestored while a backup is being restored, and after a restore that was interrupted: what the server
    acknowledged then, the next one would replace. Raises OSError. `paths.runtime` must be there.
    """
    descriptor = os.open(paths.runtime / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BeingRestored("the server is being restored from a backup", hint="start it when that is done") from error
    if command := restoring.command_to_finish(paths):
        os.close(descriptor)
        raise BeingRestored("a restore of a backup was interrupted", hint=f"finish it: {command}")
    return descriptor


@contextmanager
def stopped(paths: Paths) -> Iterator[None]:
    """Keep the server from starting for the time of the block. Raises ServerRuns.

    Nothing is made: where no server ever ran, there is nothing to lock. To be entered as the user of the server's
    directories, in which root follows no link and makes no file.
    """
    try:
        descriptor = os.open(paths.runtime / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerRuns(
                "the server runs",
                hint="stop it first: systemctl stop penguindome-server penguindome-audit.timer "
                "penguindome-repository.timer",
            ) from error
        yield
    finally:
        os.close(descriptor)
