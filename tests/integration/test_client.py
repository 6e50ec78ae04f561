"""The client's minute against a real HTTP peer that behaves, and one that does not."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from client_peer import PORTAL, PYTHON_PLUGIN, Fault, Machine, Peer, error
from penguindome import json
from penguindome.client.errors import Refused, Unreachable
from penguindome.client.installed import NAME as MANIFEST
from penguindome.openpgp import DeviceKey
from penguindome.paths import Paths
from penguindome.settings import write_fragment
from penguindome.times import utc_now

HELLO = '#!/bin/sh\necho \'{"said": "hello"}\'\n'


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def machine(paths: Paths, peer: Peer) -> Machine:
    """A machine with one signed plugin that was set up, and never ran."""
    machine = Machine(paths, peer)
    machine.plugin("hello.sh", HELLO)
    peer.publish(paths.client_code)
    machine.set_up()
    return machine


@pytest.fixture
def enrolled(machine: Machine) -> Machine:
    """The same after its first minute: one report was delivered."""
    machine.minute()
    machine.peer.requests.clear()
    return machine


def collected(machine: Machine, count: int = 1) -> None:
    """Let reports wait, without the server."""
    from penguindome.client import minute

    for _ in range(count):
        client = machine.client()
        with client.locked():
            minute.collect(client, client.installed())


def test_the_first_minute_enrols_takes_the_manifest_collects_and_delivers(machine: Machine, peer: Peer) -> None:
    machine.minute()
    assert peer.endpoints() == ["enroll", "update", "submit"]
    assert peer.reports[0]["plugins"]["hello"] == {"said": "hello"}
    assert peer.reports[0]["sequence"] == 1
    assert machine.client().spool.waiting() == []


def test_an_idle_minute_asks_for_updates_and_nothing_else(enrolled: Machine, peer: Peer) -> None:
    enrolled.minute()
    assert peer.endpoints() == ["update"]


def test_an_idle_minute_writes_nothing_durable(enrolled: Machine) -> None:
    enrolled.minute()
    state = enrolled.paths.client_state / "state.json"
    before = state.stat().st_ino
    contact = enrolled.client().last_contact()
    enrolled.later(minutes=1)
    enrolled.peer.clock = enrolled.clock
    enrolled.minute()
    assert state.stat().st_ino == before
    later = enrolled.client().last_contact()
    assert contact is not None
    assert later is not None
    assert later > contact


def test_a_busy_minute_needs_no_poll_because_the_answer_to_a_report_brings_the_update(
    enrolled: Machine, peer: Peer
) -> None:
    collected(enrolled)
    enrolled.plugin("new.sh", HELLO)
    peer.publish(enrolled.paths.client_code)
    enrolled.minute()
    assert peer.endpoints() == ["submit"]
    enrolled.minute()
    assert "new" in peer.reports[-1]["plugins"]


def test_every_interval_there_is_a_report_and_in_between_none(enrolled: Machine, peer: Peer) -> None:
    enrolled.later(minutes=10)
    peer.clock = enrolled.clock
    enrolled.minute()
    assert len(peer.reports) == 1
    enrolled.later(minutes=5)
    enrolled.minute()
    assert peer.delivered() == [1, 2]


def test_each_report_brings_back_the_token_of_the_answer_before(enrolled: Machine, peer: Peer) -> None:
    for _ in range(2):
        collected(enrolled)
        enrolled.minute()
    given = [peer.tokens[report["report_id"]] for report in peer.reports]
    assert [report["exchange_token"] for report in peer.reports] == ["token-1", *given[:-1]]


def test_enrolment_secrets_are_gone_once_they_have_done_their_work(enrolled: Machine) -> None:
    left = {path.name for path in enrolled.paths.client_state.iterdir()}
    assert not left & {"enrolment.key", "enrolment.token"}
    assert json.loads((enrolled.paths.client_state / "repository.json").read_text())["password"] == "secret"


def test_what_lies_on_disk_is_for_root_alone(enrolled: Machine) -> None:
    collected(enrolled)
    assert stat.S_IMODE(enrolled.paths.client_state.stat().st_mode) == 0o700
    for path in enrolled.paths.client_state.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# Waiting for approval


def test_a_waiting_machine_asks_again_less_and_less_and_is_in_once_approved(machine: Machine, peer: Peer) -> None:
    peer.enrolment = {"status": "pending"}
    peer.clock = machine.clock
    for _ in range(60):
        machine.minute()
        machine.later(minutes=1)
    asked = len(peer.endpoints())
    assert set(peer.endpoints()) == {"enroll"}
    assert 8 <= asked <= 20
    peer.enrolment = {"status": "enrolled"}
    for _ in range(16):
        machine.minute()
        machine.later(minutes=1)
    assert len(peer.reports) >= 1


def test_a_machine_that_must_wait_again_keeps_its_reports(enrolled: Machine, peer: Peer) -> None:
    peer.always = error(403, "pending")
    for _ in range(3):
        collected(enrolled)
        enrolled.minute()
        enrolled.later(hours=1)
    assert len(enrolled.client().spool.waiting()) >= 3
    assert enrolled.client().state.enrolment == "pending"
    peer.always = None
    peer.clock = enrolled.clock
    enrolled.later(hours=2)
    enrolled.minute()
    assert enrolled.client().spool.waiting() == []
    assert enrolled.client().state.enrolment == "enrolled"


@pytest.mark.parametrize("reason", ["rejected", "revoked", "unknown-client", "bad-signature"])
def test_a_refused_machine_keeps_its_reports_and_says_why(enrolled: Machine, peer: Peer, reason: str) -> None:
    peer.always = error(403 if reason.endswith("ed") else 401, reason)
    collected(enrolled)
    enrolled.minute()
    client = enrolled.client()
    assert [entry.sequence for entry in client.spool.waiting()] == [2]
    assert client.state.enrolment == "refused"
    assert reason in client.state.enrolment_message


# Faults: keep, and back off


@pytest.mark.parametrize(
    "fault",
    [
        PORTAL, Fault(200, b"{}"), Fault(200, b'{"status":"ok"}'), Fault(200, b"[]"), Fault(200, b"\xff\x00"),
        Fault(204), Fault(200, b'{"status":"error"}'),
        Fault(302, b"", {"Location": "http://127.0.0.1:1/"}),
        Fault(400, b"<h1>Bad Request</h1>"), Fault(413, b"<h1>Too large</h1>"), Fault(422, b"{}"),
        Fault(400, b'{"error":"text"}'), Fault(404, b"nginx"), error(404, "not-found"), Fault(502), Fault(503),
        error(503, "x"), error(429, "rate-limited"), error(401, "bad-signature"), error(403, "pending"),
        error(409, "conflict"),
        Fault(200, b'{"error":{"code":"x","message":"y"}}'), Fault(drop=True),
        Fault(200, b"x" * 100, {"Content-Length": "5"}),
    ],
    ids=str,
)  # fmt: skip
def test_whatever_is_not_an_ok_of_ours_keeps_the_report_and_backs_off(
    enrolled: Machine, peer: Peer, fault: Fault
) -> None:
    collected(enrolled)
    peer.always = fault
    enrolled.minute()
    client = enrolled.client()
    assert [entry.sequence for entry in client.spool.waiting()] == [2]
    assert client.spool.bad() == []
    assert client.state.failures >= 1
    assert client.state.not_before_at is not None
    peer.always = None
    peer.clock = enrolled.clock
    enrolled.later(hours=2)
    enrolled.minute()
    assert 2 in peer.delivered()


def test_a_server_that_hangs_is_given_up_in_time(enrolled: Machine, peer: Peer) -> None:
    write_fragment(enrolled.paths.settings / "client.d/50.yml", {"server.read_timeout": 1}, mode=0o600)
    collected(enrolled)
    peer.always = Fault(hang=True)
    enrolled.minute()
    assert "in time" in enrolled.client().state.last_error
    assert len(enrolled.client().spool.waiting()) == 1


def test_a_server_that_is_away_does_not_keep_the_machine_from_collecting(machine: Machine, peer: Peer) -> None:
    machine.minute()
    peer.close()
    for _ in range(4):
        machine.later(minutes=15)
        machine.minute()
    assert [entry.sequence for entry in machine.client().spool.waiting()] == [2, 3, 4, 5]


def test_back_off_grows_and_is_honoured_across_runs(enrolled: Machine, peer: Peer) -> None:
    peer.always = error(503, "store-unavailable")
    peer.clock = enrolled.clock
    for _ in range(120):
        enrolled.minute()
        enrolled.later(minutes=1)
    assert 6 <= len(peer.requests) <= 14
    assert enrolled.client().state.failures == len(peer.requests)


@pytest.mark.parametrize(("status", "code"), [(429, "rate-limited"), (503, "store-unavailable")])
def test_a_time_that_the_server_asks_for_is_waited(enrolled: Machine, peer: Peer, status: int, code: str) -> None:
    peer.clock = enrolled.clock
    peer.faults.append(error(status, code, retry_after=1200))
    enrolled.minute()
    enrolled.later(minutes=19)
    enrolled.minute()
    assert len(peer.requests) == 1
    enrolled.later(minutes=7)
    enrolled.minute()
    assert len(peer.requests) > 1


def test_a_senseless_time_to_wait_is_bounded(enrolled: Machine, peer: Peer) -> None:
    peer.clock = enrolled.clock
    peer.faults.append(error(503, "store-unavailable", retry_after=10**8))
    enrolled.minute()
    enrolled.later(minutes=76)
    enrolled.minute()
    assert len(peer.requests) > 1


@pytest.mark.parametrize(("status", "code"), [(400, "malformed"), (413, "too-large"), (422, "invalid")])
def test_a_report_that_will_never_be_accepted_is_set_aside_and_told_of(
    enrolled: Machine, peer: Peer, status: int, code: str
) -> None:
    collected(enrolled, 2)
    peer.faults.append(error(status, code))
    enrolled.minute()
    client = enrolled.client()
    assert [entry.sequence for entry in client.spool.bad()] == [2]
    assert peer.delivered() == [1, 3]
    collected(enrolled)
    enrolled.minute()
    assert peer.reports[-1]["plugins"]["penguindome"]["bad_reports"] == 1


def test_a_report_on_which_the_server_breaks_down_does_not_block_those_behind_it(enrolled: Machine, peer: Peer) -> None:
    collected(enrolled, 3)
    peer.faults.append(error(500, "internal"))
    enrolled.minute()
    assert peer.delivered() == [1, 3, 4]
    assert [entry.sequence for entry in enrolled.client().spool.waiting()] == [2]
    peer.clock = enrolled.clock
    enrolled.later(minutes=2)
    enrolled.minute()
    assert peer.delivered() == [1, 3, 4, 2]


def test_a_server_that_breaks_down_over_every_report_is_left_alone_and_nothing_is_lost(
    enrolled: Machine, peer: Peer
) -> None:
    collected(enrolled, 5)
    peer.always = Fault(500, b"Internal Server Error")
    enrolled.minute()
    assert len(peer.requests) <= 3
    assert len(enrolled.client().spool.waiting()) == 5


def test_a_poisonous_report_does_not_keep_updates_away(enrolled: Machine, peer: Peer) -> None:
    collected(enrolled)
    peer.faults.append(error(500, "internal"))
    enrolled.minute()
    assert peer.endpoints() == ["submit", "update"]
    enrolled.minute()
    assert peer.endpoints() == ["submit", "update", "update"]


# Lost answers


def test_a_report_whose_answer_was_lost_goes_out_again_under_the_same_id_and_token(
    enrolled: Machine, peer: Peer
) -> None:
    collected(enrolled)
    peer.faults.append(Fault(drop=True, after=True))
    enrolled.minute()
    enrolled.later(minutes=2)
    enrolled.minute()
    sent = [data for endpoint, data in peer.requests if endpoint == "submit"]
    assert len(sent) == 2
    assert sent[0]["report_id"] == sent[1]["report_id"]
    assert sent[0]["exchange_token"] == sent[1]["exchange_token"]
    assert peer.delivered() == [1, 2]


def test_a_report_that_was_acknowledged_just_before_a_crash_is_not_sent_again(enrolled: Machine, peer: Peer) -> None:
    collected(enrolled)
    waiting = enrolled.client().spool.waiting()[0]
    contents = waiting.path.read_bytes()
    enrolled.minute()
    waiting.path.write_bytes(contents)
    peer.requests.clear()
    enrolled.minute()
    assert "submit" not in peer.endpoints()
    assert enrolled.client().spool.waiting() == []


def test_a_damaged_report_is_set_aside_and_those_behind_it_are_delivered(enrolled: Machine, peer: Peer) -> None:
    collected(enrolled, 2)
    enrolled.client().spool.waiting()[0].path.write_bytes(b'{"half')
    enrolled.minute()
    assert peer.delivered() == [1, 3]
    assert len(enrolled.client().spool.bad()) == 1


def test_a_lost_state_uses_no_number_again_and_keeps_the_token(enrolled: Machine, peer: Peer) -> None:
    collected(enrolled)
    (enrolled.paths.client_state / "state.json").write_text("{")
    enrolled.minute()
    assert peer.delivered() == [1, 2, 3]
    assert peer.reports[1]["exchange_token"] == peer.tokens[peer.reports[0]["report_id"]]


# Clocks


@pytest.mark.parametrize("hours", [-48, -1, 1, 48])
def test_a_wrong_clock_is_learnt_from_the_refusal_and_the_request_repeated_at_once(
    enrolled: Machine, peer: Peer, hours: int
) -> None:
    collected(enrolled)
    peer.clock = lambda: utc_now() + timedelta(hours=hours)
    enrolled.minute()
    assert peer.delivered() == [1, 2]
    assert abs(enrolled.client().state.clock_offset - hours * 3600) < 60
    report = peer.reports[-1]
    # The age counts, and it is measured with one clock.
    assert timedelta(0) <= report["sent_at"] - report["collected_at"] < timedelta(minutes=1)
    collected(enrolled)
    enrolled.minute()
    assert peer.reports[-1]["plugins"]["penguindome"]["clock_offset"] == hours * 3600


def test_a_clock_that_was_mended_is_noticed_too(enrolled: Machine, peer: Peer) -> None:
    peer.clock = lambda: utc_now() + timedelta(hours=5)
    enrolled.minute()
    peer.clock = utc_now
    enrolled.minute()
    assert abs(enrolled.client().state.clock_offset) < 60
    assert enrolled.client().state.failures == 0


def test_a_server_that_always_complains_of_the_clock_is_asked_twice_and_no_more(enrolled: Machine, peer: Peer) -> None:
    peer.always = error(409, "clock-skew", server_time_at=utc_now())
    enrolled.minute()
    assert peer.endpoints() == ["update", "update"]


# Manifests


def _force(machine: Machine) -> dict[str, Any]:
    return dict(json.loads((machine.paths.client_state / MANIFEST).read_bytes()))


def test_without_a_manifest_nothing_runs_and_the_report_says_so(machine: Machine, peer: Peer) -> None:
    peer.signed_manifest = None
    machine.minute()
    assert set(peer.reports[0]["plugins"]) == {"penguindome"}
    assert peer.reports[0]["plugins"]["penguindome"]["manifest"] == "missing"


def test_a_file_that_the_manifest_does_not_name_is_reported_and_does_not_run(enrolled: Machine, peer: Peer) -> None:
    enrolled.plugin("extra.sh", f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\necho 1\n")
    collected(enrolled)
    enrolled.minute()
    plugins = peer.reports[-1]["plugins"]
    assert plugins["penguindome"]["verification"] == [{"path": "plugins/extra.sh", "reason": "unsigned"}]
    assert "extra" not in plugins
    assert not (enrolled.paths.root / "ran").exists()


def test_a_plugin_that_was_changed_is_reported_and_does_not_run(enrolled: Machine, peer: Peer) -> None:
    enrolled.plugin("hello.sh", f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\necho 1\n")
    collected(enrolled)
    enrolled.minute()
    plugins = peer.reports[-1]["plugins"]
    assert plugins["penguindome"]["verification"] == [{"path": "plugins/hello.sh", "reason": "changed"}]
    assert plugins["hello"]["plugin_failed"] is True
    assert not (enrolled.paths.root / "ran").exists()


@pytest.mark.parametrize("what", ["another key", "expired", "older", "lower release", "another kind", "nonsense"])
def test_a_manifest_that_may_not_be_taken_leaves_the_old_one_and_is_told_of(
    enrolled: Machine, peer: Peer, what: str
) -> None:
    tree = enrolled.paths.client_code
    peer.publish(tree, release=3)
    enrolled.minute()
    before = _force(enrolled)
    match what:
        case "another key":
            peer.publish(tree, release=4, signer=DeviceKey.generate("thief"))
        case "expired":
            peer.publish(
                tree, release=4, issued_at=utc_now() - timedelta(days=9), expires_at=utc_now() - timedelta(days=1)
            )  # fmt: skip
        case "older":
            peer.publish(tree, release=3, issued_at=utc_now() - timedelta(days=1))
        case "lower release":
            peer.publish(tree, release=2)
        case "another kind":
            peer.publish(tree, release=4, kind="command")
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


def test_an_action_is_left_alone_and_not_acknowledged(enrolled: Machine, peer: Peer) -> None:
    text = '{"kind":"command"}'
    signature = peer.server_key.sign(text.encode()).decode()
    peer.patches = [
        {"id": "1", "text": text, "signature": signature},
        {"id": "2", "text": "forged", "signature": signature},
        "nonsense",  # type: ignore[list-item]  # what a broken server may send
    ]
    enrolled.minute()
    assert peer.endpoints() == ["update"]
    assert enrolled.client().state.failures == 0


# One-time commands


def _command(machine: Machine, text: str) -> None:
    machine.plugin("once.sh", text, directory="commands")
    machine.peer.publish(machine.paths.client_code)


def test_a_command_runs_once_is_reported_with_fresh_plugins_and_deleted(enrolled: Machine, peer: Peer) -> None:
    _command(enrolled, f"#!/bin/sh\necho x >> {enrolled.paths.root}/ran\necho done\necho careful >&2\n")
    for _ in range(3):
        enrolled.minute()
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
    enrolled.minute()
    _command(enrolled, text)
    enrolled.minute()
    assert (enrolled.paths.root / "ran").read_text() == "x\n"
    _command(enrolled, text + "echo y\n")
    enrolled.minute()
    assert (enrolled.paths.root / "ran").read_text() == "x\nx\n"


def test_a_command_that_fails_stays_is_reported_and_tried_again_later(enrolled: Machine, peer: Peer) -> None:
    _command(enrolled, f"#!/bin/sh\ntest -e {enrolled.paths.root}/now || exit 7\necho '[1]'\n")
    enrolled.minute()
    enrolled.minute()
    reported = [report["commands"] for report in peer.reports if report["commands"]]
    assert [command["once"]["exit_status"] for command in reported] == [7]
    (enrolled.paths.root / "now").touch()
    enrolled.later(minutes=2)
    peer.clock = enrolled.clock
    enrolled.minute()
    assert peer.reports[-1]["commands"]["once"]["output"] == [1]
    assert not (enrolled.paths.client_code / "commands/once.sh").exists()


def test_a_command_that_was_not_signed_does_not_run(enrolled: Machine, peer: Peer) -> None:
    enrolled.plugin("evil.sh", f"#!/bin/sh\ntouch {enrolled.paths.root}/ran\n", directory="commands")
    enrolled.minute()
    assert not (enrolled.paths.root / "ran").exists()
    assert enrolled.client().installed().complaints() == ["commands/evil.sh: unsigned"]


# The machine goes down, the disk is full, time passes


def test_a_machine_that_goes_down_does_nothing(enrolled: Machine, peer: Peer) -> None:
    (enrolled.paths.root / "run").mkdir(exist_ok=True)
    (enrolled.paths.root / "run/nologin").touch()
    enrolled.minute(now=True)
    assert peer.requests == []


def test_what_was_collected_while_the_machine_began_to_go_down_is_thrown_away(enrolled: Machine, peer: Peer) -> None:
    (enrolled.paths.root / "run").mkdir(exist_ok=True)
    enrolled.plugin("down.sh", f"#!/bin/sh\ntouch {enrolled.paths.root}/run/nologin\necho 1\n")
    peer.publish(enrolled.paths.client_code)
    enrolled.minute()
    assert peer.delivered() == [1]
    assert enrolled.client().spool.waiting() == []
    (enrolled.paths.root / "run/nologin").unlink()
    peer.clock = enrolled.clock


def test_reports_that_were_dropped_for_room_are_counted_in_the_next_one(enrolled: Machine, peer: Peer) -> None:
    enrolled.plugin("big.py", PYTHON_PLUGIN + "print('\"' + 'x' * 20000 + '\"')")
    peer.publish(enrolled.paths.client_code)
    enrolled.minute()
    write_fragment(enrolled.paths.settings / "client.d/50.yml", {"spool.max_bytes": 65536}, mode=0o600)
    peer.always = Fault(503)
    collected(enrolled, 8)
    client = enrolled.client()
    assert client.state.spool_dropped >= 3
    assert sum(entry.size for entry in client.spool.waiting()) <= 65536 + 21000
    peer.always = None
    enrolled.minute()
    assert peer.reports[-1]["plugins"]["penguindome"]["spool_dropped"] >= 2


def test_age_is_told_by_the_time_since_boot_when_the_clock_was_set_meanwhile(enrolled: Machine, peer: Peer) -> None:
    collected(enrolled)
    enrolled.later(days=400)
    peer.clock = enrolled.clock
    enrolled.minute()
    report = next(report for report in peer.reports if report["sequence"] == 2)
    assert report["sent_at"] - report["collected_at"] < timedelta(minutes=1)


def test_a_person_who_submits_by_hand_learns_what_is_wrong(enrolled: Machine, peer: Peer) -> None:
    from penguindome.client import delivery

    collected(enrolled)
    peer.faults.extend([PORTAL, error(403, "revoked")])
    for kind in (Unreachable, Refused):
        client = enrolled.client()
        with client.locked(), pytest.raises(kind):
            delivery.deliver(client, patient=False)
