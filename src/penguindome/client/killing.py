"""Killing all that some users run, whatever it does against that: fork on and on, or call itself what it likes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

PATIENCE = 30.0


def kill(users: Sequence[int], others: Iterable[range] = ()) -> tuple[int, list[int]]:
    """Kill the processes of `users` and those with a number out of `others`. For root, in a process of one thread.

    Returns how many were seen, and which of them go on. One that waits within the kernel, for a server that is gone,
    does not: it dies before it does anything of its own again.
    """
    if 0 in users:
        raise ValueError("these are root's own processes")
    ranges = [*(range(user, user + 1) for user in users), *others]
    seen = set(_running(ranges))
    deadline = time.monotonic() + PATIENCE
    while True:
        for user in users:
            # He may have left no room for another process.
            with suppress(OSError):
                _kill_at_once(user)
        running = _running(ranges)
        for number in running:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        going_on = [number for number, state in running.items() if state != "D" or number not in seen]
        seen.update(running)
        if not going_on or time.monotonic() > deadline:
            return len(seen), going_on
        time.sleep(0.02)


def _kill_at_once(user: int) -> None:
    """The kernel lets none of them fork meanwhile, as it does while somebody reads /proc."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setresuid(user, user, user)
        try:
            os.kill(1, 0)
        except PermissionError:
            # Who may not kill the first process is the user and nothing more: this reaches his own alone.
            os.kill(-1, signal.SIGKILL)
    finally:
        os._exit(0)


def _running(ranges: Sequence[range]) -> dict[int, str]:
    """The processes with a real, effective, saved or file system user of these, and the states that they are in; those
    that are dead already do not count.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, LookupError, ValueError):
                lines = _status(int(entry.name))
                users, state = map(int, lines[b"Uid"].split()), lines[b"State"][:1].decode()
                if state not in "ZX" and any(user in each for user in users for each in ranges):
                    found[int(entry.name)] = state
    return found


def _status(number: int) -> dict[bytes, bytes]:
    # Bytes: a process may call itself what is no text.
    lines = Path(f"/proc/{number}/status").read_bytes().split(b"\n")
    return {key: value for key, _, value in (line.partition(b":\t") for line in lines)}
