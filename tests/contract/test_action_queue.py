"""Signed actions between the command that queues them and the client, with both engines of the store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from action_material import KINDS, Signer, taken
from penguindome.actions import Target
from penguindome_server import action_contents, deliveries
from penguindome_server.action_ends import cancel, tidy
from penguindome_server.action_queue import ActionConflict, require_free, sweep
from penguindome_server.action_records import batches, counts_of, deliveries_of, find_batch
from penguindome_server.audit import AuditSettings, audit
from penguindome_server.business_time import BusinessTime
from penguindome_server.deliveries import OpenDeliveries, acknowledge, pending_actions
from penguindome_server.enrolment import approve, reject, revoke
from penguindome_server.refusals import Refusal
from penguindome_server.store import Collection, Document, Store
from report_material import NOW, A, B, checks, enrol

LAPTOP, OTHER = Target(A, "laptop"), Target(B, "other")
DAY = timedelta(days=1)
C = "C" * 40
COLLECTIONS = ("patches", "action_contents", "deliveries")


@pytest.fixture
def signer(store: Store) -> Signer:
    """An administrator of a fleet of two."""
    enrol(store)
    enrol(store, B, "other")
    return Signer(store, NOW)


def offered(signer: Signer, client_id: str = A, *, after: timedelta = timedelta(0)) -> list[str]:
    """The ids of what a client is handed."""
    return [offer["id"] for offer in pending_actions(signer.store, client_id, now=signer.now + after)]


def told(signer: Signer, action_id: str, client_id: str = A, **result: Any) -> Document:
    """Tell a result; the delivery afterwards."""
    acknowledge(signer.store, client_id, action_id, result={"status": "done", **result}, now=signer.now)
    return signer.delivery(action_id, client_id)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_queued_is_handed_to_its_targets_whole(signer: Signer, kind: str) -> None:
    action_id = signer.queue(LAPTOP, kind=kind)
    (offer,) = pending_actions(signer.store, A, now=NOW)
    action, contents = taken(offer, signer.key.certificate, LAPTOP, NOW)
    assert (offer["id"], action.id, action.kind) == (action_id, action_id, kind)
    assert contents == {name: content for name, (content, _mode) in KINDS[kind][0].items()}
    assert offered(signer, B) == []


def test_contents_of_eight_megabytes_come_back_as_they_were(signer: Signer) -> None:
    large = bytes(range(256)) * (1 << 15)
    files = {"plugins/large": (large, 0o755), "plugins/same": (b"", 0o644)}
    signer.queue(LAPTOP, files=files)
    (offer,) = pending_actions(signer.store, A, now=NOW)
    _action, contents = taken(offer, signer.key.certificate, LAPTOP, NOW)
    assert contents == {"plugins/large": large, "plugins/same": b""}


def test_an_answer_holds_the_oldest_first_and_no_more_than_it_has_room_for(signer: Signer) -> None:
    ids = []
    for number in range(4):
        signer.now = NOW + timedelta(seconds=number)
        files = {f"plugins/{number}": (bytes([number]) * (3 << 20), 0o644)}
        ids.append(signer.queue(LAPTOP, files=files))
    # Three times 4 MiB of base64 and the texts are more than 12 MiB.
    assert offered(signer) == ids[:2]
    assert [signer.delivery(action_id, A)["state"] for action_id in ids] == [*["delivered"] * 2, *["pending"] * 2]
    told(signer, ids[0])
    assert offered(signer) == ids[1:3]


def test_a_delivery_counts_as_delivered_from_when_it_was_handed_out(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP)
    assert signer.delivery(action_id, A)["state"] == "pending"
    signer.now = NOW + DAY
    offered(signer)
    signer.now = NOW + 2 * DAY
    assert offered(signer) == [action_id]
    delivery = signer.delivery(action_id, A)
    assert (delivery["state"], delivery["delivered_at"]) == ("delivered", NOW + DAY)


class Counting:
    """A store that counts how often it is asked."""

    def __init__(self, real: Store) -> None:
        self._real = real
        self.asked = 0

    def collection(self, name: str) -> Collection:
        self.asked += 1
        return self._real.collection(name)


def test_polls_of_clients_for_which_nothing_waits_ask_the_store_once_in_a_while_together(signer: Signer) -> None:
    signer.queue(LAPTOP)
    counting: Any = Counting(signer.store)
    now = 0.0
    open_deliveries = OpenDeliveries(counting, monotonic=lambda: now)
    for _ in range(3):
        now += deliveries.REMEMBER_SECONDS
        for _ in range(100):
            assert open_deliveries.may_exist(A)
            assert not open_deliveries.may_exist(B)
    assert counting.asked == 3


def damage_text(signer: Signer, action_id: str) -> None:
    signer.store.collection("patches").update(action_id, lambda found: {**(found or {}), "text": "{}"})


def damage_type(signer: Signer, action_id: str) -> None:
    signer.store.collection("patches").update(action_id, lambda found: {**(found or {}), "text": 7})


def lose_action(signer: Signer, action_id: str) -> None:
    signer.store.collection("patches").delete({"_id": action_id})


def lose_contents(signer: Signer, action_id: str) -> None:
    action_contents.forget(signer.store, [action_id])


def change_piece(signer: Signer, action_id: str, data: Any) -> None:
    pieces = signer.store.collection("action_contents")
    (piece,) = pieces.find({"action_id": action_id})
    pieces.update(piece["_id"], lambda found: {**(found or {}), "data": data})


@pytest.mark.parametrize(
    "damage",
    [
        damage_text,
        damage_type,
        lose_action,
        lose_contents,
        lambda signer, action_id: change_piece(signer, action_id, "bm90IHNvCg=="),
        lambda signer, action_id: change_piece(signer, action_id, "no base64!"),
        lambda signer, action_id: change_piece(signer, action_id, None),
    ],
    ids=["text", "type", "no action", "no contents", "other contents", "no base64", "null"],
)
def test_what_is_damaged_is_left_out_and_the_rest_is_handed_out(
    signer: Signer, damage: Callable[[Signer, str], None]
) -> None:
    broken = signer.queue(LAPTOP)
    signer.now = NOW + timedelta(seconds=1)
    good = signer.queue(LAPTOP, kind="command")
    damage(signer, broken)
    assert offered(signer) == [good]
    assert signer.delivery(broken, A)["state"] == "pending"


def test_what_has_expired_is_never_handed_out_and_the_audit_ends_it(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP, OTHER)
    told(signer, action_id, B)
    assert offered(signer, after=7 * DAY) == []
    audit(signer.store, checks(), AuditSettings(BusinessTime()), now=NOW + 7 * DAY)
    assert signer.delivery(action_id, A)["state"] == "expired"
    assert signer.delivery(action_id, B)["state"] == "done"
    assert list(signer.store.collection("action_contents").find()) == []
    assert counts_of(signer.store, find_batch(signer.store, action_id[:8], "patch")) == {"done": 1, "expired": 1}
    assert tidy(signer.store, now=NOW + 8 * DAY) == 0


def test_what_waits_too_long_is_an_issue_until_it_expires(signer: Signer) -> None:
    signer.queue(LAPTOP, kind="wipe", expires_at=NOW + 20 * DAY)
    settings = AuditSettings(BusinessTime(), not_reporting_after=100 * DAY)

    def issues(after: timedelta) -> list[str]:
        result = audit(signer.store, checks(), settings, now=NOW + after)
        return [issue.name for issue in [*result.past_grace, *result.in_grace]]

    assert issues(6 * DAY) == []
    assert issues(8 * DAY) == ["pending-patches"]
    assert issues(20 * DAY) == []


def test_the_first_end_that_a_client_tells_stays(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP, kind="command")
    offered(signer)
    assert told(signer, action_id, exit_status=0)["state"] == "done"
    again = told(signer, action_id, status="failed", exit_status=1)
    assert (again["state"], again["result"]) == ("done", {"status": "done", "exit_status": 0})
    assert offered(signer) == []


def test_a_command_that_is_tried_again_stays_open_with_its_newest_attempt(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP, kind="command")
    offered(signer)
    for attempt, newest in ((1, 1), (2, 2), (1, 2)):
        delivery = told(signer, action_id, status="trying", attempt=attempt, exit_status=attempt)
        assert (delivery["state"], delivery["result"]["attempt"]) == ("delivered", newest)
    # It has the command: it is not given it every minute.
    assert offered(signer) == []
    assert told(signer, action_id, attempt=3, exit_status=0)["state"] == "done"
    late = told(signer, action_id, status="trying", attempt=4)
    assert (late["state"], late["result"]["attempt"]) == ("done", 3)


def test_the_steps_of_a_wipe_that_goes_on_are_those_told_last(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP, kind="wipe")
    offered(signer)
    for steps in (["unmount"], ["unmount", "homes"]):
        delivery = told(signer, action_id, status="trying", attempt=1, steps=steps)
        assert delivery["result"]["steps"] == steps


def test_the_result_of_a_cancelled_action_is_kept_and_it_stays_cancelled(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP)
    offered(signer)
    cancel_all(signer, action_id)
    delivery = told(signer, action_id)
    assert (delivery["state"], delivery["result"]) == ("cancelled", {"status": "done"})


def test_a_client_that_finished_before_the_expiry_that_we_noted_is_believed(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP)
    offered(signer)
    tidy(signer.store, now=NOW + 8 * DAY)
    assert told(signer, action_id)["state"] == "done"


def test_nobody_acknowledges_what_is_not_for_him(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP)
    for name in (action_id, "none"):
        with pytest.raises(Refusal) as caught:
            acknowledge(signer.store, B, name, result={"status": "done"}, now=NOW)
        assert caught.value.status == 404
    assert signer.delivery(action_id, A)["state"] == "pending"


def test_an_output_that_no_document_can_hold_is_cut_and_what_else_is_too_large_is_refused(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP, kind="command")
    result = {"output": "\x1b" * 500_000, "error": "\u20ac" * 500_000, "exit_status": 0}
    delivery = told(signer, action_id, **result)
    assert (delivery["state"], delivery["result"]["truncated"]) == ("done", True)
    assert delivery["result"]["output"].startswith("\x1b\x1b")
    other = signer.queue(LAPTOP, kind="command")
    with pytest.raises(Refusal) as caught:
        told(signer, other, steps=["x" * 1000] * 1000)
    assert caught.value.status == 413


def cancel_all(signer: Signer, action_id: str, **options: Any) -> tuple[int, int, int]:
    found = deliveries_of(signer.store, find_batch(signer.store, action_id, kind_of(signer, action_id)))
    outcome = cancel(signer.store, found, who="tester", now=signer.now, **options)
    return len(outcome.in_time), len(outcome.maybe_too_late), len(outcome.too_late)


def kind_of(signer: Signer, action_id: str) -> str:
    record = signer.store.collection("patches").get(action_id)
    assert record is not None
    return str(record["kind"])


def test_cancelling_tells_for_whom_it_may_be_too_late(signer: Signer) -> None:
    enrol(signer.store, C, "third")
    action_id = signer.queue(LAPTOP, OTHER, Target(C, "third"))
    offered(signer)
    told(signer, action_id, C)
    assert cancel_all(signer, action_id) == (1, 1, 0)
    assert [signer.delivery(action_id, one)["state"] for one in (A, B, C)] == ["cancelled", "cancelled", "done"]
    assert offered(signer) == offered(signer, B) == []


def test_what_was_handed_out_is_not_cancelled_where_only_in_time_will_do(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP, OTHER, kind="wipe")
    offered(signer)
    assert cancel_all(signer, action_id, only_in_time=True) == (1, 0, 1)
    assert [signer.delivery(action_id, one)["state"] for one in (A, B)] == ["delivered", "cancelled"]


def test_of_a_cancellation_and_a_poll_at_the_same_moment_exactly_one_comes_first(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    action_id = signer.queue(LAPTOP, kind="wipe")
    read = deliveries.action_contents.read

    def cancelled_meanwhile(store: Store, action: Any) -> dict[str, bytes]:
        assert cancel_all(signer, action_id, only_in_time=True) == (1, 0, 0)
        return read(store, action)

    monkeypatch.setattr(deliveries.action_contents, "read", cancelled_meanwhile)
    assert offered(signer) == []


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("plugins/x", "plugins/x", True),
        ("plugins/x", "plugins/x/y", True),
        ("plugins/x/y", "plugins/x", True),
        ("plugins/x", "plugins/xy", False),
        ("plugins/x", "commands/x", False),
    ],
)
def test_two_patches_of_one_place_do_not_wait_for_one_client(
    signer: Signer, first: str, second: str, clash: bool
) -> None:
    waiting = signer.queue(LAPTOP, files={first: (b"1", 0o644)})
    signer.queue(OTHER, files={second: (b"2", 0o644)})
    if not clash:
        signer.queue(LAPTOP, files={second: (b"2", 0o644)})
        return
    with pytest.raises(ActionConflict, match=waiting[:12]):
        signer.queue(LAPTOP, files={second: (b"2", 0o644)})
    with pytest.raises(ActionConflict, match=waiting[:12]):
        signer.queue(LAPTOP, files={}, parameters={"remove": [second], "newest_release": 0})
    assert offered(signer) == [waiting]


def test_a_patch_that_was_handed_out_cancelled_or_expired_is_in_nobodys_way(signer: Signer) -> None:
    signer.queue(LAPTOP)
    offered(signer)
    cancel_all(signer, signer.queue(LAPTOP))
    signer.queue(LAPTOP, expires_at=NOW + DAY)
    signer.now = NOW + DAY
    signer.queue(LAPTOP)


def test_one_wipe_at_a_time_waits_for_a_client(signer: Signer) -> None:
    first = signer.queue(LAPTOP, kind="wipe")
    offered(signer)
    with pytest.raises(ActionConflict, match=first[:12]):
        signer.queue(LAPTOP, OTHER, kind="wipe")
    signer.queue(OTHER, kind="wipe")


def test_of_commands_that_race_for_one_path_no_two_win_and_losers_leave_nothing(signer: Signer) -> None:
    won: list[str] = []
    lost: list[ActionConflict] = []
    ready = threading.Barrier(4)
    actions = [signer.action(LAPTOP, OTHER) for _ in range(4)]

    def race(number: int) -> None:
        ready.wait(30)
        try:
            won.append(signer.queue_all([actions[number]], KINDS["patch"][0]))
        except ActionConflict as error:
            lost.append(error)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) + len(lost) == 4
    assert len(won) <= 1
    assert offered(signer) == offered(signer, B) == won
    assert {record["_id"] for record in signer.store.collection("patches").find()} == {*won}
    assert {piece["action_id"] for piece in signer.store.collection("action_contents").find()} == {*won}


def test_targets_of_several_actions_are_one_batch(signer: Signer) -> None:
    batch = [signer.action(LAPTOP), signer.action(OTHER)]
    head = signer.queue_all(batch, KINDS["patch"][0])
    assert offered(signer) == [batch[0].action.id]
    assert offered(signer, B) == [batch[1].action.id]
    for signed in batch:
        found = find_batch(signer.store, signed.action.id[:10], "patch")
        assert found.id == head
        assert [delivery["client_id"] for delivery in deliveries_of(signer.store, found)] == [A, B]
    assert [found.id for found in batches(signer.store, "patch")] == [head]
    assert batches(signer.store, "command") == []


class Died(BaseException):
    """The process is gone."""


class Mortal:
    """A store, or a collection of one, whose process dies after so many writes."""

    def __init__(self, real: Any, left: list[int]) -> None:
        self._real = real
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def collection(self, name: str) -> Collection:
        found: Any = Mortal(self._real.collection(name), self._left)
        return found

    def _write(self, write: Callable[..., Any], *arguments: Any) -> Any:
        if self._left[0] == 0:
            raise Died
        self._left[0] -= 1
        return write(*arguments)

    def insert(self, document: Document) -> None:
        self._write(self._real.insert, document)

    def insert_new(self, documents: list[Document]) -> int:
        # As MongoDB does it: one after the other, so that a crash may leave some of them.
        return sum(self._write(self._real.insert_new, [document]) for document in documents)

    def update(self, key: str, change: Any) -> Any:
        return self._write(self._real.update, key, change)

    def delete(self, where: Any) -> int:
        return int(self._write(self._real.delete, where))

    def together(self, work: Callable[[], Any]) -> Any:
        return work()


def everything(store: Store) -> dict[str, list[str]]:
    """What is there of actions."""
    return {name: [document["_id"] for document in store.collection(name).find()] for name in COLLECTIONS}


def test_a_command_that_dies_after_any_write_leaves_all_of_it_deliverable_or_nothing(signer: Signer) -> None:
    store, files = signer.store, {"plugins/large": (bytes(1_300_000), 0o644), "plugins/x": (b"x", 0o755)}
    writes = 0
    while True:
        batch = [signer.action(LAPTOP, files=files), signer.action(OTHER, files=files)]
        mortal: Any = Mortal(store, [writes])
        signer.store = mortal
        try:
            head = signer.queue_all(batch, files)
        except Died:
            signer.store = store
        else:
            break
        assert offered(signer) == offered(signer, B) == []
        assert batches(store, "patch") == []
        signer.now += timedelta(seconds=1)
        # A living command, which took a little longer, is left alone; what it leaves behind goes whole.
        assert sweep(store, before=signer.now - DAY) == 0
        assert sweep(store, before=signer.now) == (1 if writes else 0)
        assert everything(store) == {name: [] for name in COLLECTIONS}
        writes += 1
    signer.store = store
    # Two actions, four pieces for each, a delivery for each, and the release of them.
    assert writes == 2 + 2 * 4 + 2 + 1
    assert offered(signer) == [head]
    assert offered(signer, B) == [batch[1].action.id]


def test_what_a_dead_command_left_is_in_nobodys_way(signer: Signer) -> None:
    store, mortal = signer.store, Mortal(signer.store, [4])
    signer.store = mortal  # type: ignore[assignment]  # it passes everything on
    with pytest.raises(Died):
        signer.queue(LAPTOP, OTHER)
    assert len(everything(store)["deliveries"]) > 0
    require_free(store, "patch", [LAPTOP], ["plugins/x"], now=NOW)


def test_a_sweeper_that_dies_after_any_write_leaves_its_work_to_the_next(signer: Signer) -> None:
    store = signer.store
    for writes in range(4):
        mortal: Any = Mortal(store, [5])
        signer.store = mortal
        with pytest.raises(Died):
            signer.queue_all([signer.action(LAPTOP), signer.action(OTHER)], KINDS["patch"][0])
        signer.store = store
        dying: Any = Mortal(store, [writes])
        with pytest.raises(Died):
            sweep(dying, before=NOW + DAY)
        sweep(store, before=NOW + DAY)
        assert everything(store) == {name: [] for name in COLLECTIONS}


def test_the_audit_sweeps_what_was_left_an_hour_ago(signer: Signer) -> None:
    mortal: Any = Mortal(signer.store, [2])
    store, signer.store = signer.store, mortal
    with pytest.raises(Died):
        signer.queue(LAPTOP)
    assert tidy(store, now=NOW + timedelta(minutes=59)) == 0
    assert tidy(store, now=NOW + timedelta(minutes=61)) == 1
    assert everything(store) == {name: [] for name in COLLECTIONS}


def test_a_client_that_is_revoked_loses_what_waits_for_it(signer: Signer) -> None:
    action_id = signer.queue(LAPTOP, OTHER)
    revoke(signer.store, A, who="tester", now=NOW)
    assert signer.delivery(action_id, A)["state"] == "cancelled"
    assert signer.delivery(action_id, A)["cancelled_by"] == "tester"
    assert signer.delivery(action_id, B)["state"] == "pending"


def test_a_machine_that_replaces_another_gets_nothing_that_waited_for_it(signer: Signer) -> None:
    enrol(signer.store, C, "laptop", state="pending")
    action_id = signer.queue(LAPTOP)
    approve(signer.store, C, who="tester", now=NOW, replaces=A)
    assert signer.delivery(action_id, A)["state"] == "cancelled"
    assert offered(signer, C) == []


def test_a_client_that_is_rejected_loses_what_waits_for_it(signer: Signer) -> None:
    enrol(signer.store, C, "third", state="pending")
    action_id = signer.queue(Target(C, "third"))
    reject(signer.store, C, who="tester", now=NOW)
    assert signer.delivery(action_id, C)["state"] == "cancelled"


@pytest.mark.parametrize("state", ["revoked", "rejected", "replaced", None])
def test_the_audit_cancels_what_a_crash_left_waiting_for_a_client_that_is_gone(
    signer: Signer, state: str | None
) -> None:
    action_id = signer.queue(LAPTOP, OTHER)
    if state is None:
        signer.store.collection("clients").delete({"_id": A})
    else:
        signer.store.collection("clients").update(A, lambda found: {**(found or {}), "state": state})
    assert tidy(signer.store, now=NOW) == 1
    assert signer.delivery(action_id, A)["state"] == "cancelled"
    assert signer.delivery(action_id, B)["state"] == "pending"
