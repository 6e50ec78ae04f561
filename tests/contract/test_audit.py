"""The periodic audit, with both engines of the store."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any

import pytest

from penguindome_server import issues
from penguindome_server.audit import AuditResult, AuditSettings, audit
from penguindome_server.business_time import BusinessTime
from penguindome_server.clients import Limits
from penguindome_server.issues import Grace, close_issue, list_issues
from penguindome_server.reception import Surroundings, plan
from penguindome_server.store import Store
from report_material import CHECKS, NOW, A, B, Machine, checks, checks_of, enrol, plugins, report

OFF = {"firewall": {"active": False}}
SETTINGS = AuditSettings(BusinessTime())
DAY = timedelta(days=1)


def audited(store: Store, now: datetime, settings: AuditSettings = SETTINGS) -> AuditResult:
    return audit(store, checks(), settings, now=now)


def names(result: AuditResult) -> list[str]:
    return sorted(issue.name for issue in [*result.past_grace, *result.in_grace])


@pytest.fixture
def machine(store: Store) -> Machine:
    enrol(store)
    return Machine(store)


def test_clients_without_data_or_waiting_for_approval_do_no_harm(store: Store) -> None:
    enrol(store, A)
    enrol(store, B, "waiting", state="pending", enrolled_at=None, exchange=None)
    assert names(audited(store, NOW)) == []
    assert names(audited(store, NOW + 30 * DAY)) == ["not-reporting"]


def test_an_empty_fleet_has_no_problems(store: Store) -> None:
    result = audited(store, NOW)
    assert not result.found_problems
    assert result.clients == 0


def test_a_silent_client_is_reported_once_its_grace_is_over_and_no_more_when_it_reports(machine: Machine) -> None:
    machine.report()
    store = machine.store
    assert names(audited(store, machine.now + 7 * DAY)) == []
    result = audited(store, machine.now + 7 * DAY + timedelta(hours=1))
    assert [issue.name for issue in result.in_grace] == ["not-reporting"]
    assert not result.found_problems
    result = audited(store, machine.now + 8 * DAY)
    assert [issue.name for issue in result.past_grace] == ["not-reporting"]
    assert result.found_problems
    assert len(machine.episodes("not-reporting")) == 1
    machine.report(after=9 * DAY)
    assert machine.open == []
    assert machine.document["raised"] == []


def test_grace_periods_count_business_time(machine: Machine) -> None:
    friday = AuditSettings(BusinessTime(hours=(time(9), time(17)), weekdays=range(5)))
    machine.now = NOW + 4 * DAY
    assert machine.now.strftime("%A %H") == "Friday 12"
    machine.report(after=timedelta(0), plugins=plugins(hd_encryption={"encrypted": False}))
    saturday = audited(machine.store, machine.now + timedelta(hours=1, minutes=59), friday)
    assert [issue.name for issue in saturday.in_grace] == ["not-encrypted"]
    monday = audited(machine.store, machine.now + 3 * DAY, friday)
    assert [issue.name for issue in monday.past_grace] == ["not-encrypted"]


def test_a_silence_that_was_closed_by_hand_stays_closed_until_the_next_silence(machine: Machine) -> None:
    machine.report()
    store, silent = machine.store, machine.now + 10 * DAY
    audited(store, silent)
    (episode,) = machine.episodes("not-reporting")
    close_issue(store, episode["_id"], who="tester", now=silent)
    assert names(audited(store, silent + DAY)) == []
    machine.report(after=12 * DAY)
    assert names(audited(store, machine.now + 8 * DAY)) == ["not-reporting"]


def test_what_waits_too_long_for_a_client_is_an_issue_until_it_is_taken(machine: Machine) -> None:
    machine.report()
    deliveries = machine.store.collection("deliveries")
    delivery: dict[str, Any] = {
        "_id": f"x:{A}",
        "action_id": "x",
        "client_id": A,
        "hostname": "laptop",
        "state": "pending",
        "queued_at": NOW,
    }
    deliveries.insert(delivery)
    assert names(audited(machine.store, NOW + 6 * DAY)) == []
    machine.report(after=8 * DAY)
    assert names(audited(machine.store, machine.now)) == ["pending-patches"]
    deliveries.update(delivery["_id"], lambda found: {**(found or {}), "state": "done"})
    assert names(audited(machine.store, machine.now)) == []


def test_changed_checks_are_applied_to_what_was_reported_before(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    other = checks_of(CHECKS.replace("no-firewall", "firewall-off"))
    result = audit(machine.store, other, SETTINGS, now=machine.now)
    assert names(result) == ["firewall-off"]
    assert machine.episodes("no-firewall")[0]["close_reason"] == "check-removed"
    assert machine.document["failing"] == ["firewall-off"]
    assert audit(machine.store, other, SETTINGS, now=machine.now).changed == 0


def test_a_left_over_outbox_is_finished(machine: Machine) -> None:
    machine.report()
    before = machine.document
    surroundings = Surroundings(machine.address, machine.now, "token-2", Limits())
    after = plan(before, report(2, machine.token, plugins=plugins(**OFF)), checks(), surroundings)
    assert machine.store.collection("clients").replace(before, after)
    assert names(audited(machine.store, machine.now)) == ["no-firewall"]
    assert "outbox" not in machine.document
    assert "plugins.firewall.active" in [row[0] for row in machine.trail]


def test_issues_that_were_lost_or_forgotten_are_mended(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    machine.store.collection("issues").delete({})
    assert names(audited(machine.store, machine.now)) == ["no-firewall"]
    machine.store.collection("clients").update(
        A, lambda client: {**(client or {}), "failing": [], "plugins": plugins()}
    )
    assert names(audited(machine.store, machine.now)) == []


def test_a_manual_close_that_was_interrupted_is_completed(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    (episode,) = machine.episodes("no-firewall")
    close_issue(machine.store, episode["_id"], who="tester", now=machine.now)
    machine.store.collection("clients").update(
        A, lambda client: {**(client or {}), "failing": ["no-firewall"], "manual_closes": []}
    )
    assert names(audited(machine.store, machine.now)) == []
    assert machine.document["failing"] == []
    machine.report(plugins=plugins(**OFF))
    assert machine.open == ["no-firewall"]


def test_equal_host_names_are_found_and_closed_when_they_differ(store: Store) -> None:
    enrol(store, A)
    enrol(store, B)
    assert names(audited(store, NOW)) == ["duplicate-hostname", "duplicate-hostname"]
    store.collection("clients").update(B, lambda client: {**(client or {}), "state": "revoked"})
    assert names(audited(store, NOW)) == []


def test_issues_of_clients_that_are_gone_are_closed(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    machine.store.collection("clients").update(A, lambda client: {**(client or {}), "state": "revoked"})
    assert names(audited(machine.store, machine.now)) == []
    assert machine.episodes("no-firewall")[0]["close_reason"] == "client-gone"


def test_when_much_of_the_fleet_is_unseen_that_is_said(store: Store) -> None:
    for number in range(8):
        seen_at = NOW if number < 5 else NOW - 2 * DAY
        enrol(store, f"{number}" * 40, f"host{number}", last_seen_at=seen_at)
    (warning,) = audited(store, NOW).warnings
    assert "3 of 8" in warning
    assert not audited(store, NOW, AuditSettings(BusinessTime(), unseen_percent=50)).warnings


def test_expired_enrolment_tokens_are_deleted(store: Store) -> None:
    tokens = store.collection("enrolment_tokens")
    for name, expires_at in (("old", NOW - 30 * DAY), ("fresh", NOW + DAY)):
        tokens.insert({"_id": name, "expires_at": expires_at, "created_at": NOW})
    audited(store, NOW)
    assert [token["_id"] for token in tokens.find()] == ["fresh"]


def test_issues_that_go_on_are_known_to_have_been_seen_lately(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    machine.report(after=3 * DAY, plugins=plugins(**OFF))
    audited(machine.store, machine.now)
    assert machine.episodes("no-firewall")[0]["last_seen_at"] == machine.now


def test_an_audit_that_finds_nothing_new_changes_nothing(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    audited(machine.store, machine.now + 8 * DAY)
    before: Any = machine.document, machine.episodes("no-firewall"), machine.episodes("not-reporting")
    assert audited(machine.store, machine.now + 8 * DAY).changed == 0
    assert before == (machine.document, machine.episodes("no-firewall"), machine.episodes("not-reporting"))


def test_issues_are_listed_by_state_and_name(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF, hd_encryption={"encrypted": False}))
    machine.report(plugins=plugins(hd_encryption={"encrypted": False}))
    grace = Grace(checks(), BusinessTime(), machine.now + timedelta(hours=3))

    def listed(**values: Any) -> list[tuple[str, bool]]:
        return sorted((issue.name, issue.in_grace) for issue in list_issues(machine.store, grace, **values))

    assert listed() == [("not-encrypted", False)]
    assert listed(state="closed") == [("no-firewall", False)]
    assert listed(state=None, client_id=A, name="no-firewall") == [("no-firewall", False)]
    assert listed(client_id=B) == []


def test_all_issues_of_a_client_can_be_closed_at_once(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF, hd_encryption={"encrypted": False}))
    assert issues.close_all_issues(machine.store, A, who="tester", now=machine.now, reason="revoked") == 2
    assert machine.open == []
