"""The README says what is true: its commands are run, its tables are compared with what they describe."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penguindome.paths import Paths
from penguindome_server.checks import load_checks
from penguindome_server.settings import load_server_settings
from penguindome_server.store.schema import SCHEMA
from penguindome_tools.cli import COMMANDS
from penguindome_tools.scratch_site import CHECKOUT, free_port

README = (CHECKOUT / "README.md").read_text()
TRIAL_ROOT = "/tmp/penguindome-trial"
TRIAL_PORT = "8443"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def console_commands() -> list[str]:
    lines = "".join(blocks("console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.mark.timeout(120)
def test_the_commands_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    port = free_port()
    script = "\n".join(console_commands()).replace(TRIAL_ROOT, str(tmp_path / "root")).replace(TRIAL_PORT, str(port))
    wait = f"until (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do kill -0 $! || exit 9; sleep 0.1; done"
    script = script.replace("python -m penguindome_server &", f"python -m penguindome_server &\n{wait}")
    script = f"trap 'kill $(jobs -p)' EXIT\n{script}"
    assert wait in script, "the README does not start the server as this test expects"
    programs = tmp_path / "bin"
    programs.mkdir()
    # A symbolic link to the interpreter of a venv would not find the venv.
    for name, module in (
        ("penguindome", "-m penguindome_tools.cli"),
        ("penguindome-client", "-m penguindome.client"),
        ("python", ""),
    ):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    script = re.sub(r"^export PATH=.*$", "", script, flags=re.MULTILINE)
    process = subprocess.Popen(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=100)
    finally:
        # The server that the script put into the background is in its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode == 0, output


def test_every_collection_is_described() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE)
    assert dict(rows) == {name: schema.description for name, schema in SCHEMA.items()}


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"`?make ([a-z][a-z-]*)", README))
    makefile = (CHECKOUT / "Makefile").read_text()
    assert targets
    assert {name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()


def test_every_command_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`penguindome ([a-z-]+)", README))
    assert named - set(COMMANDS) == set()


def test_the_settings_of_the_readme_are_accepted(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.settings.mkdir(parents=True)
    example = next(block for block in blocks("yaml") if "server.yml" in block)
    (paths.settings / "server.yml").write_text(example)
    settings = load_server_settings(paths)
    assert list(settings.warnings) == []
    assert settings["business_time.timezone"] == "Europe/Berlin"


def test_the_check_of_the_readme_is_accepted(tmp_path: Path) -> None:
    example = next(block for block in blocks("yaml") if "checks.d" in block)
    (tmp_path / "site.yml").write_text(example)
    checks = load_checks(tmp_path)
    assert checks["sshd-running"].severity == "medium"
    assert checks.failing({"plugins": {"sshd": {"running": True}}}) == ["sshd-running"]
