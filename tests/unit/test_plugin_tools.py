"""What plugins are given: programs, user sessions, a cache."""

from __future__ import annotations

import getpass
import json as standard_json
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import penguindome
from needs import require
from penguindome import cache, plugin_tools
from penguindome.cache import cached_data
from penguindome.errors import ProcessError
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.plugin_tools import DBusUser, find_who_x_users, find_x_users, find_xinit_users, output, run

MOMENT = datetime(2026, 11, 23, 22, 30, 0, 123_000, timezone.utc)
Install = Callable[[str, str], None]


@pytest.fixture
def root(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine of the test's own."""
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    return paths.root


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a program on PATH that prints a text."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def install(name: str, text: str) -> None:
        (programs / f"{name}.txt").write_text(text)
        (programs / name).write_text(f"#!/bin/sh\ncat '{programs}/{name}.txt'\n")
        (programs / name).chmod(0o755)

    return install


# Programs and output


def test_a_program_gives_its_output_and_a_missing_one_none() -> None:
    assert run(["echo", "hello"]) == "hello\n"
    assert run(["no-such-program"]) is None


def test_a_program_that_fails_or_hangs_is_an_error() -> None:
    with pytest.raises(ProcessError, match="exit status 1"):
        run(["false"])
    assert run(["false"], ok_codes=(0, 1)) == ""
    with pytest.raises(ProcessError, match="did not end"):
        run(["sleep", "60"], timeout=0.1)


def test_programs_speak_english_and_find_what_administrators_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("LC_MESSAGES", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("PATH", "/first:/usr/bin")
    text = run(["env"])
    assert text is not None
    variables = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert variables["LC_ALL"] == "C"
    assert {"LANG", "LANGUAGE", "LC_MESSAGES"}.isdisjoint(variables)
    assert variables["PATH"].startswith("/first:/usr/bin:")
    assert "/usr/sbin" in variables["PATH"].split(":")


def test_output_is_our_json(capsys: pytest.CaptureFixture[str]) -> None:
    output({"boot_at": MOMENT, "empty": {}})
    assert capsys.readouterr().out == '{"boot_at":"2026-11-23T22:30:00.123Z","empty":{}}\n'
    output(plugin_tools.unknown)
    assert capsys.readouterr().out == '"unknown"\n'


def test_the_plugin_of_the_documentation_works(tmp_path: Path) -> None:
    assert plugin_tools.__doc__
    code = "".join(line[4:] + "\n" for line in plugin_tools.__doc__.splitlines() if line.startswith("    ") or not line)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert standard_json.loads(done.stdout) == {"kernel": os.uname().release}


# Sessions


def test_who_names_the_users_of_x(install: Install) -> None:
    install(
        "who",
        "anna     :0           2026-11-23 08:00 (:0)\n"
        "anna     pts/0        2026-11-23 08:01 (:0)\n"
        "bob      tty7         2026-11-23 08:02 (:1)\n"
        "carl     tty2         2026-11-23 08:03 (tty2)\n"
        "dora     pts/1        2026-11-23 08:04 (192.0.2.7)\n"
        "emil     tty1         2026-11-23 08:05\n"
        "fritz    pts/2        2026-11-23 08:06 (host:10.0)\n"
        "\n",
    )
    assert find_who_x_users() == [("anna", ":0"), ("bob", ":1")]


def test_processes_name_the_users_of_xinit(install: Install) -> None:
    install(
        "ps",
        "root                 /sbin/init splash\n"
        "anna                 xinit /home/anna/.xinitrc -- /etc/X11/xinit/xserverrc :1 vt1 -keeptty\n"
        "bob                  /usr/bin/xinit\n"
        "carl                 vi xinit.c\n"
        "dora                 xinit -- \n",
    )
    assert find_xinit_users() == [("anna", ":1"), ("bob", ":0"), ("dora", ":0")]


def test_both_together_name_each_once(install: Install) -> None:
    install("who", "anna :0 2026-11-23 08:00 (:0)\n")
    install("ps", "anna xinit -- :0\nbob xinit -- :1\n")
    assert find_x_users() == [("anna", ":0"), ("bob", ":1")]


def test_a_machine_without_these_programs_has_no_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_tools, "_DIRECTORIES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(os, "defpath", "/nowhere")
    assert find_x_users() == []


@pytest.fixture
def session() -> Iterator[str]:
    """A process of ours that has a session bus."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as bus:
        bus.bind(f"{place}/bus")
        address = f"unix:path={place}/bus,guid=00"
        environment = {"DBUS_SESSION_BUS_ADDRESS": address, "SECRET": "theirs"}
        with subprocess.Popen(["/bin/sleep", "60"], env=environment) as process:
            yield address
            process.kill()


def test_a_program_runs_in_the_session_of_its_user(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("OURS", "secret")
    user = DBusUser(getpass.getuser(), ":7")
    assert user.address == session
    text = user.run(["env"])
    assert text is not None
    assert f"DBUS_SESSION_BUS_ADDRESS={session}\n" in text
    assert "DISPLAY=:7\n" in text
    assert f"HOME={pwd.getpwuid(os.getuid()).pw_dir}\n" in text
    assert "OURS" not in text
    assert "SECRET" not in text
    assert user.run(["no-such-program"]) is None


def test_root_gives_its_rights_up_first() -> None:
    require(os.geteuid() == 0, "only root can become another user")
    nobody = pwd.getpwnam("nobody")
    environment = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus"}
    command = ["/bin/sleep", "60"]
    with subprocess.Popen(command, env=environment, user=nobody.pw_uid, group=nobody.pw_gid) as process:
        try:
            user = DBusUser("nobody")
            assert user.address == "unix:path=/nowhere/bus"
            assert user.run(["id", "-u"]) == f"{nobody.pw_uid}\n"
            assert user.run(["sh", "-c", "id -G"]) == f"{nobody.pw_gid}\n"
            status = user.run(["cat", "/proc/self/status"])
        finally:
            process.kill()
    assert status is not None
    assert "CapEff:\t0000000000000000" in status
    assert "CapInh:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_a_user_without_a_session_has_none() -> None:
    user = DBusUser("daemon")
    assert user.address is None
    assert user.run(["id"]) is None


def test_a_user_that_does_not_exist_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        DBusUser("no-such-user")


# The cache


def test_what_was_seen_last_is_remembered(root: Path) -> None:
    assert cached_data("screenlock", None) is None
    data = {"locked": True, "seen_at": MOMENT, "empty": {}}
    assert cached_data("screenlock", data) == data
    assert cached_data("screenlock", None) == data
    assert cached_data("other", None) is None
    assert cached_data("screenlock", []) == []
    assert cached_data("screenlock", None) == []
    cached_data("synced", MOMENT)
    assert cached_data("synced", None) == MOMENT


def test_what_is_too_old_is_forgotten(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_data("screenlock", {"a": 1})
    assert cached_data("screenlock", None, max_age="1h") == {"a": 1}
    now = cache.utc_now()
    monkeypatch.setattr(cache, "utc_now", lambda: now + timedelta(hours=2))
    assert cached_data("screenlock", None, max_age="1h") is None
    assert cached_data("screenlock", None, max_age=timedelta(hours=3)) == {"a": 1}
    assert cached_data("screenlock", None) == {"a": 1}
    monkeypatch.setattr(cache, "utc_now", lambda: now - timedelta(hours=2))
    assert cached_data("screenlock", None, max_age=3600) is None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b", ".hidden", "x" * 200, "a\n"])
def test_a_name_stays_in_the_cache(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a cache"):
        cached_data(name, {"a": 1})


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"5", b'{"data":1}', b'{"data":1,"cached_at":"x"}', b"\xff"])
def test_a_damaged_cache_is_none(root: Path, contents: bytes) -> None:
    cached_data("screenlock", {"a": 1})
    (file,) = (Paths(root).client_state / "cache").iterdir()
    file.write_bytes(contents)
    assert cached_data("screenlock", None) is None


def test_a_cache_that_cannot_be_written_costs_the_memory_and_not_the_report(root: Path) -> None:
    (root / "var").touch()
    assert cached_data("screenlock", {"a": 1}) == {"a": 1}
    assert cached_data("screenlock", None) is None


def test_the_cache_is_for_its_owner_alone(root: Path) -> None:
    cached_data("screenlock", {"a": 1})
    directory = Paths(root).client_state / "cache"
    (file,) = directory.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, file)] == [0o700, 0o600]


def test_plugins_find_cache_and_directory_in_the_package(root: Path) -> None:
    from penguindome import var_dir

    assert penguindome.cached_data is plugin_tools.cached_data is cached_data
    assert isinstance(var_dir, str)
    assert Path(var_dir).is_dir()
    assert Path(var_dir).is_relative_to(root)
    assert plugin_tools.var_dir == var_dir
    for module in (penguindome, cache, plugin_tools):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing  # type: ignore[attr-defined]  # what is refused
