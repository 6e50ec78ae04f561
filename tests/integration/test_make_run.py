"""`make run`: the whole path on this machine, with both stores, with real plugins, and gone without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from needs import require
from penguindome_tools.development.mongod import locate

DEMONSTRATION = [sys.executable, "-m", "penguindome_tools.demonstration"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("store", ["sqlite", "mongodb"])
def test_make_run_once_shows_this_machine_and_its_problems(store: str, tmp_path: Path) -> None:
    if store == "mongodb":
        require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    done = subprocess.run(
        [*DEMONSTRATION, "--once", "--store", store],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for plugin in ("hd_encryption", "firewall", "sshd", "os_updates", "network_devices"):
        assert plugin in done.stdout
    assert list(tmp_path.iterdir()) == [], "the scratch root stays behind"


@pytest.mark.timeout(90)
def test_ctrl_c_ends_server_and_client_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        DEMONSTRATION,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "ctrl-C ends both" in line or time.monotonic() > deadline:
            break
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=25)
    assert process.returncode == 0, "".join(seen) + rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
