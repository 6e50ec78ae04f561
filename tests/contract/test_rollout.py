"""Who should have which release, and what becomes of one that fails, with both engines of the store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from penguindome_server import halting, outbox, rollout
from penguindome_server.audit import AuditResult, AuditSettings, audit
from penguindome_server.business_time import BusinessTime
from penguindome_server.clients import Limits
from penguindome_server.issues import close_issue
from penguindome_server.reception import Surroundings, plan
from penguindome_server.rollout import Rollout, bucket
from penguindome_server.server_issues import SERVER_ID, Expiring, SignedThing
from penguindome_server.store import Store
from report_material import MINUTE, NOW, A, B, Machine, checks, enrol, plugins, report

DAY = timedelta(days=1)
ALL = range(1000)
SETTINGS = AuditSettings(BusinessTime())
IDS = [f"{number:040X}" for number in range(1000)]


def release(store: Store, number: int, **values: Any) -> None:
    """A release for everybody, unless `values` say otherwise."""
    document = {
        "_id": f"{number:09d}",
        "release": number,
        "created_at": NOW,
        "created_by": "tester",
        "message": "",
        "version": f"{number}+0.1.0",
        "content_of": number,
        "stage": {"percent": 0, "clients": []},
        "promoted_at": NOW,
        "halted_at": None,
        "halted_by": None,
        "halted_reason": None,
        "pruned_at": None,
    }
    store.collection("releases").insert({**document, **values})


def canary(store: Store, number: int, percent: int = 0, clients: Sequence[str] = (), **values: Any) -> None:
    stage = {"percent": percent, "clients": list(clients)}
    release(store, number, promoted_at=None, stage=stage, **values)


def change(store: Store, number: int, **values: Any) -> None:
    store.collection("releases").update(f"{number:09d}", lambda before: {**(before or {}), **values})


def due(store: Store, client_id: str = A) -> int | None:
    found = rollout.due(rollout.offers(store), client_id)
    return None if found is None else found.release


def test_without_releases_nobody_is_due_any(store: Store) -> None:
    assert due(store) is None
    assert rollout.offered(store, among=ALL) == []


def test_everybody_should_have_the_newest_promoted_release(store: Store) -> None:
    for number in (1, 2, 10):
        release(store, number)
    assert due(store) == 10
    assert rollout.offered(store, among=ALL) == [10, 2, 1]


def test_a_canary_is_for_the_clients_that_were_named(store: Store) -> None:
    release(store, 1)
    canary(store, 2, clients=[A])
    assert (due(store, A), due(store, B)) == (2, 1)
    assert rollout.offered(store, among=ALL) == [1]


def test_a_share_of_the_fleet_grows_without_taking_anybody_out(store: Store) -> None:
    release(store, 1)
    canary(store, 2)
    before: set[str] = set()
    for percent in (10, 50, 100):
        change(store, 2, stage={"percent": percent, "clients": []})
        now = {client_id for client_id in IDS if due_of(store, client_id) == 2}
        assert before <= now
        assert percent * 10 - 60 < len(now) < percent * 10 + 60
        before = now
    assert before == set(IDS)


_offers: dict[int, Any] = {}


def due_of(store: Store, client_id: str) -> int | None:
    """`due` for many clients, with one look at the store for each state of it."""
    version = store.collection("releases").get("000000002")
    assert version is not None
    key = hash((id(store), version["_version"]))
    found = rollout.due(_offers.setdefault(key, rollout.offers(store)), client_id)
    return None if found is None else found.release


def test_the_first_are_others_with_each_release() -> None:
    first = [{client_id for client_id in IDS if bucket(client_id, number) < 10} for number in (1, 2)]
    assert len(first[0] & first[1]) < 40
    assert bucket(A, 1) == 36  # a change of this would move canaries of a running roll-out


@pytest.mark.parametrize("gone", ["halted_at", "pruned_at"])
def test_what_is_halted_or_pruned_is_for_nobody(store: Store, gone: str) -> None:
    release(store, 1)
    release(store, 2)
    canary(store, 3, clients=[A])
    change(store, 3, **{gone: NOW})
    assert due(store) == 2
    change(store, 2, **{gone: NOW})
    assert due(store) == 1
    assert rollout.offered(store, among=ALL) == [1]


def test_polls_ask_the_store_once_a_second(store: Store) -> None:
    clock = [0.0]
    seen = Rollout(store, monotonic=lambda: clock[0])
    assert seen.due(A) is None
    release(store, 1)
    clock[0] = 0.9
    assert seen.due(A) is None
    clock[0] = 1.1
    assert seen.due(A) == 1
    change(store, 1, halted_at=NOW)
    assert seen.due(A) == 1
    seen.forget()
    assert seen.due(A) is None


def told(number: int, status: str = "failed", *, running: int = 0, **values: Any) -> dict[str, Any]:
    """Plugins' output of a client that says how its update went."""
    update = {"release": number, "status": status, "reason": "dpkg failed", "finished_at": NOW, **values}
    return plugins(penguindome={"release": running, "manifest": "ok", "update": update})


def fleet(store: Store, count: int) -> list[Machine]:
    machines = []
    for client_id in IDS[:count]:
        enrol(store, client_id, f"laptop-{client_id[-3:]}")
        machines.append(Machine(store, client_id, hostname=f"laptop-{client_id[-3:]}"))
    return machines


@pytest.fixture
def machine(store: Store) -> Machine:
    enrol(store)
    return Machine(store)


def test_a_release_that_fails_on_a_fifth_of_those_who_tried_it_is_halted(store: Store) -> None:
    release(store, 1)
    release(store, 2)
    machines = fleet(store, 11)
    for each in machines[:8]:
        each.report(plugins=told(2, "done", running=2))
    for each in machines[8:10]:
        each.report(plugins=told(2))
    assert halting.outcomes(store, 2) == (10, 2)
    assert halting.halt_if_failing(store, 2, percent=21, now=NOW) is False
    assert halting.halt_if_failing(store, 2, percent=20, now=NOW) is True
    document = store.collection("releases").get("000000002")
    assert document is not None
    assert (document["halted_at"], document["halted_by"]) == (NOW, "server")
    assert document["halted_reason"] == "it failed on 2 of the 10 clients that tried it"
    assert due(store) == 1
    assert halting.halt_if_failing(store, 2, percent=20, now=NOW + DAY) is False


def test_clients_that_refuse_a_release_have_not_tried_it_and_halt_nothing(store: Store) -> None:
    release(store, 2)
    machines = fleet(store, 4)
    for each in machines[:3]:
        each.report(plugins=told(2, reason="refused: it has expired"), due_release=2)
    assert halting.outcomes(store, 2) == (0, 0)
    machines[3].report(plugins=told(2), due_release=2)
    assert halting.halt_if_failing(store, 2, percent=20, now=NOW) is False
    assert [each.open for each in machines] == [["update-failed"]] * 4
    (episode,) = machines[0].episodes("update-failed")
    assert episode["details"] == {"release": 2, "reason": "refused: it has expired"}
    machines[0].report(plugins=told(2), due_release=2)
    assert halting.halt_if_failing(store, 2, percent=20, now=NOW) is True


def test_one_failure_halts_nothing(store: Store) -> None:
    release(store, 2)
    (only,) = fleet(store, 1)
    only.report(plugins=told(2))
    assert halting.halt_if_failing(store, 2, percent=20, now=NOW) is False


def test_a_client_counts_once_and_with_its_last_outcome(store: Store) -> None:
    release(store, 2)
    machines = fleet(store, 2)
    for each in machines:
        for _ in range(3):
            each.report(plugins=told(2))
    assert halting.outcomes(store, 2) == (2, 2)
    machines[0].report(plugins=told(2, "done", running=2))
    assert halting.outcomes(store, 2) == (2, 1)
    machines[1].report(plugins=told(2, "pending"))
    assert halting.outcomes(store, 2) == (2, 1)


def test_after_it_was_resumed_only_new_failures_count(store: Store) -> None:
    release(store, 2)
    machines = fleet(store, 4)
    for each in machines[:2]:
        each.report(plugins=told(2))
    assert halting.halt_if_failing(store, 2, percent=20, now=NOW)
    change(store, 2, halted_at=None, halted_by=None, halted_reason=None, resumed_at=NOW + MINUTE)
    for each in machines[:2]:
        each.report(plugins=told(2))
    assert not halting.halt_if_failing(store, 2, percent=20, now=NOW)
    for each in machines[2:]:
        each.report(after=5 * MINUTE, plugins=told(2))
    assert halting.halt_if_failing(store, 2, percent=20, now=NOW)


def audited(store: Store, now: datetime, expiring: Expiring | None = None) -> AuditResult:
    return audit(store, checks(), SETTINGS, now=now, expiring=expiring)


def names(result: AuditResult) -> list[str]:
    return sorted(issue.name for issue in [*result.past_grace, *result.in_grace])


def test_the_audit_halts_what_nobody_else_has_halted_and_says_so(store: Store) -> None:
    release(store, 1)
    release(store, 2)
    for each in fleet(store, 2):
        each.report(plugins=told(2))
    (warning,) = audited(store, NOW + MINUTE).warnings
    assert warning.startswith("release 2 was halted at 2026-11-23 12:01 UTC: it failed on 2 of the 2 clients")
    assert due(store) == 1
    release(store, 3)
    assert audited(store, NOW + MINUTE).warnings == []


def test_what_a_person_halted_needs_no_warning(store: Store) -> None:
    release(store, 1)
    assert halting.halt(store, 1, who="ann", reason="no good", now=NOW)
    assert not halting.halt(store, 1, who="bob", reason="still no good", now=NOW)
    assert audited(store, NOW).warnings == []


@pytest.mark.parametrize(
    "update",
    [
        None,
        [],
        {"release": "2", "status": "failed"},
        {"release": True, "status": "failed"},
        {"release": -2, "status": "failed"},
        {"release": 2, "status": ["failed"]},
        {"release": [2, 2], "status": "failed"},
        {"release": {"gt": 0}, "status": "failed"},
        {"release": 10**15, "status": "failed"},
        {"release": 2},
    ],
)
def test_nonsense_about_updates_is_stored_as_a_report_and_counts_for_nothing(machine: Machine, update: Any) -> None:
    machine.report(plugins=plugins(penguindome={"release": 0, "update": update}), due_release=2)
    assert machine.open == []
    assert "update_outcome" not in machine.document


def test_an_update_that_failed_is_an_issue_until_the_client_has_the_release(machine: Machine) -> None:
    machine.report(plugins=told(2), due_release=2)
    assert machine.open == ["update-failed"]
    (episode,) = machine.episodes("update-failed")
    assert episode["details"] == {"release": 2, "reason": "dpkg failed"}
    machine.report(plugins=told(2), due_release=2)
    machine.report(plugins=told(2, "pending"), due_release=2)
    assert machine.open == ["update-failed"]
    machine.report(plugins=told(2, "done", running=2), due_release=2)
    assert machine.open == []
    assert len(machine.episodes("update-failed")) == 1


def test_an_issue_of_an_update_says_what_the_last_try_said(machine: Machine) -> None:
    machine.report(plugins=told(2), due_release=2)
    machine.report(plugins=told(2, reason="disk full", finished_at=NOW + DAY), due_release=2)
    (episode,) = machine.episodes("update-failed")
    assert episode["details"]["reason"] == "disk full"


def test_a_failure_is_over_when_the_release_is_not_due_any_more(machine: Machine) -> None:
    machine.report(plugins=told(2, running=1), due_release=2)
    assert machine.open == ["update-failed"]
    machine.report(plugins=told(2, running=1), due_release=1)
    assert machine.open == []


def test_a_failure_on_another_release_than_the_one_due_is_no_issue(machine: Machine) -> None:
    machine.report(plugins=told(2, running=1), due_release=3)
    machine.report(plugins=told(2, running=1))
    assert machine.open == []


def test_closed_by_hand_a_failure_stays_closed_until_another_try_fails(machine: Machine) -> None:
    machine.report(plugins=told(2), due_release=2)
    (episode,) = machine.episodes("update-failed")
    close_issue(machine.store, episode["_id"], who="tester", now=machine.now)
    for _ in range(2):
        machine.report(plugins=told(2), due_release=2)
    assert machine.open == []
    machine.report(plugins=told(2, finished_at=NOW + DAY), due_release=2)
    assert machine.open == ["update-failed"]


def test_an_issue_of_an_update_survives_a_crash_between_report_and_issue(machine: Machine) -> None:
    store = machine.store
    before = store.collection("clients").get(A)
    assert before is not None
    made = report(1, "token-0", plugins=told(2))
    after = plan(before, made, checks(), Surroundings("192.0.2.1", NOW, "token-1", Limits(), due_release=2))
    assert store.collection("clients").replace(before, after)
    assert machine.open == []
    outbox.settle(store, A)
    assert machine.open == ["update-failed"]
    outbox.settle(store, A)
    assert len(machine.episodes("update-failed")) == 1


def test_an_expired_manifest_is_an_issue_until_there_is_another(machine: Machine) -> None:
    expired = plugins(penguindome={"release": 3, "manifest": "expired"})
    machine.report(plugins=expired)
    machine.report(plugins=expired)
    assert machine.open == ["manifest-expired"]
    machine.report(plugins=plugins(penguindome={"release": 3, "manifest": "ok"}))
    assert machine.open == []
    assert len(machine.episodes("manifest-expired")) == 1


def polled(machine: Machine, number: int) -> None:
    """What a poll leaves in the client's document."""
    machine.store.collection("clients").update(A, lambda before: {**(before or {}), "release": number})


def test_a_release_that_was_not_taken_is_an_issue_until_it_is(machine: Machine) -> None:
    release(machine.store, 2)
    machine.report()
    polled(machine, 1)
    assert names(audited(machine.store, NOW + 3 * DAY)) == []
    result = audited(machine.store, NOW + 3 * DAY + MINUTE)
    assert [issue.name for issue in result.in_grace] == ["release-not-taken"]
    assert names(audited(machine.store, NOW + 3 * DAY + 2 * MINUTE)) == ["release-not-taken"]
    assert [issue.name for issue in audited(machine.store, NOW + 4 * DAY).past_grace] == ["release-not-taken"]
    machine.report(after=4 * DAY)
    assert machine.open == ["release-not-taken"]
    polled(machine, 2)
    assert names(audited(machine.store, NOW + 4 * DAY)) == []


@pytest.mark.parametrize("reason", ["dpkg failed", "refused: it has expired"])
def test_a_silent_client_or_one_that_failed_has_not_this_issue_too(machine: Machine, reason: str) -> None:
    release(machine.store, 2)
    machine.report()
    assert names(audited(machine.store, NOW + 10 * DAY)) == ["not-reporting"]
    machine.report(after=10 * DAY, plugins=told(2, reason=reason), due_release=2)
    assert names(audited(machine.store, machine.now)) == ["update-failed"]


def test_a_release_that_is_halted_need_not_be_taken(machine: Machine) -> None:
    release(machine.store, 2)
    machine.report()
    assert names(audited(machine.store, NOW + 4 * DAY)) == ["release-not-taken"]
    change(machine.store, 2, halted_at=NOW)
    assert names(audited(machine.store, NOW + 4 * DAY)) == []


def test_time_counts_from_when_the_release_was_offered_to_the_client(machine: Machine) -> None:
    canary(machine.store, 2, percent=100, staged_at=NOW + 5 * DAY)
    machine.report(after=6 * DAY)
    assert names(audited(machine.store, NOW + 7 * DAY)) == []
    assert names(audited(machine.store, NOW + 8 * DAY + MINUTE)) == ["release-not-taken"]


def test_closed_by_hand_it_stays_closed_for_this_release(machine: Machine) -> None:
    release(machine.store, 2)
    machine.report()
    audited(machine.store, NOW + 4 * DAY)
    (episode,) = machine.episodes("release-not-taken")
    close_issue(machine.store, episode["_id"], who="tester", now=NOW + 4 * DAY)
    machine.report(after=4 * DAY)
    assert names(audited(machine.store, NOW + 5 * DAY)) == []
    release(machine.store, 3, created_at=NOW + 5 * DAY, promoted_at=NOW + 5 * DAY)
    machine.report(after=4 * DAY)
    assert names(audited(machine.store, NOW + 9 * DAY)) == ["release-not-taken"]


def thing(days: int) -> SignedThing:
    """Something that is valid for thirty days, until `days` from now."""
    return SignedThing("the indices", NOW + (days - 30) * DAY, NOW + days * DAY)


def expiring(days: int) -> Expiring:
    return Expiring.of([thing(days)], [], now=NOW)


@pytest.mark.parametrize(("days", "opens"), [(11, False), (9, True), (-1, True)])
def test_what_expires_within_a_third_of_its_life_is_an_issue_of_the_server(
    store: Store, days: int, opens: bool
) -> None:
    result = audited(store, NOW, expiring(days))
    assert [issue.name for issue in result.past_grace] == (["repository-expiring"] if opens else [])
    if opens:
        (issue,) = result.past_grace
        assert issue.client_id == SERVER_ID
        assert result.found_problems


def test_the_issue_of_the_server_stays_until_it_was_signed_anew(store: Store) -> None:
    audited(store, NOW, expiring(5))
    for _ in range(2):
        # Neither an audit that does not look, nor one that finds other clients gone, closes it.
        assert names(audited(store, NOW + DAY)) == ["repository-expiring"]
        assert names(audited(store, NOW + DAY, expiring(5))) == ["repository-expiring"]
    assert names(audited(store, NOW + DAY, expiring(30))) == []
    (episode,) = store.collection("issues").find({"client_id": SERVER_ID})
    assert (episode["state"], episode["close_reason"]) == ("closed", "resolved")
    assert episode["details"] == {"signed": ["the indices: until 2026-11-28 12:00 UTC"], "unreadable": []}


def test_closed_by_hand_it_opens_for_another_expiry_only(store: Store) -> None:
    (issue,) = audited(store, NOW, expiring(5)).past_grace
    close_issue(store, issue.issue_id, who="tester", now=NOW)
    assert names(audited(store, NOW, expiring(5))) == []
    assert names(audited(store, NOW, expiring(6))) == ["repository-expiring"]


def test_what_cannot_be_read_is_the_same_issue(store: Store) -> None:
    assert names(audited(store, NOW, Expiring.of([], ["the indices: damaged"], now=NOW))) == ["repository-expiring"]
    assert names(audited(store, NOW, Expiring.of([], [], now=NOW))) == []
