"""Reports that wait for the server: one file a report, written whole or not at all, private to root.

A file is named `SEQUENCE-REPORT_ID.json`, so that a listing is the order of sending. What the server called
unacceptable is set aside as `*.bad`. Both are bounded; what must go is the oldest. Only the process that has the
client's lock writes here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.client.state import no_space
from penguindome.errors import InvalidData
from penguindome.files import ensure_directory, read_limited, write_atomically

MAXIMUM_BAD = 20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAME = re.compile(r"(\d{12})-([0-9a-f-]{36})\.(json|bad)")


@dataclass(frozen=True)
class Entry:
    """One file of the spool."""

    path: Path
    sequence: int
    report_id: str
    size: int
    is_bad: bool = False


class Spool:
    """The spool in `directory`, of at most `max_bytes` and with nothing older than `max_age`."""

    def __init__(self, directory: Path, *, max_bytes: int, max_age: timedelta) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.max_age = max_age

    def waiting(self) -> list[Entry]:
        """The reports that wait, oldest first."""
        return [entry for entry in self._entries() if not entry.is_bad]

    def bad(self) -> list[Entry]:
        """The reports that were set aside, oldest first."""
        return [entry for entry in self._entries() if entry.is_bad]

    def highest_sequence(self) -> int:
        """The highest number of any report here; 0 when there is none."""
        return max((entry.sequence for entry in self._entries()), default=0)

    def add(self, report: Mapping[str, Any]) -> Entry:
        """Keep a report (`sequence` and `report_id` name it). Raises NoSpace, leaving the others as they are, when the
        disk is full.
        """
        ensure_directory(self.directory, 0o700)
        path = self.directory / f"{report['sequence']:012d}-{report['report_id']}.json"
        data = json.dumps(report).encode()
        try:
            write_atomically(path, data, mode=0o600)
        except OSError as error:
            raise no_space(error, path) from error
        return Entry(path, report["sequence"], report["report_id"], len(data))

    def read(self, entry: Entry) -> dict[str, Any]:
        """The report of an entry, `collected_at` as a datetime. Raises InvalidData when the file is damaged."""
        report = json.loads_plain(read_limited(entry.path, max(self.max_bytes, entry.size) + 1))
        if not isinstance(report, dict):
            raise InvalidData(f"{entry.path} holds no report")
        revived = json.revive({"collected_at": report.get("collected_at")})
        if not isinstance(revived["collected_at"], datetime):
            raise InvalidData(f"{entry.path} does not say when it was collected")
        names = (("plugins", dict), ("commands", dict), ("report_id", str), ("sequence", int))
        if not all(isinstance(report.get(name), kind) for name, kind in names):
            raise InvalidData(f"{entry.path} holds no report")
        return {**report, **revived}

    def remove(self, entry: Entry) -> None:
        """Delete a report that was delivered."""
        entry.path.unlink(missing_ok=True)

    def set_aside(self, entry: Entry) -> None:
        """Put a report that will never be accepted out of the way, for a person to see; the oldest of too many go."""
        entry.path.replace(entry.path.with_suffix(".bad"))
        for old in self.bad()[:-MAXIMUM_BAD]:
            self.remove(old)

    def trim(self, now: datetime) -> int:
        """Drop what is too old or too much, oldest first, but never the newest report; returns how many went."""
        self._remove_leftovers()
        bad = self.bad()
        while bad and sum(entry.size for entry in bad) > self.max_bytes // 4:
            self.remove(bad.pop(0))
        waiting, dropped = self.waiting(), 0
        total = sum(entry.size for entry in waiting)
        for entry in waiting[:-1]:
            if total <= self.max_bytes and not self._is_too_old(entry, now):
                break
            self.remove(entry)
            total -= entry.size
            dropped += 1
        return dropped

    def clear(self) -> int:
        """Delete every report, also those set aside; returns how many waited."""
        waiting = len(self.waiting())
        for entry in self._entries():
            self.remove(entry)
        return waiting

    def _is_too_old(self, entry: Entry, now: datetime) -> bool:
        if now.timestamp() - entry.path.stat().st_mtime <= self.max_age.total_seconds():
            return False
        try:
            # The clock may have been set since: then the time of the file says nothing.
            return age(self.read(entry), now) > self.max_age
        except InvalidData:
            return True

    def _entries(self) -> list[Entry]:
        found = []
        try:
            listing = list(os.scandir(self.directory))
        except FileNotFoundError:
            return []
        for item in listing:
            match = _NAME.fullmatch(item.name)
            if match and item.is_file(follow_symlinks=False):
                size = item.stat(follow_symlinks=False).st_size
                found.append(Entry(Path(item.path), int(match[1]), match[2], size, match[3] == "bad"))
        return sorted(found, key=lambda entry: (entry.sequence, entry.report_id))

    def _remove_leftovers(self) -> None:
        """Delete what a write that was killed left beside the reports."""
        for item in os.scandir(self.directory) if self.directory.is_dir() else ():
            if not _NAME.fullmatch(item.name) and item.is_file(follow_symlinks=False):
                Path(item.path).unlink()


def age(report: Mapping[str, Any], now: datetime) -> timedelta:
    """How long ago a report was collected: within one boot by the time since boot, which nobody sets, else by the
    clock.
    """
    seconds = report.get("boot_seconds")
    if report.get("boot_id") == boot_id() and isinstance(seconds, (int, float)):
        return timedelta(seconds=max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - seconds))
    collected: datetime = report["collected_at"]
    return max(now - collected, timedelta(0))


def boot_id() -> str:
    """What tells this boot of the machine from all others; "" where there is no telling."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
