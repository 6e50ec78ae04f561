"""Reports that wait."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from penguindome.client.errors import NoSpace
from penguindome.client.spool import MAXIMUM_BAD, Entry, Spool, boot_id
from penguindome.errors import InvalidData
from penguindome.times import utc_now


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", max_bytes=10_000, max_age=timedelta(days=30))


def report(sequence: int, **plugins: Any) -> dict[str, Any]:
    return {
        "report_id": str(uuid.uuid4()), "sequence": sequence, "collected_at": utc_now(), "plugins": plugins,
        "commands": {},
    }  # fmt: skip


def test_a_report_comes_out_as_it_went_in(spool: Spool) -> None:
    went_in = report(1, os={"name": "Debian", "boot_at": "2026-11-23T22:30:00+01:00"}, empty={}, none=None)
    assert spool.read(spool.add(went_in)) == went_in


def test_only_root_may_read_reports(spool: Spool) -> None:
    entry = spool.add(report(1))
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700


def test_reports_wait_in_the_order_of_their_numbers(spool: Spool) -> None:
    for sequence in (10, 9, 100, 2):
        spool.add(report(sequence))
    assert [entry.sequence for entry in spool.waiting()] == [2, 9, 10, 100]
    assert spool.highest_sequence() == 100


def test_an_empty_spool_needs_no_directory(spool: Spool) -> None:
    assert spool.waiting() == []
    assert spool.bad() == []
    assert spool.highest_sequence() == 0
    assert spool.trim(utc_now()) == 0


def test_when_there_is_too_much_the_oldest_go_and_are_counted(spool: Spool) -> None:
    for sequence in range(1, 6):
        spool.add(report(sequence, text="x" * 3000))
    assert spool.trim(utc_now()) == 2
    assert [entry.sequence for entry in spool.waiting()] == [3, 4, 5]


def test_what_is_too_old_goes_but_never_the_newest_report(spool: Spool) -> None:
    for sequence in (1, 2, 3):
        spool.add(report(sequence))
    assert spool.trim(utc_now() + timedelta(days=31)) == 2
    assert [entry.sequence for entry in spool.waiting()] == [3]


def test_a_single_report_larger_than_the_bound_still_waits(spool: Spool) -> None:
    spool.add(report(1, text="x" * 20_000))
    assert spool.trim(utc_now()) == 0
    assert len(spool.waiting()) == 1


def test_a_report_that_was_set_aside_does_not_wait_and_is_kept(spool: Spool) -> None:
    entry = spool.add(report(1))
    spool.set_aside(entry)
    assert spool.waiting() == []
    assert [bad.path.name for bad in spool.bad()] == [entry.path.with_suffix(".bad").name]
    assert spool.highest_sequence() == 1


def test_reports_that_were_set_aside_are_bounded_by_number(spool: Spool) -> None:
    for sequence in range(1, MAXIMUM_BAD + 4):
        spool.set_aside(spool.add(report(sequence)))
    assert [entry.sequence for entry in spool.bad()] == list(range(4, MAXIMUM_BAD + 4))


def test_reports_that_were_set_aside_are_bounded_by_size(spool: Spool) -> None:
    for sequence in (1, 2):
        spool.set_aside(spool.add(report(sequence, text="x" * 2000)))
    spool.trim(utc_now())
    assert [entry.sequence for entry in spool.bad()] == [2]


def test_strange_files_directories_and_links_are_no_reports(spool: Spool, tmp_path: Path) -> None:
    entry = spool.add(report(1))
    name = f"{2:012d}-{uuid.uuid4()}.json"
    (spool.directory / name).symlink_to(entry.path)
    (spool.directory / f"{3:012d}-{uuid.uuid4()}.json").mkdir()
    (spool.directory / "notes.txt").write_text("hello")
    assert [found.sequence for found in spool.waiting()] == [1]


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{",
        b"[]",
        b'{"plugins":{}}',
        b"\x00" * 50,
        b'{"collected_at":"x","plugins":{},"commands":{},"report_id":""}',
    ],
)
def test_a_damaged_report_is_an_error_of_ours(spool: Spool, contents: bytes) -> None:
    entry = spool.add(report(1))
    entry.path.write_bytes(contents)
    with pytest.raises(InvalidData):
        spool.read(entry)


def test_a_full_disk_leaves_the_other_reports_and_nothing_half_written(spool: Spool) -> None:
    first = spool.add(report(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(NoSpace):
            spool.add(report(2, text="x" * 500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(spool.directory.iterdir()) == [first.path]
    assert spool.read(first)["sequence"] == 1


def test_clearing_removes_all_and_says_how_many_waited(spool: Spool) -> None:
    spool.add(report(1))
    spool.set_aside(spool.add(report(2)))
    assert spool.clear() == 1
    assert list(spool.directory.iterdir()) == []


_WRITER = """
import sys, uuid
from datetime import timedelta
from pathlib import Path
from penguindome.client.spool import Spool
from penguindome.times import utc_now
spool = Spool(Path(sys.argv[1]), max_bytes=1 << 30, max_age=timedelta(days=1))
number = spool.highest_sequence()
print("ready", flush=True)
while True:
    number += 1
    spool.add({"report_id": str(uuid.uuid4()), "sequence": number, "collected_at": utc_now(),
               "plugins": {"text": "x" * 50_000}, "commands": {}})
    print(number, flush=True)
"""


@pytest.mark.parametrize("milliseconds", [3, 7, 11, 19, 31, 47])
def test_a_kill_at_any_instant_leaves_whole_reports_and_loses_none(spool: Spool, milliseconds: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(spool.directory)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        deadline = time.monotonic() + milliseconds / 1000
        while time.monotonic() < deadline:
            pass
        writer.send_signal(signal.SIGKILL)
        said = [int(line) for line in writer.stdout if line.strip().isdigit()]
    there = {entry.sequence: spool.read(entry) for entry in spool.waiting()}
    assert set(said) <= set(there)
    assert all(len(found["plugins"]["text"]) == 50_000 for found in there.values())
    spool.trim(utc_now())
    assert {item.suffix for item in spool.directory.glob("*")} <= {".json"}


def collected(spool: Spool, sequence: int, at: datetime, **more: Any) -> Entry:
    """A report of that time by the clock, in a file of that time."""
    entry = spool.add({**report(sequence), "collected_at": at, **more})
    os.utime(entry.path, (at.timestamp(), at.timestamp()))
    return entry


LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)


def test_what_an_earlier_boot_collected_is_as_old_as_the_clock_says(spool: Spool) -> None:
    collected(spool, 1, LONG_AGO, boot_id="another", boot_seconds=100)
    collected(spool, 2, utc_now() - timedelta(days=29), boot_id="another", boot_seconds=100)
    spool.add(report(3))
    assert spool.trim(utc_now()) == 1
    assert [entry.sequence for entry in spool.waiting()] == [2, 3]


def test_what_this_boot_collected_does_not_age_by_setting_the_clock(spool: Spool) -> None:
    """A clock that began in the year 2000 learns the time, before anything could be delivered."""
    for sequence in (1, 2):
        boot_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        collected(spool, sequence, LONG_AGO, boot_id=boot_id(), boot_seconds=boot_seconds)
    spool.add(report(3))
    assert spool.trim(utc_now()) == 0
    assert len(spool.waiting()) == 3


def test_what_is_too_much_goes_whenever_it_was_collected(spool: Spool) -> None:
    for sequence in (1, 2, 3):
        boot_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        collected(
            spool, sequence, LONG_AGO, boot_id=boot_id(), boot_seconds=boot_seconds, plugins={"text": "x" * 6000}
        )  # fmt: skip
    assert spool.trim(utc_now()) == 2


def test_a_damaged_report_is_as_old_as_its_file(spool: Spool) -> None:
    entry = spool.add(report(1))
    entry.path.write_bytes(b"{")
    os.utime(entry.path, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))
    spool.add(report(2))
    assert spool.trim(utc_now()) == 1
