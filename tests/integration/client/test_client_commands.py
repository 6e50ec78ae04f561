"""Signed commands: run outside of the minute, once, with their limits, tried again as they may be, and told of."""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest

import needs
from client_peer import Fault, Machine, Peer, soon
from penguindome import json
from penguindome.actions import Target
from penguindome.client import generations, runner
from penguindome.client.context import Onlooker
from penguindome.files import AlreadyRunning
from penguindome.settings import write_fragment
from running import is_running


def forget_waiting(machine: Machine, action_id: str) -> None:
    """As if the time had come to try again."""
    records = machine.client().records
    record = records.load(action_id)
    assert record is not None
    record.not_before_at = None
    records.save(record)


def numbers(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def test_a_command_runs_apart_from_the_minute_and_its_output_is_told(enrolled: Machine, peer: Peer) -> None:
    command = enrolled.command("#!/bin/sh\necho out; echo oops >&2; echo $PPID; ps -o sid= $$ >/dev/null; exit 0\n")
    enrolled.minute()
    result = enrolled.told(command)
    assert (result["status"], result["reason"], result["exit_status"], result["attempt"]) == ("done", None, 0, 1)
    assert result["output"].startswith("out\n")
    assert int(result["output"].split()[1]) != os.getpid()
    assert (result["error"], result["truncated"]) == ("oops\n", False)
    assert enrolled.client().records.open_ids() == []
    assert not enrolled.client().records.program(command).exists()


def test_a_command_is_run_once_however_often_it_is_offered(enrolled: Machine, peer: Peer) -> None:
    ran = enrolled.paths.root / "ran"
    command = enrolled.command(f"#!/bin/sh\necho x >> {ran}\n")
    kept = list(peer.patches)
    enrolled.minute()
    enrolled.told(command)
    for count in (1, 2):
        peer.patches = list(kept)
        enrolled.minute()
        assert len(peer.results[command]) == count + 1
    assert ran.read_text() == "x\n"


def test_a_line_of_the_shell_needs_no_first_line_that_says_so(enrolled: Machine) -> None:
    command = enrolled.command("echo $((6 * 7))\n")
    enrolled.minute()
    assert enrolled.told(command)["output"] == "42\n"


def test_a_command_sees_what_plugins_see_and_nothing_of_ours(
    enrolled: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of whoever started the client")
    command = enrolled.command("#!/bin/sh\nenv; pwd; ls -l /proc/$$/fd | wc -l\n")
    enrolled.minute()
    output = enrolled.told(command)["output"]
    assert "SECRET" not in output
    assert f"PENGUINDOME_ACTION={command}\n" in output
    assert "HOME=/root\n" in output
    assert "\n/\n" in output


def test_a_command_that_fails_is_told_of_and_tried_again_until_it_exits_0(enrolled: Machine, peer: Peer) -> None:
    flag = enrolled.paths.root / "now"
    command = enrolled.command(f"#!/bin/sh\necho trying; test -e {flag} || exit 7\n")
    enrolled.minute()
    result = enrolled.told(command)
    assert (result["status"], result["reason"], result["exit_status"]) == ("trying", "exit status 7", 7)
    assert result["output"] == "trying\n"
    # Until its time has come, nothing happens.
    enrolled.minute()
    assert not enrolled.is_busy(command)
    assert "did not succeed in attempt 1 (exit status 7)" in enrolled.run("status").stdout.decode()
    flag.touch()
    forget_waiting(enrolled, command)
    enrolled.minute()
    result = enrolled.told(command, 1)
    assert (result["status"], result["attempt"]) == ("done", 2)


def test_attempts_are_counted_and_then_over(enrolled: Machine, peer: Peer) -> None:
    ran = enrolled.paths.root / "ran"
    command = enrolled.command(f"#!/bin/sh\necho x >> {ran}; exit 1\n", attempts=3)
    for number, status in enumerate(("trying", "trying", "failed")):
        enrolled.minute()
        assert enrolled.told(command, number)["status"] == status
        if status == "trying":
            forget_waiting(enrolled, command)
    enrolled.minute()
    assert ran.read_text() == "x\n" * 3
    assert len(peer.results[command]) == 3


def test_waiting_between_attempts_grows(enrolled: Machine) -> None:
    command = enrolled.command("exit 1\n")
    waits = []
    for number in range(4):
        enrolled.minute()
        enrolled.told(command, number)
        record = enrolled.client().records.load(command)
        assert record is not None
        assert record.not_before_at is not None
        waits.append(record.not_before_at - enrolled.clock())
        forget_waiting(enrolled, command)
    assert waits == sorted(waits)
    assert waits[-1] > timedelta(minutes=3)


def test_a_command_that_does_not_succeed_until_it_expires_has_failed_and_keeps_its_last_output(
    enrolled: Machine, peer: Peer
) -> None:
    command = enrolled.command("echo no luck; exit 3\n", life=timedelta(hours=1))
    enrolled.minute()
    enrolled.told(command)
    enrolled.later(hours=2)
    peer.clock = enrolled.clock
    peer.patches.clear()
    enrolled.minute()
    assert len(peer.results[command]) == 1
    assert not enrolled.is_busy(command)
    # Something that is signed later shows that it is not just the clock.
    peer.publish(enrolled.paths.client_code)
    enrolled.minute()
    result = peer.results[command][-1]
    assert result["status"] == "failed"
    assert result["reason"] == "it expired after 1 attempt; the last time: exit status 3"
    assert (result["output"], result["exit_status"]) == ("no luck\n", 3)
    assert enrolled.client().records.open_ids() == []


@pytest.mark.parametrize("kind", ["command", "wipe"])
def test_what_was_accepted_and_expired_by_a_clock_that_ran_ahead_is_begun_when_the_clock_is_right(
    enrolled: Machine, peer: Peer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A thief sets the clock ahead for a minute."""
    with monkeypatch.context() as patched:
        patched.setattr("penguindome.client.pending._start", lambda client, record: None)
        action = enrolled.command("true\n") if kind == "command" else peer.offer(enrolled.target, kind="wipe")
        enrolled.minute()
    enrolled.later(days=400)
    for _ in range(2):
        enrolled.minute()
        runner.act(Onlooker(enrolled.paths, clock=enrolled.clock), action)
    record = enrolled.client().records.load(action)
    assert record is not None
    assert (record.attempt, record.running, record.result) == (0, False, None)
    assert peer.results[action] == []
    assert "if this machine's clock is right" in enrolled.client().state.actions_held_back[action]
    enrolled.later(days=-400)
    enrolled.minute()
    result = enrolled.told(action)
    if kind == "command":
        assert (result["status"], result["attempt"]) == ("done", 1)
    else:
        # Begun: this is as far as a wipe gets here.
        assert "another root" in result["reason"]
    enrolled.minute()
    assert enrolled.client().state.actions_held_back == {}


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(enrolled: Machine) -> None:
    write_fragment(enrolled.paths.settings / "client.d/50.yml", {"commands.timeout": 1}, mode=0o600)
    pids = enrolled.paths.root / "pids"
    command = enrolled.command(
        f"#!/bin/sh\nsetsid sleep 300 &\necho $! >> {pids}\nsleep 300 &\necho $$ $! >> {pids}\nwait\n", attempts=1
    )
    enrolled.minute()
    result = enrolled.told(command)
    assert (result["status"], result["reason"]) == ("failed", "timed out")
    assert len(numbers(pids)) == 3
    assert not [pid for pid in numbers(pids) if is_running(pid)]


def test_output_is_capped_and_of_text_that_the_server_takes(enrolled: Machine) -> None:
    write_fragment(enrolled.paths.settings / "client.d/50.yml", {"plugins.output_limit": 2_000_000}, mode=0o600)
    flood = enrolled.command("head -c 100000000 /dev/zero; echo never\n", attempts=1)
    much = enrolled.command("head -c 500000 /dev/zero; printf '\\377\\300' >&2\n")
    enrolled.minute()
    result = enrolled.told(flood)
    assert (result["status"], result["reason"], result["truncated"]) == ("failed", "printed too much", True)
    result = enrolled.told(much)
    assert (result["status"], result["truncated"]) == ("done", True)
    assert set(result["output"]) == set(result["error"]) == {"\N{REPLACEMENT CHARACTER}"}
    assert len(json.dumps(result)) < 900_000


@pytest.mark.parametrize("script", ["#!/no/such/interpreter\n", "\x7fELF nonsense"])
def test_a_file_that_cannot_be_run_is_a_failed_attempt(enrolled: Machine, script: str) -> None:
    command = enrolled.command(script, attempts=1)
    enrolled.minute()
    result = enrolled.told(command)
    assert result["status"] == "failed"
    assert result["reason"].startswith("it cannot be run")


def test_a_command_for_another_machine_does_not_run(enrolled: Machine, peer: Peer) -> None:
    ran = enrolled.paths.root / "ran"
    files = {"command": (f"touch {ran}\n".encode(), 0o700)}
    own = enrolled.target
    for target in (Target("A" * 40, own.hostname), Target(own.client_id, "elsewhere")):
        peer.offer(target, kind="command", files=files)
    enrolled.minute()
    enrolled.minute()
    assert enrolled.client().records.open_ids() == []
    assert not ran.exists()


@pytest.mark.parametrize("what", ["the file", "the text", "the signature"])
def test_a_command_that_was_changed_on_the_disk_does_not_run(
    enrolled: Machine, peer: Peer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ran = enrolled.paths.root / "ran"
    monkeypatch.setattr("penguindome.client.pending._start", lambda client, record: None)
    command = enrolled.command("true\n")
    enrolled.minute()
    records = enrolled.client().records
    record = records.load(command)
    assert record is not None
    if what == "the file":
        records.program(command).write_text(f"touch {ran}\n")
    elif what == "the text":
        record.text = record.text.replace(enrolled.target.hostname, "elsewhere")
    else:
        record.signature = ""
    records.save(record)
    runner.act(Onlooker(enrolled.paths, clock=enrolled.clock), command)
    assert peer.results[command][-1]["status"] == "failed"
    assert "not run" in peer.results[command][-1]["reason"]
    assert not ran.exists()


def test_of_several_runners_one_works_and_the_others_end_at_once(enrolled: Machine, peer: Peer) -> None:
    ran, go = enrolled.paths.root / "ran", enrolled.paths.root / "go"
    command = enrolled.command(f"echo x >> {ran}; while ! test -e {go}; do sleep 0.05; done\n")
    enrolled.minute()
    assert soon(ran.exists)
    for _ in range(3):
        done = enrolled.run("act", command)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        enrolled.minute()
    with pytest.raises(AlreadyRunning):
        runner.act(Onlooker(enrolled.paths, clock=enrolled.clock), command)
    assert "is at work" in enrolled.run("status").stdout.decode()
    go.touch()
    assert enrolled.told(command)["status"] == "done"
    assert ran.read_text() == "x\n"


def test_a_runner_that_was_killed_is_a_failed_attempt_whose_processes_are_killed(enrolled: Machine, peer: Peer) -> None:
    pids = enrolled.paths.root / "pids"
    command = enrolled.command(f"echo $PPID $$ > {pids}.new; mv {pids}.new {pids}; sleep 300\n", attempts=2)
    enrolled.minute()
    assert soon(pids.exists)
    killed, left = numbers(pids)
    os.kill(killed, signal.SIGKILL)
    assert soon(lambda: not is_running(killed))
    assert is_running(left)
    enrolled.minute()
    result = enrolled.told(command)
    assert (result["status"], result["attempt"]) == ("trying", 1)
    assert "interrupted" in result["reason"]
    assert soon(lambda: not is_running(left))
    pids.unlink()
    forget_waiting(enrolled, command)
    enrolled.minute()
    assert soon(pids.exists)
    os.kill(numbers(pids)[0], signal.SIGKILL)
    assert soon(lambda: not enrolled.is_busy(command))
    enrolled.minute()
    assert enrolled.told(command, 1)["status"] == "failed"


def test_a_runner_that_is_told_to_end_kills_its_command(enrolled: Machine, peer: Peer) -> None:
    pids = enrolled.paths.root / "pids"
    command = enrolled.command(f"echo $PPID $$ > {pids}.new; mv {pids}.new {pids}; sleep 300\n", attempts=1)
    enrolled.minute()
    assert soon(pids.exists)
    told, killed = numbers(pids)
    os.kill(told, signal.SIGTERM)
    assert soon(lambda: not is_running(killed) and not is_running(told))
    enrolled.minute()
    assert "interrupted" in enrolled.told(command)["reason"]


def test_a_result_that_the_runner_could_not_tell_is_told_by_the_next_minute(enrolled: Machine, peer: Peer) -> None:
    refuse = {"acknowledge_patch"}
    peer.on_request = lambda endpoint: peer.faults.append(Fault(503)) if endpoint in refuse else None
    command = enrolled.command("echo kept\n")
    enrolled.minute()
    records = enrolled.client().records

    def is_done() -> bool:
        record = records.load(command)
        return record is not None and record.is_final and not enrolled.is_busy(command)

    assert soon(is_done)
    assert records.open_ids() == [command]
    assert peer.results[command] == []
    refuse.clear()
    enrolled.later(minutes=5)
    peer.clock = enrolled.clock
    enrolled.minute()
    assert peer.results[command][0]["output"] == "kept\n"


def test_a_runner_does_not_write_the_clients_state(enrolled: Machine, peer: Peer) -> None:
    state = enrolled.paths.client_state / "state.json"
    ran = enrolled.paths.root / "ran"
    command = enrolled.command(f"touch {ran}\n")
    enrolled.minute()
    before = state.stat().st_ino, state.read_bytes()
    enrolled.told(command)
    assert ran.exists()
    assert (state.stat().st_ino, state.read_bytes()) == before


@pytest.mark.parametrize("words", [["act"], ["act", "nonsense"], ["act", "../../etc"]])
def test_the_hidden_verb_takes_nothing_but_an_id(enrolled: Machine, words: list[str]) -> None:
    assert enrolled.run(*words).returncode == 2
    assert b"act" not in enrolled.run("--help").stdout.replace(b"last", b"").replace(b"contact", b"")


def test_an_action_that_is_not_known_is_nothing_to_do(enrolled: Machine, peer: Peer) -> None:
    assert enrolled.run("act", "0" * 32).returncode == 0
    assert peer.requests == []


def test_a_wipe_below_another_root_wipes_nothing_and_says_so(enrolled: Machine, peer: Peer) -> None:
    wipe = peer.offer(enrolled.target, kind="wipe")
    enrolled.minute()
    result = enrolled.told(wipe)
    assert (result["status"], result["steps"]) == ("failed", [])
    assert "another root" in result["reason"]


@pytest.mark.timeout(900)
def test_kills_at_random_instants_leave_every_action_done_once_and_told(enrolled: Machine, peer: Peer) -> None:
    """Minutes and runners are killed; afterwards each action was applied wholly, and commands ran as often as told."""
    rounds = 50 if needs.testing_all() else 10
    chance = random.Random(rounds)
    ran, state = enrolled.paths.root / "ran", enrolled.paths.client_state
    for number in range(rounds):
        patch = enrolled.patch({f"plugins/{name}": f"#!/bin/sh\necho {number}\n" for name in ("first", "second")})
        command = enrolled.command(f"echo {number:03d} >> {ran}\n")
        process = enrolled.start("run")
        deadline = time.monotonic() + chance.uniform(0.1, 1.2)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        present = generations.in_force(state)
        if present is not None:
            # All of a patch, or nothing of it.
            assert (present / "plugins/first").read_bytes() == (present / "plugins/second").read_bytes()

        def all_told(patch: str = patch, command: str = command) -> bool:
            enrolled.run("run")
            assert soon(lambda: not any(enrolled.is_busy(each) for each in enrolled.client().records.open_ids()))
            for each in enrolled.client().records.open_ids():
                forget_waiting(enrolled, each)
            return bool(peer.results[patch]) and any(each["status"] == "done" for each in peer.results[command])

        assert soon(all_told, 60)
        assert {each["status"] for each in peer.results[patch]} == {"done"}
        interrupted = sum("interrupted" in (each["reason"] or "") for each in peer.results[command])
        assert 1 <= ran.read_text().split().count(f"{number:03d}") <= 1 + interrupted
    installed = enrolled.client().installed()
    assert installed.complaints() == []
    assert installed.overlay is not None
    assert len(installed.overlay.actions) == rounds
    assert len(list((state / generations.DIRECTORY).iterdir())) == 1
