"""The README says what is true: its commands are run, its tables are compared with what they describe."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from client_packages import build_deb, build_pacman
from needs import require_program
from penguindome.paths import Paths
from penguindome_server.checks import load_checks
from penguindome_server.passwords import password_context
from penguindome_server.settings import load_server_settings
from penguindome_server.store.schema import SCHEMA
from penguindome_tools.cli import COMMANDS, penguindome
from penguindome_tools.scratch_site import CHECKOUT, free_port

README = (CHECKOUT / "README.md").read_text()
TRIAL_ROOT = "/tmp/penguindome-trial"
TRIAL_PORT = "8443"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def console_commands() -> list[str]:
    lines = "".join(blocks("console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def typed_as_root() -> list[list[str]]:
    """Words of each `penguindome` that the README has root type, at whatever prompt."""
    lines = re.findall(r"^(?:\w+#|\$) .*?\b(penguindome .*)$", "".join(blocks("console")), re.MULTILINE)
    commands = [list(shlex.shlex(line, posix=True, punctuation_chars="|><&)")) for line in lines]
    return [words[1 : next((i for i, word in enumerate(words) if word[0] in "|><&)"), None)] for words in commands]


def carried(directory: Path) -> None:
    """Small packages of the client, where the README has `make` put the built ones."""
    for program in ("dpkg-deb", "zstd", "curl"):
        require_program(program)
    directory.mkdir()
    build_deb(directory)
    build_pacman(directory)


@pytest.mark.timeout(300)
def test_the_commands_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    port = free_port()
    carried(tmp_path / "dist")
    script = "\n".join(console_commands()).replace(TRIAL_ROOT, str(tmp_path / "root")).replace(TRIAL_PORT, str(port))
    wait = f"until (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do kill -0 $! || exit 9; sleep 0.1; done"
    script = script.replace("python -m penguindome_server &", f"python -m penguindome_server &\n{wait}")
    script = script.replace("--packages dist", f"--packages {tmp_path}/dist")
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
        output, _ = process.communicate(timeout=280)
    finally:
        # The server that the script put into the background is in its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode == 0, output


def test_every_collection_is_described() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section("The store"), re.MULTILINE)
    assert dict(rows) == {name: schema.description for name, schema in SCHEMA.items()}


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"`?make ([a-z][a-z-]*)", README))
    makefile = (CHECKOUT / "Makefile").read_text()
    assert targets
    assert {name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()


def test_every_command_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`penguindome ([a-z-]+)", README))
    assert named - set(COMMANDS) == set()


@pytest.mark.parametrize("words", typed_as_root(), ids=" ".join)
def test_what_the_readme_has_root_type_is_a_command_with_such_options(words: list[str]) -> None:
    command: click.Command = penguindome
    context = click.Context(command, info_name="penguindome")
    while isinstance(command, click.Group):
        # `wipe HOST` is short for `wipe host HOST`.
        words = ["host", *words] if context.info_name == "wipe" and words[0] not in command.commands else words
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        context = click.Context(found, parent=context, info_name=name)
        command = found
    command.make_parser(context).parse_args(list(words))


def test_the_settings_for_downloads_are_accepted_once_their_users_have_passwords(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    (paths.settings / "server.d").mkdir(parents=True)
    example = next(block for block in blocks("yaml") if "60-downloads.yml" in block)
    (paths.settings / "server.d/60-downloads.yml").write_text(example)
    hashed = password_context().hash("secret")
    users = "".join(f"  {name}: {hashed}\n" for name in ("fred", "anna"))
    (paths.settings / "server.d/50-managed.yml").write_text(f"users:\n{users}")
    settings = load_server_settings(paths)
    assert list(settings.warnings) == []
    assert settings["server_auth.download_release.groups"] == ["administrators"]


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
