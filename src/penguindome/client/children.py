"""Nothing that plugins start outlives them: processes that left their group are adopted, found, and killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_PATIENCE = 5.0
MARK = "PENGUINDOME_ACTION"
"""The variable by which the processes of an action are known, should the one that started them be killed."""


@contextmanager
def adopted() -> Iterator[Callable[[], None]]:
    """While inside, orphans of our descendants become our children; at the end those that are left are killed.

    Yields a function that kills all that was started inside so far. Children that were there before are left alone.
    """
    before = set(_children())

    def kill() -> None:
        for child in _children():
            if child not in before:
                _kill(child)

    _become_subreaper(1)
    try:
        yield kill
    finally:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and (left := [child for child in _children() if child not in before]):
            for child in left:
                _kill(child)
                with suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)
            time.sleep(0.005)
        _become_subreaper(0)


def kill_marked(mark: str) -> None:
    """Kill every process whose environment says that it belongs to the action `mark`."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    _kill(int(entry.name))


def _become_subreaper(flag: int) -> None:
    # Imported here: only a minute that collects needs it.
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, flag, 0, 0, 0)


def _children() -> list[int]:
    """Our child processes, from proc(5): in `stat`, the parent is the second field after the name in parentheses."""
    own, found = str(os.getpid()).encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if fields[1] == own:
                    found.append(int(entry.name))
    return found


def _kill(child: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(child) == child:
            os.killpg(child, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGKILL)
