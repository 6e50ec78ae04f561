"""Two at once, ends that nobody asked for, and full disks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from client_peer import PYTHON_PLUGIN, Machine, Peer, soon
from needs import require
from penguindome import processes
from penguindome.client.spool import Spool
from penguindome.times import utc_now
from running import is_running


def _slow(machine: Machine) -> Path:
    """Make plugins slow: they write their numbers to a file that is returned, and hang."""
    pids = machine.paths.root / "pids"
    machine.plugin("slow.sh", f"#!/bin/sh\nsleep 300 &\necho $$ $! >> {pids}\nwait\n")
    machine.plugin(
        "deaf.py",
        PYTHON_PLUGIN
        + f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open({str(pids)!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
time.sleep(300)
""",
    )
    machine.peer.publish(machine.paths.client_code)
    return pids


def _numbers(pids: Path) -> list[int]:
    return [int(word) for word in pids.read_text().split()] if pids.exists() else []


def test_a_second_run_ends_quietly_and_other_verbs_say_that_one_is_at_work(enrolled: Machine) -> None:
    pids = _slow(enrolled)
    first = enrolled.start("run", "--now")
    try:
        assert soon(lambda: len(_numbers(pids)) == 3)
        second = enrolled.run("run")
        assert (second.returncode, second.stdout, second.stderr) == (0, b"", b"")
        for verb in ("collect", "submit", "update", "enroll"):
            done = enrolled.run(verb)
            assert done.returncode == 1
            assert b"another run" in done.stderr
        assert enrolled.run("status").returncode == 0
    finally:
        first.terminate()
        first.communicate(timeout=30)


def test_what_a_killed_write_left_behind_goes_with_the_next_run(enrolled: Machine) -> None:
    leftover = enrolled.paths.client_state / ".state.json.0123456789ab.new"
    leftover.write_text("half a sta")
    # Whoever watches over an update writes beside the minute.
    at_work = leftover.with_name(".update.json.0123456789ab.new")
    at_work.write_text("half an upd")
    before = time.time() - 660
    os.utime(leftover, (before, before))
    enrolled.minute()
    assert not leftover.exists()
    assert at_work.exists()
    enrolled.later(minutes=11)
    enrolled.minute()
    assert not at_work.exists()


@pytest.mark.parametrize("verb", ["run --now", "collect", "show"])
def test_being_told_to_end_leaves_no_plugin_running(enrolled: Machine, verb: str) -> None:
    pids = _slow(enrolled)
    assert enrolled.run("update").returncode == 0
    process = enrolled.start(*verb.split())
    assert soon(lambda: len(_numbers(pids)) == 3)
    begin = time.monotonic()
    process.terminate()
    process.communicate(timeout=30)
    assert time.monotonic() - begin < 15
    assert process.returncode == 128 + signal.SIGTERM
    assert not [pid for pid in _numbers(pids) if is_running(pid)]


def test_the_next_run_after_a_kill_finds_everything_in_order(enrolled: Machine, peer: Peer) -> None:
    """Kill at many instants; afterwards every report whose collection was announced is delivered exactly once."""
    state = enrolled.paths.client_state
    for round_ in range(8):
        process = enrolled.start("run", "--now")
        time_to_live = 0.15 + 0.09 * round_
        deadline = time.monotonic() + time_to_live
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        Spool(state / "spool", max_bytes=1 << 30, max_age=enrolled.client().settings["spool.max_age"]).trim(utc_now())
        for entry in enrolled.client().spool.waiting():
            enrolled.client().spool.read(entry)
    highest = enrolled.client().state.sequence
    assert enrolled.run("run", "--now").returncode == 0
    delivered = peer.delivered()
    assert len(delivered) == len(set(delivered))
    assert delivered == sorted(delivered)
    assert max(delivered) == highest + 1
    assert enrolled.client().spool.waiting() == []
    assert enrolled.run("status").stdout.decode().endswith("All is well.\n")


def test_a_full_disk_is_said_and_harms_nothing(enrolled: Machine, peer: Peer) -> None:
    require(os.geteuid() == 0, "only root can mount")
    directory = enrolled.paths.client_state
    kept = enrolled.paths.root / "kept"
    directory.rename(kept)
    directory.mkdir(0o700)
    mounted = processes.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(directory)], timeout=10, check=False
    )
    require(mounted.returncode == 0, "a tmpfs cannot be mounted here")
    try:
        for path in kept.iterdir():
            processes.run(["cp", "-a", str(path), str(directory)], timeout=10)
        enrolled.run("collect")
        before = [entry.path.read_bytes() for entry in enrolled.client().spool.waiting()]
        assert len(before) == 1
        with (directory / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 512)
            except OSError:
                pass
        done = enrolled.run("collect")
        assert done.returncode == 1
        assert b"no space is left" in done.stderr
        assert b"Traceback" not in done.stderr
        assert [entry.path.read_bytes() for entry in enrolled.client().spool.waiting()] == before
        assert b"no space is left" in enrolled.run("run", "--now").stderr
        (directory / "filler").unlink()
        assert enrolled.run("run", "--now").returncode == 0
        assert peer.delivered()[:2] == [1, 2]
        assert enrolled.client().spool.waiting() == []
    finally:
        processes.run(["umount", str(directory)], timeout=10)


def test_a_spread_start_is_waited_for_and_ends_at_once_when_told(enrolled: Machine) -> None:
    assert enrolled.run("run", "--spread", "0").returncode == 0
    process = enrolled.start("run", "--spread", "3600")
    assert soon(lambda: Path(f"/proc/{process.pid}/wchan").exists() and process.poll() is None)
    process.terminate()
    process.communicate(timeout=30)
