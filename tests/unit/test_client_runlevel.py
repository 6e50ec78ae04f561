"""Whether this machine is going down, by the files that tell."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from penguindome.client import runlevel


def utmp(path: Path, *levels: str) -> None:
    """Make a file of records: one of another kind, then one of the run level for each character."""
    path.parent.mkdir(exist_ok=True)
    records = [struct.pack("=hxxi", 2, 0)] + [struct.pack("=hxxi", 1, ord(level) + 256 * ord("N")) for level in levels]
    path.write_bytes(b"".join(record.ljust(384, b"\0") for record in records))


@pytest.mark.parametrize(("level", "going_down"), [("0", True), ("6", True), ("5", False), ("2", False)])
def test_the_run_level_is_read_without_a_subprocess(tmp_path: Path, level: str, going_down: bool) -> None:
    utmp(tmp_path / "run/utmp", level)
    assert (runlevel.level(tmp_path) in runlevel.GOING_DOWN) is going_down


def test_a_machine_that_says_nothing_is_up(tmp_path: Path) -> None:
    assert runlevel.level(tmp_path) == ""
    assert runlevel.level(tmp_path, thorough=True) == ""


def test_where_logins_are_forbidden_without_systemd_the_machine_goes_down(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/nologin").touch()
    assert runlevel.level(tmp_path) in runlevel.GOING_DOWN


@pytest.mark.parametrize("contents", [b"", b"x" * 100, b"\xff" * 1000])
def test_a_damaged_utmp_tells_nothing(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/utmp").write_bytes(contents)
    assert runlevel.level(tmp_path) == ""


@pytest.mark.parametrize(("answer", "going_down"), [("stopping", True), ("running", False), ("degraded", False)])
def test_with_systemd_its_own_word_counts_and_not_the_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, going_down: bool
) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "run/nologin").touch()
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho {answer}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert (runlevel.level(tmp_path) in runlevel.GOING_DOWN) is going_down


def test_with_systemd_and_no_hint_it_is_asked_only_when_thorough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho stopping\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert runlevel.level(tmp_path) == ""
    assert runlevel.level(tmp_path, thorough=True) == runlevel.STOPPING
