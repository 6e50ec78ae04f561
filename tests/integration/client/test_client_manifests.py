"""Nothing runs that the signed manifest does not name, and which manifest is taken; one-time commands."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any

import pytest

from client_peer import Machine, Peer, soon
from penguindome import json
from penguindome.client.action_records import RELEASE_COMMAND
from penguindome.client.installed import NAME as MANIFEST
from penguindome.openpgp import DeviceKey
from penguindome.times import utc_now
from running import is_running


def _force(machine: Machine) -> dict[str, Any]:
    return dict(json.loads((machine.paths.client_state / MANIFEST).read_bytes()))


def test_without_a_manifest_nothing_runs_and_the_report_says_so(ready: Machine, peer: Peer) -> None:
    peer.signed_manifest = None
    ready.minute()
    assert set(peer.reports[0]["plugins"]) == {"penguindome"}
    assert peer.reports[0]["plugins"]["penguindome"]["manifest"] == "missing"


def test_a_file_that_the_manifest_does_not_name_is_reported_and_does_not_run(enrolled: Machine, peer: Peer) -> None:
    enrolled.plugin("extra.sh", f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\necho 1\n")
    enrolled.collect()
    enrolled.minute()
    plugins = peer.reports[-1]["plugins"]
    assert plugins["penguindome"]["verification"] == [{"path": "plugins/extra.sh", "reason": "unsigned"}]
    assert "extra" not in plugins
    assert not (enrolled.paths.root / "ran").exists()


def test_a_plugin_that_was_changed_is_reported_and_does_not_run(enrolled: Machine, peer: Peer) -> None:
    enrolled.plugin("hello.sh", f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\necho 1\n")
    enrolled.collect()
    enrolled.minute()
    plugins = peer.reports[-1]["plugins"]
    assert plugins["penguindome"]["verification"] == [{"path": "plugins/hello.sh", "reason": "changed"}]
    assert plugins["hello"]["plugin_failed"] is True
    assert not (enrolled.paths.root / "ran").exists()


@pytest.mark.parametrize(
    "what",
    [
        "another key",
        "expired",
        "older",
        "lower release",
        "another kind",
        "nonsense",
        "of a release not installed",
    ],
)
def test_a_manifest_that_may_not_be_taken_leaves_the_old_one_and_is_told_of(
    enrolled: Machine, peer: Peer, what: str
) -> None:
    tree = enrolled.paths.client_code
    peer.lay(tree, release=3, issued_at=utc_now() - timedelta(days=9))
    enrolled.minute()
    before = _force(enrolled)
    match what:
        case "another key":
            peer.publish(tree, release=3, signer=DeviceKey.generate("thief"))
        case "expired":
            peer.publish(
                tree, release=3, issued_at=utc_now() - timedelta(days=8), expires_at=utc_now() - timedelta(days=1)
            )  # fmt: skip
        case "older":
            peer.publish(tree, release=3, issued_at=utc_now() - timedelta(days=10))
        case "lower release":
            peer.publish(tree, release=2)
        case "another kind":
            peer.publish(tree, release=3, kind="command")
        case "of a release not installed":
            peer.publish(tree, release=4)
        case _:
            peer.signed_manifest = ("{}", "no signature")
    enrolled.minute()
    assert _force(enrolled) == before
    assert "refused" in enrolled.client().state.last_error
    assert enrolled.client().state.highest_release == 3


def test_one_in_force_that_expires_keeps_running_and_is_reported(enrolled: Machine, peer: Peer) -> None:
    enrolled.later(days=100)
    peer.clock = enrolled.clock
    peer.signed_manifest = None
    enrolled.minute()
    assert peer.reports[-1]["plugins"]["hello"] == {"said": "hello"}
    assert peer.reports[-1]["plugins"]["penguindome"]["manifest"] == "expired"


def test_a_damaged_manifest_is_fetched_again(enrolled: Machine, peer: Peer) -> None:
    (enrolled.paths.client_state / MANIFEST).write_text("{")
    enrolled.minute()
    assert "hello" in peer.reports[-1]["plugins"]
    assert enrolled.client().installed().condition == "ok"


def _command(machine: Machine, text: str) -> None:
    machine.plugin("once.sh", text, directory="commands")
    machine.peer.publish(machine.paths.client_code)


def _run(machine: Machine) -> None:
    """A minute that starts commands, their end, and the minute that reports it."""
    machine.minute()
    client = machine.client()
    assert soon(lambda: all(record.result is not None for record in client.records.open()))
    assert soon(lambda: not machine.is_busy(RELEASE_COMMAND))
    machine.minute()


def test_a_command_runs_once_is_reported_with_fresh_plugins_and_deleted(enrolled: Machine, peer: Peer) -> None:
    _command(enrolled, f"#!/bin/sh\necho x >> {enrolled.paths.root}/ran\necho done\necho careful >&2\n")
    _run(enrolled)
    _run(enrolled)
    assert (enrolled.paths.root / "ran").read_text() == "x\n"
    assert not (enrolled.paths.client_code / "commands/once.sh").exists()
    reported = [report for report in peer.reports if report["commands"]]
    assert len(reported) == 1
    assert reported[0]["commands"]["once"] == {
        "exit_status": 0, "reason": None, "output": "done\n", "error": "careful\n",
    }  # fmt: skip
    assert reported[0]["plugins"]["hello"] == {"said": "hello"}
    assert enrolled.client().installed().complaints() == []


def test_the_same_command_laid_down_again_does_not_run_again_but_another_one_does(
    enrolled: Machine, peer: Peer
) -> None:
    text = f"#!/bin/sh\necho x >> {enrolled.paths.root}/ran\n"
    _command(enrolled, text)
    _run(enrolled)
    _command(enrolled, text)
    _run(enrolled)
    assert (enrolled.paths.root / "ran").read_text() == "x\n"
    _command(enrolled, text + "echo y\n")
    _run(enrolled)
    assert (enrolled.paths.root / "ran").read_text() == "x\nx\n"


def test_a_command_of_an_older_release_does_not_run_again_after_a_rollback(enrolled: Machine, peer: Peer) -> None:
    ran = enrolled.paths.root / "ran"
    old, new = (f"#!/bin/sh\necho {name} >> {ran}\n" for name in ("old", "new"))
    for release, text in enumerate((old, new, old, new), start=1):
        path = enrolled.plugin("once.sh", text, directory="commands")
        peer.lay(enrolled.paths.client_code, release=release)
        assert path.exists()
        _run(enrolled)
        assert [complaint for complaint in enrolled.client().installed().complaints() if "once" in complaint] == []
    assert ran.read_text() == "old\nnew\n"


def test_a_command_that_fails_stays_is_reported_and_tried_again_later(enrolled: Machine, peer: Peer) -> None:
    _command(enrolled, f"#!/bin/sh\ntest -e {enrolled.paths.root}/now || exit 7\necho '[1]'\n")
    _run(enrolled)
    enrolled.minute()
    reported = [report["commands"] for report in peer.reports if report["commands"]]
    assert [command["once"]["exit_status"] for command in reported] == [7]
    (enrolled.paths.root / "now").touch()
    enrolled.later(minutes=2)
    peer.clock = enrolled.clock
    _run(enrolled)
    assert peer.reports[-1]["commands"]["once"]["output"] == [1]
    assert not (enrolled.paths.client_code / "commands/once.sh").exists()


def test_a_command_that_was_not_signed_does_not_run(enrolled: Machine, peer: Peer) -> None:
    enrolled.plugin("evil.sh", f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\n", directory="commands")
    enrolled.minute()
    assert not (enrolled.paths.root / "ran").exists()
    assert enrolled.client().installed().complaints() == ["commands/evil.sh: unsigned"]


def test_commands_run_one_after_the_other_in_the_order_of_their_names(enrolled: Machine, peer: Peer) -> None:
    ran = enrolled.paths.root / "ran"
    for name in ("20-second", "10-first", "30-third"):
        enrolled.plugin(
            name,
            f"#!/bin/sh\ntest ! -e {ran}.busy || echo together >> {ran}\n"
            f"touch {ran}.busy; echo {name} >> {ran}; rm {ran}.busy\n",
            directory="commands",
        )
    peer.publish(enrolled.paths.client_code)
    _run(enrolled)
    assert ran.read_text().split() == ["10-first", "20-second", "30-third"]
    (report,) = (report for report in peer.reports if report["commands"])
    assert set(report["commands"]) == {"10-first", "20-second", "30-third"}


def test_a_command_whose_runner_was_killed_counts_as_failed_and_runs_again_later(enrolled: Machine, peer: Peer) -> None:
    pid = enrolled.paths.root / "pid"
    _command(
        enrolled, f"#!/bin/sh\ntest ! -e {pid} || exit 0\necho $PPID $$ > {pid}.new\nmv {pid}.new {pid}\nsleep 300\n"
    )
    enrolled.minute()
    assert soon(pid.exists)
    runner, command = map(int, pid.read_text().split())
    os.kill(runner, signal.SIGKILL)
    assert soon(lambda: not is_running(runner))
    enrolled.minute()
    assert soon(lambda: not is_running(command))
    assert "interrupted" in peer.reports[-1]["commands"]["once"]["reason"]
    enrolled.later(minutes=2)
    peer.clock = enrolled.clock
    _run(enrolled)
    assert peer.reports[-1]["commands"]["once"]["exit_status"] == 0
