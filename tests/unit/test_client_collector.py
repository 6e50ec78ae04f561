"""Plugins, as real processes, with everything that a plugin can do wrong."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from penguindome import manifest
from penguindome.client import collector
from penguindome.client.collector import Limits
from penguindome.manifest import Manifest
from penguindome.openpgp import DeviceKey
from running import is_running

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
PYTHON = "#!/usr/bin/env python3\n"
QUICK = Limits(timedelta(seconds=3), 100_000)
KEY = DeviceKey.generate("server")
PATIENT = Limits(timedelta(seconds=20), 100_000)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    return tmp_path


def plugin(tree: Path, name: str, text: str, mode: int = 0o755) -> Path:
    path = tree / "plugins" / name
    path.write_text(text)
    path.chmod(mode)
    return path


def signed(tree: Path) -> Manifest:
    names = [
        f"plugins/{path.name}" for path in (tree / "plugins").iterdir() if path.is_file() and not path.is_symlink()
    ]
    data = manifest.build(
        tree, names, kind="release", release=0, issued_at=NOW, expires_at=NOW + timedelta(days=1)
    )  # fmt: skip
    return Manifest.load(data, KEY.sign(data), KEY.certificate)


def run(tree: Path, limits: Limits = PATIENT, *, of: Manifest | None = None) -> dict[str, Any]:
    of = of or signed(tree)
    return collector.run_plugins(lambda _: tree, of, collector.program_names(of, "plugins"), limits)


def alive(path: Path) -> bool:
    """Whether the process whose number a plugin wrote to `path` still runs."""
    return is_running(int(path.read_text()))


def soon(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_what_plugins_print_is_gathered_under_their_names(tree: Path) -> None:
    plugin(tree, "number.sh", "#!/bin/sh\necho 7\n")
    plugin(tree, "os_info.py", PYTHON + 'print(\'{"name": "Debian"}\')')
    plugin(tree, "plain", "#!/bin/sh\necho '\"unknown\"'\n")
    assert run(tree) == {"number": 7, "os_info": {"name": "Debian"}, "plain": "unknown"}


def test_plugins_can_use_our_library_and_see_little_else(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "1")
    monkeypatch.setenv("PENGUINDOME_ROOT", str(tree))
    plugin(
        tree, "env.py",
        PYTHON + "import os, penguindome.json as json\n"
        "print(json.dumps({'env': sorted(os.environ), 'cwd': os.getcwd()}))",
    )  # fmt: skip
    seen = run(tree)["env"]
    assert seen["cwd"] == "/"
    assert {"PATH", "HOME", "PENGUINDOME_ROOT"} <= set(seen["env"])
    assert "SECRET_OF_THE_SHELL" not in seen["env"]


def test_plugins_run_side_by_side_but_not_all_at_once(tree: Path) -> None:
    for number in range(6):
        plugin(
            tree, f"p{number}.py",
            PYTHON + f"""
import os, time, pathlib
here = pathlib.Path({str(tree)!r}) / "running"
here.mkdir(exist_ok=True)
(here / "{number}").touch()
deadline = time.monotonic() + 2
most = 0
while time.monotonic() < deadline and most < 4:
    most = max(most, len(list(here.iterdir())))
    time.sleep(0.01)
time.sleep(0.2)
most = max(most, len(list(here.iterdir())))
(here / "{number}").unlink()
print(most)
""",
        )  # fmt: skip
    seen = run(tree)
    assert max(seen.values()) <= collector.SIDE_BY_SIDE
    assert max(seen.values()) >= 2


@pytest.mark.parametrize(
    ("name", "text", "reason", "exit_status"),
    [
        ("three.sh", "#!/bin/sh\necho '{}'\nexit 3\n", "exit status 3", 3),
        ("killed.sh", "#!/bin/sh\nkill -9 $$\n", "killed by signal 9", None),
        ("bad_json.sh", "#!/bin/sh\necho '{\"a\":'\n", "not JSON", 0),
        ("nan.sh", "#!/bin/sh\necho NaN\n", "NaN", 0),
        ("deep.py", PYTHON + "print('[' * 20000 + ']' * 20000)", "nested", 0),
        ("binary.sh", "#!/bin/sh\nhead -c 5000 /dev/urandom; printf '\\377'\n", "not UTF-8", 0),
        ("silent.sh", "#!/bin/sh\n", "printed nothing", 0),
        ("no_interpreter", "#!/no/such/interpreter\n", "cannot be run", None),
        ("no_shebang", "echo 1\n", "cannot be run", None),
    ],
)
def test_a_plugin_that_fails_is_reported_as_such_and_harms_no_other(
    tree: Path, name: str, text: str, reason: str, exit_status: int | None
) -> None:
    plugin(tree, name, text)
    plugin(tree, "good.sh", "#!/bin/sh\necho 1\n")
    found = run(tree)
    assert found["good"] == 1
    failure = found[name.partition(".")[0]]
    assert failure["plugin_failed"] is True
    assert reason in failure["reason"]
    assert failure["exit_status"] == exit_status


def test_a_plugin_that_is_not_executable_is_reported(tree: Path) -> None:
    plugin(tree, "flat.sh", "#!/bin/sh\necho 1\n", mode=0o644)
    assert run(tree)["flat"]["reason"].startswith("cannot be run: not executable")


@pytest.mark.parametrize("what", ["dangling", "link", "directory", "gone", "changed", "mode"])
def test_what_is_not_the_file_that_was_signed_does_not_run(tree: Path, what: str) -> None:
    path = plugin(tree, "p.sh", f"#!/bin/sh\ntouch {tree}/ran\necho 1\n")
    of = signed(tree)
    match what:
        case "mode":
            path.chmod(0o4755)
        case "changed":
            path.write_text(path.read_text() + "# and more\n")
        case _:
            path.rename(tree / "real.sh")
            if what == "dangling":
                path.symlink_to(tree / "nowhere")
            elif what == "link":
                path.symlink_to(tree / "real.sh")
            elif what == "directory":
                path.mkdir()
    outcome = run(tree, of=of)["p"]
    assert outcome["plugin_failed"] is True
    assert outcome["reason"].startswith("did not run")
    assert not (tree / "ran").exists()


def test_a_file_that_no_manifest_names_does_not_run(tree: Path) -> None:
    plugin(tree, "signed.sh", "#!/bin/sh\necho 1\n")
    of = signed(tree)
    plugin(tree, "unsigned.sh", f"#!/bin/sh\ntouch {tree}/ran\necho 1\n")
    assert run(tree, of=of) == {"signed": 1}
    assert not (tree / "ran").exists()


def test_a_plugin_that_hangs_is_killed_with_all_that_it_started(tree: Path) -> None:
    plugin(tree, "hang.sh", f"#!/bin/sh\nsleep 60 &\necho $! > {tree}/child\necho $$ > {tree}/pid\nsleep 60\n")
    outcome = run(tree, QUICK)["hang"]
    assert outcome == {"plugin_failed": True, "reason": "timed out", "exit_status": None}
    assert not alive(tree / "pid")
    assert not alive(tree / "child")


def test_a_plugin_that_ignores_the_polite_signal_is_killed_all_the_same(tree: Path) -> None:
    plugin(tree, "deaf.py", PYTHON + f"""
import os, signal, time, pathlib
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(tree / "pid")!r}).write_text(str(os.getpid()))
time.sleep(60)
""")  # fmt: skip
    assert run(tree, QUICK)["deaf"]["reason"] == "timed out"
    assert not alive(tree / "pid")


def test_a_daemon_that_a_plugin_left_behind_is_found_and_killed(tree: Path) -> None:
    plugin(tree, "daemon.py", PYTHON + f"""
import os, sys, time, pathlib
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        pathlib.Path({str(tree / "pid")!r}).write_text(str(os.getpid()))
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        time.sleep(60)
    os._exit(0)
os.wait()
while not pathlib.Path({str(tree / "pid")!r}).exists():
    time.sleep(0.01)
print(1)
""")  # fmt: skip
    assert run(tree) == {"daemon": 1}
    assert not alive(tree / "pid")


def test_a_daemon_that_keeps_our_pipe_open_does_not_hold_us_up(tree: Path) -> None:
    plugin(tree, "sticky.sh", f"#!/bin/sh\nsetsid sleep 60 &\necho $! > {tree}/pid\necho 1\n")
    begin = time.monotonic()
    assert run(tree) == {"sticky": 1}
    assert time.monotonic() - begin < 15
    assert not alive(tree / "pid")


def test_a_plugin_that_prints_without_end_is_killed_at_the_limit(tree: Path) -> None:
    plugin(tree, "endless.sh", f"#!/bin/sh\necho $$ > {tree}/pid\nexec yes\n")
    assert run(tree)["endless"]["reason"] == "printed too much"
    assert not alive(tree / "pid")


def test_a_plugin_that_complains_without_end_is_killed_at_the_limit(tree: Path) -> None:
    plugin(tree, "loud.sh", "#!/bin/sh\nyes >&2\n")
    assert run(tree)["loud"]["reason"] == "printed too much"


def test_plugins_get_no_standard_input(tree: Path) -> None:
    plugin(tree, "reader.sh", "#!/bin/sh\ncat\necho 1\n")
    assert run(tree) == {"reader": 1}


def test_children_that_were_there_before_are_left_alone(tree: Path) -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    plugin(tree, "p.sh", "#!/bin/sh\necho 1\n")
    try:
        run(tree)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_signal_while_plugins_run_leaves_none_of_them(tree: Path) -> None:
    class Ended(Exception):
        pass

    def end(number: int, frame: object) -> None:
        raise Ended

    plugin(tree, "slow.sh", f"#!/bin/sh\necho $$ > {tree}/pid\nsleep 60\n")
    before = signal.signal(signal.SIGUSR1, end)
    sender = threading.Thread(
        target=lambda: soon((tree / "pid").exists) and os.kill(os.getpid(), signal.SIGUSR1)  # type: ignore[func-returns-value]  # run for its effect
    )
    sender.start()
    try:
        with pytest.raises(Ended):
            run(tree, Limits(timedelta(seconds=60), 1000))
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert not alive(tree / "pid")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["plugins/a.py", "plugins/a.sh"], {"a": "plugins/a.py", "a.sh": "plugins/a.sh"}),
        (["plugins/penguindome.py"], {"penguindome.py": "plugins/penguindome.py"}),
        (["plugins/_shared.py", "plugins/.hidden", "plugins/deep/x.py", "commands/y", "z"], {}),
        (["plugins/off.py", "plugins/on.py"], {"on": "plugins/on.py"}),
    ],
)
def test_names_are_those_of_the_files_and_never_ours(files: list[str], names: dict[str, str]) -> None:
    entry = manifest.FileEntry("0" * 64, 0, 0o755)
    of = Manifest("release", 0, NOW, NOW, dict.fromkeys(files, entry), "", b"")
    assert collector.program_names(of, "plugins", disabled=["off"]) == names


def test_the_interpreter_of_the_client_comes_first() -> None:
    environment = collector.environment({"PATH": "/evil", "LD_PRELOAD": "x", "https_proxy": "http://proxy:1"})
    assert "/evil" not in environment["PATH"]
    assert "LD_PRELOAD" not in environment
    assert environment["https_proxy"] == "http://proxy:1"
    assert json.dumps(environment)
