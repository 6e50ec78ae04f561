"""Administrative acts: who is told to have done them, and how they are told to have ended."""

from __future__ import annotations

import os
import pwd

import click
import pytest

from penguindome.errors import PenguinDomeError, SettingsError, UsageError
from penguindome.paths import Paths
from penguindome_server.admin_log_acts import UNKNOWN, waiting_acts
from penguindome_server.admin_log_keeper import acts_directory
from penguindome_tools import acts
from penguindome_tools.acts import LONGEST_OUTCOME, act_of, acting_user, administrative, outcome_of
from penguindome_tools.context import Context, pass_context


@pytest.mark.parametrize(
    ("error", "on_something", "outcome"),
    [
        (click.UsageError("no such option"), False, None),
        (click.BadParameter("no"), False, None),
        (UsageError("there is no such client"), False, None),
        (SettingsError("server.yml, line 3"), False, None),
        (click.Abort(), False, None),
        (click.Abort(), True, "aborted"),
        (UsageError("it is revoked already"), True, "failed: it is revoked already"),
        (click.ClickException("cannot open"), False, "failed: cannot open"),
        (PenguinDomeError("the store is away"), False, "failed: the store is away"),
        (PenguinDomeError("a\nb\x1b[2J"), True, "failed: a\\nb\\x1b[2J"),
        (click.exceptions.Exit(0), True, "done"),
        (click.exceptions.Exit(1), True, "failed: exit status 1"),
        (SystemExit(), True, "done"),
        (SystemExit(3), True, "failed: exit status 3"),
        (SystemExit("so"), True, "failed: so"),
        (KeyboardInterrupt(), False, "interrupted"),
        (BrokenPipeError(32, "Broken pipe"), True, "failed: nobody read its output to the end"),
        (ZeroDivisionError("division by zero"), True, "failed: internal error: ZeroDivisionError: division by zero"),
    ],
)
def test_how_an_act_ended_is_told_in_one_line(error: BaseException, on_something: bool, outcome: str | None) -> None:
    assert outcome_of(error, on_something=on_something) == outcome


def test_a_long_reason_is_cut() -> None:
    told = outcome_of(PenguinDomeError("x" * 1000), on_something=True)
    assert told is not None
    assert len(told) == LONGEST_OUTCOME


@pytest.fixture
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a timer's process: the kernel knows of nobody."""
    monkeypatch.setattr(acts, "login_name", lambda: None)


@pytest.mark.usefixtures("nobody_logged_in")
@pytest.mark.parametrize(
    ("environment", "who"),
    [
        ({}, "root"),
        ({"SUDO_USER": "ann"}, "ann"),
        ({"SUDO_USER": "root"}, "root"),
        ({"DOAS_USER": "bob"}, "bob"),
        ({"PKEXEC_UID": "0"}, "root"),
        ({"PKEXEC_UID": "1"}, pwd.getpwuid(1).pw_name),
        ({"PKEXEC_UID": "4000000000"}, "uid 4000000000"),
        ({"PKEXEC_UID": "../1"}, "root"),
        ({"DPKG_MAINTSCRIPT_PACKAGE": "penguindome-server", "SUDO_USER": "ann"}, "dpkg:penguindome-server"),
        ({"SUDO_USER": "a\nb" + "c" * 500}, "a\\nb" + "c" * 96),
    ],
)
def test_root_is_told_who_is_behind_him(environment: dict[str, str], who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert acting_user(environment) == who


@pytest.mark.usefixtures("nobody_logged_in")
def test_an_ordinary_user_cannot_say_that_he_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1)
    assert acting_user({"SUDO_USER": "ann", "DPKG_MAINTSCRIPT_PACKAGE": "x"}) == pwd.getpwuid(1).pw_name


def test_who_logged_in_comes_before_whom_he_became(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "login_name", lambda: "ann")
    assert acting_user({}) == "ann"


def context(paths: Paths) -> Context:
    paths.keys.mkdir(parents=True)
    return Context(paths)


def told(paths: Paths) -> list[tuple[str, str, list[str]]]:
    waiting = waiting_acts(acts_directory(paths))
    return [(each.act.act, each.act.outcome, list(each.act.targets)) for each in waiting]


def test_an_act_within_an_act_is_told_once(paths: Paths) -> None:
    surroundings = context(paths)
    with surroundings.acting("outer"):
        surroundings.acts_on("one")
        with surroundings.acting("inner"):
            surroundings.acts_on("two", "one")
    assert told(paths) == [("outer", "done", ["one", "two"])]
    with pytest.raises(PenguinDomeError), surroundings.acting("again"), surroundings.acting("inner"):
        raise PenguinDomeError("no")
    assert told(paths)[1:] == [("again", "failed: no", [])]


def test_an_act_is_on_record_before_it_does_anything(paths: Paths) -> None:
    surroundings = context(paths)
    with surroundings.acting("act"):
        surroundings.acts_on("one", reason="lost")
        (file,) = acts_directory(paths).iterdir()
        assert b'"one"' in file.read_bytes()
        assert b'"lost"' in file.read_bytes()
    assert told(paths) == [("act", "done", ["one"])]


def test_what_was_asked_wrongly_leaves_nothing(paths: Paths) -> None:
    surroundings = context(paths)
    with pytest.raises(click.Abort), surroundings.acting("act"):
        raise click.Abort
    assert list(acts_directory(paths).iterdir()) == []


def test_a_process_that_was_killed_is_told_as_such(paths: Paths) -> None:
    surroundings = context(paths)
    child = os.fork()
    if child == 0:
        with surroundings.acting("act"):
            surroundings.acts_on("one")
            os._exit(9)
    os.waitpid(child, 0)
    assert told(paths) == [("act", UNKNOWN, ["one"])]


def test_what_cannot_be_told_is_said_loudly_and_the_result_stands(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    surroundings = context(paths)
    (paths.keys / "admin_log.acts").write_text("no directory\n")
    done = []
    with surroundings.acting("act"):
        done.append("it")
    assert done == ["it"]
    said = capsys.readouterr().err
    assert "administrative log" in said
    assert "could not be written" in said
    assert said.count("\n") == 1


def test_before_the_first_setup_an_act_makes_a_closed_place_for_itself(paths: Paths) -> None:
    with Context(paths).acting("act"):
        assert not paths.keys.exists()
    assert told(paths) == [("act", "done", [])]
    assert paths.keys.stat().st_mode & 0o077 == 0


def test_the_mark_of_an_act_is_seen_through_clicks_wrappers(paths: Paths) -> None:
    @click.command()
    @click.option("--print", "print_only", is_flag=True)
    @pass_context
    @administrative("do it", unless=("print_only",))
    def command(context: Context, *, print_only: bool) -> None:
        """Do it."""

    assert act_of(command) == "do it"
    surroundings = context(paths)
    command.main(["--print"], standalone_mode=False, obj=surroundings)
    assert told(paths) == []
    command.main([], standalone_mode=False, obj=surroundings)
    assert told(paths) == [("do it", "done", [])]
