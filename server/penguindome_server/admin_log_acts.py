"""The acts that are under way, or have ended and are not in the log yet: a file of root's for each.

An act's file is there before the act changes anything, and goes when its entry is in the log. So an act whose process
was killed is told too: the kernel has released the lock on its file, and no outcome stands in it.

A file holds lines of JSON: what is known at the beginning; then, as they become known, `targets` and `details`; in the
end `outcome` and `done_at`. A line that is not whole was being written when the disk was full or the machine stopped,
and does not count.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import ensure_directory, sync_directory
from penguindome_server.admin_log import LONGEST_TEXT, Act, bounded_details

UNKNOWN = "unknown: the process ended before it could tell"
MOST_WAITING = 1000
_LEFT_OVER_SECONDS = 86_400


@dataclass(frozen=True)
class Beginning:
    """What is known of an act when it begins."""

    act: str
    who: str
    login: str | None
    host: str
    begun_at: datetime


class ActFile:
    """The file of an act of this process, locked until `end` or `discard`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._is_torn = False

    @classmethod
    def begin(cls, directory: Path, beginning: Beginning) -> ActFile:
        """Make the file of an act that begins. Raises OSError, or PenguinDomeError when too many acts wait there."""
        for each in (directory.parent, directory):
            ensure_directory(each, 0o700)
        if sum(1 for _ in directory.iterdir()) >= MOST_WAITING:
            raise PenguinDomeError(f"{MOST_WAITING} acts wait in {directory}", hint="see: penguindome log verify")
        act_id = secrets.token_hex(8)
        moment = beginning.begun_at.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        path = directory / f"{moment}-{act_id}.act"
        # Under this name nobody takes it for an act whose process has ended, before it is locked.
        unlocked = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        made = cls(path, os.open(unlocked, flags, 0o600))
        try:
            fcntl.flock(made._open, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made._add({"act_id": act_id, **vars(beginning)})
            os.fsync(made._open)
            unlocked.rename(path)
            sync_directory(directory)
        except BaseException:
            unlocked.unlink(missing_ok=True)
            made.discard()
            raise
        return made

    def note(self, targets: Sequence[str], details: Mapping[str, Any]) -> None:
        """Add targets and details. Raises OSError."""
        shortened = [str(target)[: LONGEST_TEXT + 1] for target in targets]
        self._add({"targets": shortened, "details": bounded_details(details)})

    def end(self, outcome: str, *, at: datetime) -> None:
        """Note how the act went, and leave the file to whoever writes the log next. Raises OSError."""
        try:
            self._add({"outcome": outcome, "done_at": at})
            os.fsync(self._open)
        finally:
            self._close()

    def discard(self) -> None:
        """Nothing is to be told: remove the file. Raises OSError."""
        try:
            self.path.unlink(missing_ok=True)
        finally:
            self._close()

    @property
    def _open(self) -> int:
        if self._descriptor is None:
            raise ValueError("the act has ended")
        return self._descriptor

    def _add(self, record: Mapping[str, Any]) -> None:
        # A line that could not be written whole must not spoil the one after it.
        line = (b"\n" if self._is_torn else b"") + json.dumps(record).encode() + b"\n"
        self._is_torn = True
        while line:
            line = line[os.write(self._open, line) :]
        self._is_torn = False

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True)
class Waiting:
    """An act that has ended and is to be written into the log, and its file."""

    act: Act
    path: Path


def waiting_acts(directory: Path) -> Iterator[Waiting]:
    """The acts whose process has ended, or has said how they went, in the order in which they began.

    For the holder of the log's lock. Raises OSError.
    """
    for path in _files(directory):
        if not _is_under_way(path) and (act := _read(path)) is not None:
            yield Waiting(act, path)


def acts_under_way(directory: Path) -> int:
    """How many acts of other processes have begun and not ended."""
    return sum(_is_under_way(path) for path in _files(directory))


def forget(directory: Path, act_ids: Sequence[str]) -> None:
    """Remove the files of acts that are in the log. Raises OSError."""
    told = set(act_ids)
    for path in _files(directory):
        if path.stem.rpartition("-")[2] in told:
            path.unlink(missing_ok=True)
    for path in directory.glob("*.new"):
        with suppress(FileNotFoundError):  # it has its other name now
            if path.stat().st_mtime < time.time() - _LEFT_OVER_SECONDS:
                path.unlink()


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.act"))


def _is_under_way(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # it went just now
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: Path) -> Act | None:
    """The act of a file; None when not even its beginning is whole, or it has been discarded: then nothing was done."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    known: dict[str, Any] = {}
    targets: dict[str, None] = {}
    details: dict[str, Any] = {}
    for line in lines:
        record = _record(line)
        if record is None:
            continue
        targets.update(dict.fromkeys(record.pop("targets", ())))
        details.update(record.pop("details", {}))
        known.update(record)
    if not {"act_id", "act", "who", "host", "begun_at"} <= known.keys():
        return None
    return Act(
        act_id=known["act_id"],
        act=known["act"],
        who=known["who"],
        login=known.get("login"),
        host=known["host"],
        targets=list(targets),
        details=details,
        outcome=known.get("outcome", UNKNOWN),
        done_at=known.get("done_at", known["begun_at"]),
    )


def _record(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except InvalidData:
        return None
    return record if isinstance(record, dict) else None
