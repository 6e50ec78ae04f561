"""What a minute does when all is well, when the machine goes down, and when time passes."""

from __future__ import annotations

import stat
from datetime import timedelta
from typing import Any

import pytest

from client_peer import PORTAL, PYTHON_PLUGIN, Fault, Machine, Peer, error
from penguindome import json
from penguindome.client import delivery
from penguindome.client.errors import Refused, Unreachable
from penguindome.settings import write_fragment


def test_the_first_minute_enrols_takes_the_manifest_collects_and_delivers(ready: Machine, peer: Peer) -> None:
    ready.minute()
    assert peer.endpoints() == ["enroll", "update", "submit"]
    assert peer.reports[0]["plugins"]["hello"] == {"said": "hello"}
    assert peer.reports[0]["sequence"] == 1
    assert ready.client().spool.waiting() == []


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
    enrolled.collect()
    enrolled.plugin("new.sh", "#!/bin/sh\necho 1\n")
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
        enrolled.collect()
        enrolled.minute()
    given = [peer.tokens[report["report_id"]] for report in peer.reports]
    assert [report["exchange_token"] for report in peer.reports] == ["token-1", *given[:-1]]


def test_enrolment_secrets_are_gone_once_they_have_done_their_work(enrolled: Machine) -> None:
    left = {path.name for path in enrolled.paths.client_state.iterdir()}
    assert not left & {"enrolment.key", "enrolment.token"}
    assert json.loads((enrolled.paths.client_state / "repository.json").read_text())["password"] == "secret"


@pytest.mark.parametrize(
    "credentials",
    [
        {"password": "secret\nmachine https://evil.example.org\n"}, {"password": "secret\n"}, {"password": "a b"},
        {"password": ""}, {"password": 7}, {"user": "me\rpassword x"}, {"user": "a:b"},
        {"password": "\N{LINE SEPARATOR}"},
    ],
)  # fmt: skip
def test_credentials_that_would_be_more_than_a_word_of_a_file_are_left_aside(
    ready: Machine, peer: Peer, capfd: pytest.CaptureFixture[str], credentials: dict[str, Any]
) -> None:
    peer.credentials.update(credentials)
    ready.minute()
    assert ready.client().state.enrolment == "enrolled"
    assert not (ready.paths.client_state / "repository.json").exists()
    assert "repository credentials were left aside" in capfd.readouterr().err


def test_what_lies_on_disk_is_for_root_alone(enrolled: Machine) -> None:
    enrolled.collect()
    assert stat.S_IMODE(enrolled.paths.client_state.stat().st_mode) == 0o700
    for path in enrolled.paths.client_state.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


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
    enrolled.collect(8)
    client = enrolled.client()
    assert client.state.spool_dropped >= 3
    assert sum(entry.size for entry in client.spool.waiting()) <= 65536 + 21000
    peer.always = None
    enrolled.minute()
    assert peer.reports[-1]["plugins"]["penguindome"]["spool_dropped"] >= 2


def test_age_is_told_by_the_time_since_boot_when_the_clock_was_set_meanwhile(enrolled: Machine, peer: Peer) -> None:
    enrolled.collect()
    enrolled.later(days=400)
    peer.clock = enrolled.clock
    enrolled.minute()
    report = next(report for report in peer.reports if report["sequence"] == 2)
    assert report["sent_at"] - report["collected_at"] < timedelta(minutes=1)


def test_reports_of_a_clock_that_was_years_behind_are_delivered_once_it_is_right(enrolled: Machine, peer: Peer) -> None:
    """A laptop whose clock begins in the year 2000 has collected without a network; then it learns the time."""
    enrolled.collect(3)
    enrolled.later(days=9000)
    peer.clock = enrolled.clock
    enrolled.collect()
    enrolled.minute()
    assert peer.delivered() == [1, 2, 3, 4, 5]
    assert enrolled.client().state.spool_dropped == 0


def test_a_person_who_submits_by_hand_learns_what_is_wrong(enrolled: Machine, peer: Peer) -> None:
    enrolled.collect()
    peer.faults.extend([PORTAL, error(403, "revoked")])
    for kind in (Unreachable, Refused):
        client = enrolled.client()
        with client.locked(), pytest.raises(kind):
            delivery.deliver(client, patient=False)
