"""Waiting for approval, being refused, faults of the network, lost answers and wrong clocks: nothing is lost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from client_peer import PORTAL, Fault, Machine, Peer, error
from penguindome.settings import write_fragment
from penguindome.times import utc_now


def test_a_waiting_machine_asks_again_less_and_less_and_is_in_once_approved(ready: Machine, peer: Peer) -> None:
    peer.enrolment = {"status": "pending"}
    peer.clock = ready.clock
    for _ in range(60):
        ready.minute()
        ready.later(minutes=1)
    asked = len(peer.endpoints())
    assert set(peer.endpoints()) == {"enroll"}
    assert 8 <= asked <= 20
    peer.enrolment = {"status": "enrolled"}
    for _ in range(16):
        ready.minute()
        ready.later(minutes=1)
    assert len(peer.reports) >= 1


def test_a_machine_that_must_wait_again_keeps_its_reports(enrolled: Machine, peer: Peer) -> None:
    peer.always = error(403, "pending")
    for _ in range(3):
        enrolled.collect()
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
    enrolled.collect()
    enrolled.minute()
    client = enrolled.client()
    assert [entry.sequence for entry in client.spool.waiting()] == [2]
    assert client.state.enrolment == "refused"
    assert reason in client.state.enrolment_message


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
    enrolled.collect()
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
    enrolled.collect()
    peer.always = Fault(hang=True)
    enrolled.minute()
    assert "in time" in enrolled.client().state.last_error
    assert len(enrolled.client().spool.waiting()) == 1


def test_a_server_that_is_away_does_not_keep_the_machine_from_collecting(ready: Machine, peer: Peer) -> None:
    ready.minute()
    peer.close()
    for _ in range(4):
        ready.later(minutes=15)
        ready.minute()
    assert [entry.sequence for entry in ready.client().spool.waiting()] == [2, 3, 4, 5]


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
    enrolled.collect(2)
    peer.faults.append(error(status, code))
    enrolled.minute()
    client = enrolled.client()
    assert [entry.sequence for entry in client.spool.bad()] == [2]
    assert peer.delivered() == [1, 3]
    enrolled.collect()
    enrolled.minute()
    assert peer.reports[-1]["plugins"]["penguindome"]["bad_reports"] == 1


def test_a_report_on_which_the_server_breaks_down_does_not_block_those_behind_it(enrolled: Machine, peer: Peer) -> None:
    enrolled.collect(3)
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
    enrolled.collect(5)
    peer.always = Fault(500, b"Internal Server Error")
    enrolled.minute()
    assert len(peer.requests) <= 3
    assert len(enrolled.client().spool.waiting()) == 5


def test_a_poisonous_report_does_not_keep_updates_away(enrolled: Machine, peer: Peer) -> None:
    enrolled.collect()
    peer.faults.append(error(500, "internal"))
    enrolled.minute()
    assert peer.endpoints() == ["submit", "update"]
    enrolled.minute()
    assert peer.endpoints() == ["submit", "update", "update"]


def test_a_report_whose_answer_was_lost_goes_out_again_under_the_same_id_and_token(
    enrolled: Machine, peer: Peer
) -> None:
    enrolled.collect()
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
    enrolled.collect()
    waiting = enrolled.client().spool.waiting()[0]
    contents = waiting.path.read_bytes()
    enrolled.minute()
    waiting.path.write_bytes(contents)
    peer.requests.clear()
    enrolled.minute()
    assert "submit" not in peer.endpoints()
    assert enrolled.client().spool.waiting() == []


def test_a_damaged_report_is_set_aside_and_those_behind_it_are_delivered(enrolled: Machine, peer: Peer) -> None:
    enrolled.collect(2)
    enrolled.client().spool.waiting()[0].path.write_bytes(b'{"half')
    enrolled.minute()
    assert peer.delivered() == [1, 3]
    assert len(enrolled.client().spool.bad()) == 1


def test_a_lost_state_uses_no_number_again_and_keeps_the_token(enrolled: Machine, peer: Peer) -> None:
    enrolled.collect()
    (enrolled.paths.client_state / "state.json").write_text("{")
    enrolled.minute()
    assert peer.delivered() == [1, 2, 3]
    assert peer.reports[1]["exchange_token"] == peer.tokens[peer.reports[0]["report_id"]]


@pytest.mark.parametrize("hours", [-48, -1, 1, 48])
def test_a_wrong_clock_is_learnt_from_the_refusal_and_the_request_repeated_at_once(
    enrolled: Machine, peer: Peer, hours: int
) -> None:
    enrolled.later(hours=-hours)
    enrolled.collect()
    enrolled.minute()
    assert peer.delivered() == [1, 2]
    assert abs(enrolled.client().state.clock_offset - hours * 3600) < 60
    report = peer.reports[-1]
    # The age counts, and it is measured with one clock.
    assert timedelta(0) <= report["sent_at"] - report["collected_at"] < timedelta(minutes=1)
    enrolled.collect()
    enrolled.minute()
    assert peer.reports[-1]["plugins"]["penguindome"]["clock_offset"] == hours * 3600


def test_a_clock_that_was_mended_is_noticed_too(enrolled: Machine) -> None:
    enrolled.later(hours=-5)
    enrolled.minute()
    assert enrolled.client().state.clock_offset > 4 * 3600
    enrolled.later(hours=5)
    enrolled.minute()
    assert abs(enrolled.client().state.clock_offset) < 60
    assert enrolled.client().state.failures == 0


def test_a_server_that_always_complains_of_the_clock_is_asked_twice_and_no_more(enrolled: Machine, peer: Peer) -> None:
    peer.always = error(409, "clock-skew", server_time_at=utc_now())
    enrolled.minute()
    assert peer.endpoints() == ["update", "update"]
