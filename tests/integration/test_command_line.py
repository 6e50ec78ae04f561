"""What every command of `penguindome` has in common: how it ends when it is interrupted, or fails."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from administered import AdministeredSite, penguindome
from penguindome.paths import ROOT_VARIABLE
from web_server import until


@pytest.fixture
def site(sqlite_uri: str, tmp_path: Path) -> Iterator[AdministeredSite]:
    made = AdministeredSite(tmp_path / "site", sqlite_uri).set_up()
    yield made
    made.server.kill()


def started(site: AdministeredSite, *words: str, stdin: int = subprocess.DEVNULL, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "penguindome_tools.cli", *words], stdin=stdin, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, ROOT_VARIABLE: str(site.paths.root), **more}, text=True,
    )  # fmt: skip


def slow_to_make_keys(directory: Path) -> tuple[str, Path]:
    """A search path with a gpg that does not come to an end of making a key; and the file that says it has begun."""
    directory.mkdir()
    begun, program = directory / "begun", directory / "gpg"
    lines = f'case "$*" in *--gen-key*) touch {begun}; exec sleep 600;; esac\nexec {shutil.which("gpg")} "$@"\n'
    program.write_text(f"#!/bin/sh\n{lines}")
    program.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}", begun


def test_who_interrupts_an_act_is_told_how_to_finish_it_and_not_that_nothing_was_changed(
    site: AdministeredSite, tmp_path: Path
) -> None:
    path, begun = slow_to_make_keys(tmp_path / "bin")
    with started(site, "keys", "rotate", "server", "--yes", PATH=path) as process:
        until(begun.exists, seconds=60, what="a rotation")
        process.send_signal(signal.SIGINT)
        _out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "keys rotate server was interrupted and may be half done; to finish it, give the command again" in said
    assert "nothing was changed" not in said
    assert "Traceback" not in said
    assert "interrupted" in site("log", "show")
    # The way on is the one that was named.
    site("keys", "rotate", "server", "--yes")


def test_a_command_that_only_looks_is_interrupted_without_advice(site: AdministeredSite, tmp_path: Path) -> None:
    document = tmp_path / "document"
    os.mkfifo(document)
    words = ("checks", "test", "firewall-missing", "--document", str(document))
    # Opening it waits until the command reads.
    with started(site, *words) as process, document.open("wb"):
        process.send_signal(signal.SIGINT)
        _out, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (130, "penguindome: interrupted")


@pytest.mark.parametrize("typed", [b"n\n", b"\x04"])
def test_at_a_question_nothing_was_changed_yet(site: AdministeredSite, typed: bytes) -> None:
    outer, inner = pty.openpty()
    try:
        os.write(outer, typed)
        with started(site, "keys", "rotate", "client", stdin=inner) as process:
            _out, said = process.communicate(timeout=60)
    finally:
        os.close(outer)
        os.close(inner)
    assert process.returncode == 130
    assert "Aborted: nothing was changed." in said


@pytest.mark.parametrize("words", [("keys", "export", "server"), ("enrolment", "export")])
def test_a_file_that_cannot_be_written_is_one_line_that_names_it(
    site: AdministeredSite, tmp_path: Path, words: tuple[str, ...]
) -> None:
    missing = tmp_path / "missing/file"
    said = penguindome(site.paths.root, *words, str(missing), status=1).stderr.decode()
    assert said == f"penguindome: {missing} cannot be written: No such file or directory\n"


def test_what_nobody_expected_is_one_line_here_and_a_traceback_in_the_log(site: AdministeredSite) -> None:
    # Of a file that only we write, no command expects that it is no text.
    (site.paths.keys / "server.fingerprint").write_bytes(b"\xff")
    said = penguindome(site.paths.root, "keys", "list", status=70).stderr.decode()
    assert said.count("\n") == 1
    assert "internal error: UnicodeDecodeError" in said
    assert "Traceback" in (site.paths.logs / "admin/debug.log").read_text()


def test_a_failure_of_the_system_is_one_line_here_and_a_traceback_in_the_log(site: AdministeredSite) -> None:
    fingerprint = site.paths.keys / "server.fingerprint"
    fingerprint.unlink()
    fingerprint.mkdir()
    said = penguindome(site.paths.root, "keys", "list", status=1).stderr.decode()
    assert said == f"penguindome: {fingerprint}: Is a directory\n"
    assert "Traceback" in (site.paths.logs / "admin/debug.log").read_text()
