"""What becomes of a report, with both engines of the store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from penguindome.errors import InvalidData
from penguindome_server import issues, outbox
from penguindome_server.clients import Limits, NotEnrolled, UnknownClient, receive
from penguindome_server.reception import Surroundings, plan
from penguindome_server.store import Store
from report_material import NOW, A, B, Machine, checks, enrol, plugins, report

OFF = {"firewall": {"active": False, "backends": [{"name": "nftables", "rules": 3}]}}


@pytest.fixture
def machine(store: Store) -> Machine:
    enrol(store)
    return Machine(store)


def test_a_first_report_is_stored_with_one_row_for_each_plugin(machine: Machine) -> None:
    receipt = machine.report()
    assert not receipt.duplicate
    document = machine.document
    assert document["plugins"] == plugins()
    assert document["reported_at"] == machine.now
    assert document["exchange"]["token"] == receipt.exchange_token
    assert "outbox" not in document
    assert [(path, change) for path, change, *_ in machine.trail] == [
        ("plugins.firewall", "added"),
        ("plugins.os_info", "added"),
    ]


def test_a_change_is_told_with_old_and_new_value(machine: Machine) -> None:
    machine.report()
    machine.report(plugins=plugins(**OFF))
    assert machine.trail[2:] == [("plugins.firewall.active", "changed", True, False)]
    (row,) = (row for row in machine.store.collection("audit_trail").find() if row["sequence"] == 2)
    assert row["report_id"] == f"{A[:8]}-192.0.2.1-2"
    assert (row["client_id"], row["hostname"], row["sequence"], row["received_at"]) == (A, "laptop", 2, machine.now)


def test_an_equal_report_leaves_no_trace_but_the_time(machine: Machine) -> None:
    machine.report()
    before = machine.trail
    machine.report(plugins=plugins(os_info={"name": "x", "boot_at": NOW}))
    assert machine.trail == before
    assert machine.document["reported_at"] == machine.now
    assert machine.document["plugins"]["os_info"]["boot_at"] == NOW


def test_an_empty_object_stays_an_empty_object(machine: Machine) -> None:
    machine.report(plugins=plugins(x={"y": {}, "z": [], "n": None, "one": 1, "float": 1.0, "true": True}))
    assert machine.document["plugins"]["x"] == {"y": {}, "z": [], "n": None, "one": 1, "float": 1.0, "true": True}
    machine.report(plugins=plugins(x={"y": None, "z": {}, "n": {}, "one": True, "float": 1, "true": 1.0}))
    kinds = {path: (repr(old), repr(new)) for path, _, old, new in machine.trail if path.startswith("plugins.x.")}
    assert kinds == {
        "plugins.x.y": ("{}", "None"),
        "plugins.x.z": ("[]", "{}"),
        "plugins.x.n": ("None", "{}"),
        "plugins.x.one": ("1", "True"),
        "plugins.x.float": ("1.0", "1"),
        "plugins.x.true": ("True", "1.0"),
    }


def test_issues_open_and_close_with_the_reports(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    assert machine.open == ["no-firewall"]
    assert machine.document["failing"] == ["no-firewall"]
    machine.report(plugins=plugins(**OFF))
    assert len(machine.episodes("no-firewall")) == 1
    machine.report()
    (episode,) = machine.episodes("no-firewall")
    assert (episode["state"], episode["close_reason"], episode["closed_at"]) == ("closed", "resolved", machine.now)
    machine.report(plugins=plugins(**OFF))
    assert [episode["state"] for episode in machine.episodes("no-firewall")] == ["closed", "open"]


def test_an_issue_says_since_when_by_the_servers_clock(machine: Machine) -> None:
    clock = NOW - timedelta(days=300)
    machine.report(plugins=plugins(**OFF), sent_at=clock, collected_at=clock - timedelta(hours=3))
    (episode,) = machine.episodes("no-firewall")
    assert episode["first_seen_at"] == machine.now - timedelta(hours=3)
    assert episode["opened_at"] == machine.now


def test_data_from_the_future_counts_as_collected_now(machine: Machine) -> None:
    machine.report(collected_at=NOW + timedelta(days=5000))
    assert machine.document["collected_at"] == machine.now


def test_a_resend_is_answered_as_before_and_stored_once(machine: Machine) -> None:
    machine.report()
    made = report(2, machine.token, plugins=plugins(**OFF))
    first = machine.send(made)
    before = machine.document
    again = machine.send(made)
    assert again.duplicate
    assert again.exchange_token == first.exchange_token
    assert machine.document == before
    assert len(machine.trail) == 3


def test_a_resend_of_an_older_report_is_not_stored_again_either(machine: Machine) -> None:
    first = report(100, machine.token)
    machine.send(first)
    newest = [machine.report() for _ in range(5)][-1]
    receipt = machine.send(first)
    assert receipt.duplicate
    assert receipt.exchange_token == newest.exchange_token


def test_who_is_not_enrolled_stores_nothing(store: Store) -> None:
    for number, state in enumerate(("pending", "rejected", "revoked", "replaced")):
        client_id = f"{number}" * 40
        enrol(store, client_id, state=state)
        with pytest.raises(NotEnrolled, match=state) as error:
            Machine(store, client_id).report()
        assert error.value.state == state
        assert "plugins" not in Machine(store, client_id).document
    with pytest.raises(UnknownClient):
        Machine(store, "F" * 40).report()


def test_the_second_machine_with_a_copied_key_is_noticed_and_its_reports_are_kept(machine: Machine) -> None:
    machine.report()
    clone = Machine(machine.store, address="198.51.100.7")
    clone.token, clone.number = machine.token, machine.number
    clone.now = machine.now
    clone.report(plugins=plugins(os_info={"name": "clone"}))
    assert machine.open == []
    machine.report()
    assert machine.open == ["cloned-client"]
    (episode,) = machine.episodes("cloned-client")
    assert episode["details"]["addresses"] == ["198.51.100.7", "192.0.2.1"]
    assert machine.document["plugins"]["os_info"] == {"name": "x"}
    assert ("plugins.os_info.name", "changed", "x", "clone") in machine.trail


def test_a_client_whose_answer_was_lost_is_not_taken_for_a_clone(machine: Machine) -> None:
    machine.report()
    old_token = machine.token
    made = report(2, old_token)
    machine.send(made)
    machine.token = old_token
    machine.send(made)
    machine.number = 2
    machine.report()
    assert machine.open == []


def test_an_image_that_was_copied_with_a_spooled_report_is_noticed_too(machine: Machine) -> None:
    made = report(1, machine.token)
    machine.send(made)
    clone = Machine(machine.store, address="198.51.100.7")
    clone.send(made)
    machine.number = clone.number = 1
    machine.report()
    clone.report()
    assert machine.open == ["cloned-client"]


def test_after_a_restore_from_backup_tokens_are_taken_once(machine: Machine) -> None:
    machine.report()
    machine.store.collection("clients").update(
        A, lambda client: {**(client or {}), "exchange": {**(client or {})["exchange"], "resynchronise": True}}
    )
    machine.token = "a token that the backup does not know"
    machine.report()
    assert machine.open == []
    machine.token = "another one"
    machine.report()
    assert machine.open == ["cloned-client"]


def test_a_rename_is_recorded_and_makes_no_new_client(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    machine.hostname = "renamed"
    machine.report(plugins=plugins(**OFF))
    document = machine.document
    assert document["hostname"] == "renamed"
    assert document["previous_hostnames"] == [{"hostname": "laptop", "until_at": machine.now}]
    assert ("hostname", "changed", "laptop", "renamed") in machine.trail
    assert machine.episodes("no-firewall")[0]["hostname"] == "renamed"
    assert machine.store.collection("clients").count() == 1


def test_two_machines_of_one_name_are_both_told_until_one_is_renamed(store: Store) -> None:
    enrol(store, A)
    enrol(store, B, hostname="other")
    one, two = Machine(store, A), Machine(store, B, hostname="other")
    one.report()
    two.report()
    assert one.open == two.open == []
    two.hostname = "laptop"
    two.report()
    assert one.open == two.open == ["duplicate-hostname"]
    assert one.episodes("duplicate-hostname")[0]["details"]["other_clients"] == [B]
    one.hostname = "desktop"
    one.report()
    assert one.open == two.open == []
    one.hostname = "laptop"
    one.report()
    assert one.open == two.open == ["duplicate-hostname"]


def test_two_machines_of_one_name_do_not_overwrite_each_other(store: Store) -> None:
    enrol(store, A)
    enrol(store, B)
    one, two = Machine(store, A), Machine(store, B)
    one.report(plugins={"os_info": {"name": "one"}})
    two.report(plugins={"os_info": {"name": "two"}})
    assert one.document["plugins"]["os_info"] == {"name": "one"}
    assert two.document["plugins"]["os_info"] == {"name": "two"}
    assert one.open == two.open == ["duplicate-hostname"]


@pytest.mark.parametrize(
    "values",
    [
        {"hostname": {"$gt": ""}},
        {"hostname": {"$ne": 1}},
        {"hostname": None},
        {"hostname": ""},
        {"report_id": {"$gt": ""}},
        {"report_id": ""},
        {"sequence": True},
        {"sequence": "1"},
        {"plugins": []},
        {"commands": None},
        {"exchange_token": {"$gt": ""}},
        {"collected_at": "2026-11-23T12:00:00.000Z"},
    ],
)
def test_no_object_passes_for_a_name_or_an_id(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidData):
        report(1, **values)


def test_a_plugin_that_fails_is_one_row_and_its_issues_stay_open(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    machine.report(plugins=plugins(firewall={"plugin_failed": True, "reason": "timeout"}))
    assert machine.open == ["no-firewall", "plugin-failed"]
    assert len(machine.trail) == 3
    machine.report(plugins=plugins(firewall={"plugin_failed": True, "reason": "timeout", "stderr": "other"}))
    assert len(machine.trail) == 3
    assert machine.document["plugins"]["firewall"]["stderr"] == "other"
    machine.report(plugins=plugins(firewall="unknown"))
    assert machine.open == ["no-firewall"]
    machine.report()
    assert machine.open == []


def test_a_plugin_that_is_gone_leaves_a_row_and_no_issue(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    machine.report(plugins={"os_info": {"name": "x"}})
    assert machine.trail[-1][:2] == ("plugins.firewall", "removed")
    assert machine.open == []


def test_outputs_of_commands_are_kept_with_their_time(machine: Machine) -> None:
    machine.report(commands={"uptime": "3 days"})
    machine.report()
    command = machine.document["commands"]["uptime"]
    assert command["output"] == "3 days"
    assert command["reported_at"] == machine.now - timedelta(minutes=1)
    machine.report(commands={"uptime": "4 days"})
    assert machine.trail[-1] == ("commands.uptime", "changed", "3 days", "4 days")


def test_packages_are_kept_apart_and_told_one_by_one(machine: Machine) -> None:
    def listing(*versions: str) -> dict[str, Any]:
        packages = [{"name": f"lib{number}.so", "version": version} for number, version in enumerate(versions)]
        return plugins(packages={"manager": "dpkg", "packages": packages})

    machine.report(plugins=listing(*"123"))
    assert machine.document["plugins"]["packages"] == {"manager": "dpkg", "count": 3}
    assert [row for row in machine.trail if "packages" in row[0]] == [
        ("plugins.packages", "added", None, {"manager": "dpkg", "count": 3})
    ]
    machine.report(plugins=listing(*"13"))
    stored = machine.store.collection("packages").get(A)
    assert stored is not None
    assert stored["packages"] == [{"name": "lib0.so", "version": "1"}, {"name": "lib1.so", "version": "3"}]
    assert sorted(machine.trail[-2:]) == [
        ("packages.lib1.so", "changed", "2", "3"),
        ("packages.lib2.so", "removed", "3", None),
    ]
    machine.report()
    stored = machine.store.collection("packages").get(A)
    assert stored is not None
    assert stored["packages"] == []


def test_beyond_the_daily_cap_the_data_is_stored_and_an_issue_says_so_until_the_next_day(machine: Machine) -> None:
    machine.limits = Limits(trail_bytes_per_day=2000)
    machine.report()
    for number in range(5):
        machine.report(plugins=plugins(os_info={"name": "x" * 500 + str(number)}))
    assert machine.document["plugins"]["os_info"]["name"].endswith("4")
    assert machine.open == ["trail-limit"]
    assert [row[1] for row in machine.trail if row[0] == "trail"] == ["truncated"]
    machine.report(after=timedelta(days=1))
    assert machine.open == []


def test_closing_by_hand_is_not_undone_by_data_collected_before(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    (episode,) = machine.episodes("no-firewall")
    closed_at = machine.now + timedelta(minutes=5)
    issues.close_issue(machine.store, episode["_id"], who="tester", now=closed_at, reason="false alarm")
    assert machine.open == []
    machine.report(after=timedelta(hours=2), plugins=plugins(**OFF), collected_at=NOW)
    assert machine.open == []
    machine.report(plugins=plugins(**OFF), collected_at=machine.now)
    assert machine.open == ["no-firewall"]
    closed = machine.episodes("no-firewall")[0]
    assert (closed["close_reason"], closed["closed_by"], closed["manual_closed_at"]) == ("manual", "tester", closed_at)
    assert closed["history"][-1]["reason"] == "false alarm"


def test_what_was_opened_by_hand_is_not_closed_by_a_report(machine: Machine) -> None:
    machine.report()
    for name in ("lost", "no-firewall"):
        issues.open_issue(machine.store, checks(), machine.document, name, who="tester", now=machine.now)
    machine.report(plugins=plugins(**OFF))
    machine.report()
    assert machine.open == ["lost", "no-firewall"]


def _planned(machine: Machine, **values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The client's document before a report, and after it with its outbox, as a crash would leave it."""
    before = machine.document
    machine.number += 1
    machine.now += timedelta(minutes=1)
    made = report(machine.number, machine.token, sent_at=machine.now, **values)
    surroundings = Surroundings(machine.address, machine.now, f"token-{machine.number}", Limits())
    return before, plan(before, made, checks(), surroundings)


PACKAGES = {"manager": "dpkg", "packages": [{"name": "bash", "version": "5"}]}


def _left_over(machine: Machine) -> dict[str, Any]:
    machine.report()
    before, after = _planned(machine, plugins=plugins(packages=PACKAGES, **OFF))
    assert machine.store.collection("clients").replace(before, after)
    return after


def _expect_finished(machine: Machine) -> None:
    assert "outbox" not in machine.document
    assert sorted(row[0] for row in machine.trail[2:]) == ["plugins.firewall.active", "plugins.packages"]
    assert machine.open == ["no-firewall"]
    stored = machine.store.collection("packages").get(A)
    assert stored is not None
    assert stored["packages"] == PACKAGES["packages"]


def test_a_left_over_outbox_is_finished_by_a_resend_which_is_answered_as_before(machine: Machine) -> None:
    _left_over(machine)
    receipt = machine.send(report(2, machine.token, plugins=plugins(packages=PACKAGES, **OFF)))
    assert receipt.duplicate
    assert receipt.exchange_token == "token-2"
    _expect_finished(machine)


def test_a_left_over_outbox_is_finished_by_the_next_report(machine: Machine) -> None:
    _left_over(machine)
    machine.token = "token-2"
    machine.report(plugins=plugins(packages=PACKAGES, **OFF))
    _expect_finished(machine)


def test_finishing_twice_or_late_changes_nothing(machine: Machine) -> None:
    after = _left_over(machine)
    late = {**after}
    outbox.settle(machine.store, A)
    _expect_finished(machine)
    machine.token = "token-2"
    machine.report(plugins=plugins(packages={"manager": "dpkg", "packages": [{"name": "bash", "version": "6"}]}))
    then = machine.document, machine.trail, machine.episodes("no-firewall"), machine.store.collection("packages").get(A)
    outbox.finish(machine.store, late)
    assert then == (
        machine.document,
        machine.trail,
        machine.episodes("no-firewall"),
        machine.store.collection("packages").get(A),
    )
    assert machine.open == []


def test_a_late_close_does_not_close_what_opened_after_it(machine: Machine) -> None:
    machine.report(plugins=plugins(**OFF))
    before, after = _planned(machine)
    assert machine.store.collection("clients").replace(before, after)
    late = {**after}
    machine.token = f"token-{machine.number}"
    machine.report(plugins=plugins(**OFF))
    outbox.finish(machine.store, late)
    assert [episode["state"] for episode in machine.episodes("no-firewall")] == ["closed", "open"]


class Killed(BaseException):
    """The process died."""


class DyingStore:
    """A store whose process dies before its write number `writes`; with MongoDB, what was written before stays."""

    def __init__(self, store: Store, writes: int) -> None:
        self._store = store
        self.atomic = store.atomic
        self.left = writes

    def together(self, work: Any) -> Any:
        return self._store.together(work)

    def collection(self, name: str) -> Any:
        return DyingCollection(self, self._store.collection(name))


class DyingCollection:
    """One collection of a store that dies."""

    def __init__(self, store: DyingStore, collection: Any) -> None:
        self._store = store
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        if name in ("insert", "insert_new", "replace", "clear", "update", "delete"):
            if self._store.left == 0:
                raise Killed
            self._store.left -= 1
        return getattr(self._collection, name)


def test_wherever_it_dies_between_two_writes_a_resend_completes_the_report(store: Store) -> None:
    for writes in range(20):
        client_id = f"{writes:040X}"
        enrol(store, client_id, f"host{writes}")
        machine = Machine(store, client_id, hostname=f"host{writes}")
        machine.report(plugins=plugins(hd_encryption={"encrypted": False}, packages=PACKAGES))
        other = {"manager": "dpkg", "packages": [{"name": "zsh", "version": "5"}]}
        made = report(
            2,
            machine.token,
            report_id=f"{writes}-2",
            hostname=f"renamed{writes}",
            plugins=plugins(packages=other, **OFF),
            commands={"uptime": "1 day"},
        )
        died = _dies(machine, made, writes)
        assert machine.send(made).exchange_token == machine.document["exchange"]["token"]
        rows = store.collection("audit_trail").find()
        assert sorted(row["path"] for row in rows if row["report_id"] == made.report_id) == [
            "commands.uptime",
            "hostname",
            "packages.bash",
            "packages.zsh",
            "plugins.firewall.active",
            "plugins.hd_encryption",
        ]
        assert machine.open == ["no-firewall"]
        assert machine.document["generation"] == 2
        assert (store.collection("packages").get(client_id) or {})["packages"] == other["packages"]
        if not died:
            assert writes > (4 if store.atomic else 5)
            return
    pytest.fail("a report took more than 20 writes")


def _dies(machine: Machine, made: Any, writes: int) -> bool:
    dying: Any = DyingStore(machine.store, writes)
    try:
        receive(dying, checks(), machine.client_id, made, address="192.0.2.1", now=machine.now, limits=Limits())
    except Killed:
        return True
    return False


def test_two_that_finish_one_outbox_at_once_do_it_once(machine: Machine) -> None:
    _left_over(machine)
    barrier = threading.Barrier(4)

    def settle(_: int) -> None:
        barrier.wait()
        outbox.settle(machine.store, A)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(settle, range(4)))
    _expect_finished(machine)


def test_an_administrator_who_opened_the_same_issue_meanwhile_keeps_it(machine: Machine) -> None:
    _left_over(machine)
    issues.open_issue(machine.store, checks(), machine.document, "no-firewall", who="tester", now=machine.now)
    outbox.settle(machine.store, A)
    (episode,) = machine.episodes("no-firewall")
    assert episode["source"] == "manual"
    _expect_finished(machine)


def test_an_issue_closed_by_hand_while_its_outbox_was_left_over_stays_closed(machine: Machine) -> None:
    after = _left_over(machine)
    late = {**after}
    outbox.settle(machine.store, A)
    (episode,) = machine.episodes("no-firewall")
    issues.close_issue(machine.store, episode["_id"], who="tester", now=machine.now)
    outbox.finish(machine.store, late)
    assert machine.open == []


def test_another_write_to_the_client_meanwhile_does_not_keep_the_outbox(machine: Machine) -> None:
    after = _left_over(machine)
    machine.store.collection("clients").update(A, lambda client: {**(client or {}), "release": 7})
    outbox.finish(machine.store, after)
    assert machine.document["release"] == 7
    _expect_finished(machine)


def test_a_report_that_loses_the_race_is_planned_anew(machine: Machine) -> None:
    machine.report()
    barrier = threading.Barrier(8)

    def send(number: int) -> None:
        made = report(number, None, sent_at=machine.now, plugins=plugins(**{f"plugin{number}": number}))
        barrier.wait()
        receive(machine.store, checks(), A, made, address="192.0.2.1", now=machine.now, limits=Limits())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(10, 18)))
    document = machine.document
    assert sorted(document["recent_reports"][1:]) == [f"report-{number}" for number in range(10, 18)]
    assert document["generation"] == 9
    assert {f"plugins.plugin{number}" for number in range(10, 18)} <= {row[0] for row in machine.trail}


def test_250_simultaneous_first_reports_are_all_stored(store: Store) -> None:
    ids = [f"{number:040X}" for number in range(250)]
    for number, client_id in enumerate(ids):
        enrol(store, client_id, hostname=f"host{number // 2}")

    def send(client_id: str) -> bool:
        machine = Machine(store, client_id, hostname=f"host{int(client_id, 16) // 2}")
        return machine.report(plugins=plugins(**OFF)).duplicate

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(send, ids)) == [False] * 250
    for client_id in ids:
        machine = Machine(store, client_id)
        assert "outbox" not in machine.document
        assert machine.open == ["duplicate-hostname", "no-firewall"]
        assert len(machine.trail) == 2


def test_the_newest_data_of_a_check_are_those_of_the_last_report(machine: Machine) -> None:
    def failing() -> Iterator[list[str]]:
        for off in (True, False, True, True, False):
            machine.report(plugins=plugins(**(OFF if off else {})))
            yield machine.document["failing"]

    assert list(failing()) == [["no-firewall"], [], ["no-firewall"], ["no-firewall"], []]
