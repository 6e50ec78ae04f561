"""`penguindome-client` as people type it."""

from __future__ import annotations

import re
import sys

import pytest

from client_peer import Machine, Peer, error
from needs import ordinary_user
from penguindome import json, processes
from penguindome.client.cli import VERBS

PROGRAM = "penguindome.client"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("setup", "run")])
def test_before_setup_every_verb_says_what_to_do(machine: Machine, verb: str) -> None:
    done = machine.run(verb)
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert "penguindome-client setup --bundle" in done.stderr.decode()


def test_before_setup_the_timers_run_waits_in_silence(machine: Machine) -> None:
    done = machine.run("run")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert b"it waits for the bundle of its server" in machine.run("status").stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(machine: Machine, verb: str) -> None:
    done = machine.run(verb, "--help")
    assert done.returncode == 0
    assert b"usage: penguindome-client " + verb.encode() in done.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sumbit"], "did you mean submit?"), (["run", "--nwo"], "did you mean --now?"), ([], "--help"),
        (["setup"], "--bundle"), (["run", "--spread", "soon"], "--spread"), (["run", "--spread", "-1"], "0 to 3600"),
        (["--verison"], "did you mean --version?"),
    ],
)  # fmt: skip
def test_a_typing_error_exits_2_with_a_hint(machine: Machine, words: list[str], hint: str) -> None:
    done = machine.run(*words)
    assert done.returncode == 2
    assert hint in done.stderr.decode()


def test_version_is_told(machine: Machine) -> None:
    assert re.fullmatch(r"penguindome-client \S+\n", machine.run("--version").stdout.decode())


def test_status_tells_in_plain_words_how_things_stand(enrolled: Machine, peer: Peer) -> None:
    assert "All is well." in enrolled.run("status").stdout.decode()
    enrolled.run("collect")
    peer.always = error(503, "store-unavailable")
    assert enrolled.run("submit").returncode == 1
    said = enrolled.run("status").stdout.decode()
    assert "1 report (" in said
    assert "store-unavailable" in said
    assert "Nothing is lost" in said
    document = json.loads(enrolled.run("status", "--json").stdout)
    assert document["waiting"] == 1
    assert document["enrolment"] == "enrolled"
    assert document["complaints"]


def test_show_prints_what_would_be_sent_and_sends_nothing(enrolled: Machine, peer: Peer) -> None:
    assert "hello" in enrolled.run("show").stdout.decode()
    document = json.loads(enrolled.run("show", "--json").stdout)
    assert document["plugins"]["hello"] == {"said": "hello"}
    last = json.loads(enrolled.run("show", "--last", "--json").stdout)
    assert last["sequence"] == 1
    assert "next_exchange_token" not in last
    assert peer.requests == []
    assert enrolled.client().spool.waiting() == []


def test_verify_exits_1_with_the_list_of_problems(enrolled: Machine) -> None:
    assert enrolled.run("verify").returncode == 0
    enrolled.plugin("extra.sh", "#!/bin/sh\n")
    done = enrolled.run("verify")
    assert done.returncode == 1
    assert done.stdout.decode() == "plugins/extra.sh: unsigned\n"
    document = json.loads(enrolled.run("verify", "--json").stdout)
    assert document == {"manifest": "ok", "problems": [{"path": "plugins/extra.sh", "reason": "unsigned"}]}


def test_submit_by_hand_says_how_many_went(enrolled: Machine) -> None:
    enrolled.run("collect")
    done = enrolled.run("submit")
    assert done.returncode == 0
    assert b"1 delivered" in done.stdout


def test_a_setting_that_is_wrong_is_named_by_file_and_line(enrolled: Machine) -> None:
    (enrolled.paths.settings / "client.yml").write_text("\nspool.max_bytes: many\n")
    done = enrolled.run("run")
    assert done.returncode == 2
    assert "client.yml:2: spool.max_bytes" in done.stderr.decode()


def test_an_error_that_nobody_foresaw_is_one_line_and_a_traceback_only_with_debug(enrolled: Machine) -> None:
    (enrolled.paths.client_state / "spool").rmdir()
    (enrolled.paths.client_state / "spool").touch()
    done = enrolled.run("status")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr.decode()
    assert "Traceback" in enrolled.run("status", "--debug").stderr.decode()


def test_somebody_who_is_not_root_is_told_to_use_sudo(enrolled: Machine) -> None:
    for path in (enrolled.paths.root, *enrolled.paths.root.parents):
        if path.stat().st_mode & 0o011 != 0o011:
            path.chmod(path.stat().st_mode | 0o011)
    become = ordinary_user(enrolled.environment())
    for verb in ("status", "run", "show", "collect"):
        done = processes.run(
            [*become, sys.executable, "-m", PROGRAM, verb], timeout=30, check=False, env=enrolled.environment()
        )
        assert done.returncode == 1, done.stderr
        assert b"sudo" in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_an_idle_minute_starts_no_process_and_imports_nothing_that_it_does_not_use(enrolled: Machine) -> None:
    done = enrolled.run("run", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines() if "|" in line}
    assert "penguindome.client.minute" in imported
    unwanted = {
        "subprocess", "requests", "logbook", "gnupg", "difflib", "concurrent.futures", "ctypes",
        "penguindome.processes", "penguindome.client.delivery", "penguindome.client.collector",
        "penguindome.client.verbs.setup",
    }  # fmt: skip
    assert imported & unwanted == set()
