"""Every plugin run as the client runs it: on this machine, and on machines where nothing works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from needs import NOBODY, ordinary_user, require
from penguindome.paths import ROOT_VARIABLE

ROOT = Path(__file__).parents[3]
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))
LONELY = """
import runpy, sys
import penguindome.plugin_tools
penguindome.plugin_tools._DIRECTORIES = ()
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""Runs a plugin on a machine that has no programs, not even where the system keeps its own."""

HURRIED = """
import runpy, sys
import penguindome.plugin_tools, penguindome.processes
run = penguindome.processes.run
def hurried(command, *, timeout, **options):
    return run(command, timeout=min(timeout, 0.3), **options)
penguindome.processes.run = hurried
penguindome.processes.TERMINATION_GRACE = 0.1
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""Runs a plugin that loses patience with hanging programs soon."""

PROGRAMS = [
    *("apt", "apt-get", "arch-audit", "checkupdates", "dmsetup", "dnf", "dpkg", "dpkg-query", "env", "firewall-cmd"),
    *("ip", "ip6tables-legacy-save", "ip6tables-save", "iptables-legacy-save", "iptables-save", "lsblk", "nft"),
    *("pacman", "rpm", "sshd", "systemctl", "systemd-detect-virt", "ufw", "uname", "zfs"),
]
RUBBISH = {
    "nothing": "exit 0",
    "text": "echo 'rubbish: \"[{'; echo more >&2",
    "null": "echo null",
    "list": "echo '[1, {}, null]'",
    "object": 'echo \'{"blockdevices": 3, "nftables": {}}\'',
    "bytes": "printf '\\377\\376\\000\\001\\n\\t\\t\\t\\n'",
    "failure": "echo 'Permission denied' >&2; exit 1",
    "odd-status": "exit 77",
    "signal": "kill -9 $$",
}
"""What the programs of a broken machine may do."""


@pytest.fixture(params=PLUGINS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    result = request.param
    assert isinstance(result, Path)
    return result


def environment(root: Path, path: str) -> dict[str, str]:
    return {"PATH": path, ROOT_VARIABLE: str(root), "LC_ALL": "de_DE.UTF-8"}


def run(command: Sequence[str | Path], env: dict[str, str], directory: Path) -> Any:
    done = subprocess.run(command, env=env, cwd=directory, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return json.loads(done.stdout)


def broken(directory: Path, script: str) -> str:
    """A PATH whose programs all do the same."""
    programs = directory / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        program = programs / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return str(programs)


def test_a_plugin_is_executable_and_starts_with_the_python_of_the_client(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env python3\n")


def test_a_plugin_imports_only_what_a_client_has(path: Path) -> None:
    imported = {
        line.split()[1].partition(".")[0]
        for line in path.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported - sys.stdlib_module_names == {"penguindome"}


def test_on_this_machine_a_plugin_tells_the_same_twice(path: Path, tmp_path: Path) -> None:
    # As the client does it: the directory of its python comes first on PATH.
    env = environment(tmp_path, f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    first, second = (run([path], env, tmp_path) for _ in range(2))
    assert first == second
    assert first


@pytest.fixture
def home_of_nobody() -> Iterator[Path]:
    """A directory that an ordinary user owns and can reach, as those of pytest cannot be."""
    require(os.geteuid() == 0, "only root can become another user")
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)
        yield Path(directory)


def test_an_ordinary_user_gets_an_answer_too(path: Path, home_of_nobody: Path) -> None:
    env = environment(home_of_nobody, "/usr/sbin:/usr/bin:/sbin:/bin")
    assert run([*ordinary_user(env), sys.executable, path], env, home_of_nobody)


def test_without_any_program_a_plugin_still_answers(path: Path, tmp_path: Path) -> None:
    answer = run([sys.executable, "-c", LONELY, path], environment(tmp_path, str(tmp_path / "empty")), tmp_path)
    expected_unknown = {"ip_addresses", "hd_encryption", "packages"}
    assert answer == "unknown" if path.stem in expected_unknown else answer != "unknown"


@pytest.mark.parametrize("kind", RUBBISH)
def test_programs_that_print_rubbish_do_not_break_a_plugin(path: Path, tmp_path: Path, kind: str) -> None:
    assert run([sys.executable, path], environment(tmp_path, broken(tmp_path, RUBBISH[kind])), tmp_path) is not None


def test_programs_that_hang_do_not_hang_a_plugin(path: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, broken(tmp_path, "trap '' TERM; sleep 600 & wait; sleep 600"))
    started = time.monotonic()
    assert run([sys.executable, "-c", HURRIED, path], env, tmp_path) is not None
    assert time.monotonic() - started < 30
