"""How deliveries end when it is not the client that ends them: cancelled by an administrator or with the client's
leaving the fleet, or expired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from penguindome_server import action_contents
from penguindome_server.action_queue import sweep
from penguindome_server.deliveries import OPEN_STATES
from penguindome_server.store import Document, Store

TOGETHER = 50
DEAD_AFTER = timedelta(hours=1)
"""A command that has been queueing for so long has died: the slowest takes seconds."""

Change = Callable[[Document | None], Document | None]


@dataclass
class Cancelled:
    """What came of a cancellation. `in_time`: deliveries that had not been handed out; `maybe_too_late`: those that
    had, whose client may carry the action out all the same; `too_late`: those that were left, because they had.
    """

    in_time: list[Document] = field(default_factory=list)
    maybe_too_late: list[Document] = field(default_factory=list)
    too_late: list[Document] = field(default_factory=list)


def cancel(
    store: Store, deliveries: Sequence[Document], *, who: str, now: datetime, only_in_time: bool = False
) -> Cancelled:
    """Cancel those of these deliveries that are open; with `only_in_time` those that were never handed out."""
    outcome = Cancelled()
    open_ones = [delivery["_id"] for delivery in deliveries if delivery["state"] in OPEN_STATES]
    states = ("pending",) if only_in_time else OPEN_STATES
    for before, after in _change_all(store, open_ones, _cancelled(states, who, now)):
        if before["state"] not in OPEN_STATES:
            continue
        if after["state"] in OPEN_STATES:
            outcome.too_late.append(after)
        elif before["state"] == "pending":
            outcome.in_time.append(after)
        else:
            outcome.maybe_too_late.append(after)
    return outcome


def open_for_client(store: Store, client_id: str, *, now: datetime) -> list[Document]:
    """What a client has still to be given, or to do: `kind`, `action_id`, `state`."""
    where = {"client_id": client_id, "state": {"$in": list(OPEN_STATES)}}
    found = store.collection("deliveries").find(where, fields=("kind", "action_id", "state", "expires_at"))
    # The audit ends those that are over.
    return [one for one in found if not isinstance(one.get("expires_at"), datetime) or one["expires_at"] > now]


def cancel_for_client(store: Store, client_id: str, *, who: str, now: datetime) -> int:
    """Cancel all that waits for a client which leaves the fleet; returns how much that was."""
    where = {"client_id": client_id, "state": {"$in": list(OPEN_STATES)}}
    keys = [delivery["_id"] for delivery in store.collection("deliveries").find(where, fields=("state",))]
    return sum(1 for _ in _change_all(store, keys, _cancelled(OPEN_STATES, who, now)))


def tidy(store: Store, *, now: datetime) -> int:
    """What the audit does about actions: it deletes what commands left half queued, ends what has expired, and cancels
    what waits for clients that have left the fleet. Returns how many deliveries and left-overs that were.
    """
    changed = sweep(store, before=now - DEAD_AFTER) + _retire(store, now)
    waiting = store.collection("deliveries").find({"state": {"$in": list(OPEN_STATES)}}, fields=("client_id",))
    clients = {delivery["client_id"] for delivery in waiting}
    for client_id in sorted(clients - _in_the_fleet(store, sorted(clients))):
        changed += cancel_for_client(store, client_id, who="audit", now=now)
    return changed


def _in_the_fleet(store: Store, client_ids: Sequence[str]) -> set[str]:
    found = set()
    for start in range(0, len(client_ids), TOGETHER):
        where = {"_id": {"$in": list(client_ids[start : start + TOGETHER])}}
        for client in store.collection("clients").find(where, fields=("state",)):
            if client["state"] in ("pending", "enrolled"):
                found.add(client["_id"])
    return found


def _retire(store: Store, now: datetime) -> int:
    """End the deliveries of actions that have expired, and delete their contents, which nobody is given any more."""
    patches = store.collection("patches")
    ended = 0
    for head in list(patches.find({"state": "queued", "expires_at": {"$lte": now}}, fields=("actions",))):
        deliveries = store.collection("deliveries").find({"action_id": {"$in": head["actions"]}}, fields=("state",))
        keys = [delivery["_id"] for delivery in deliveries if delivery["state"] in OPEN_STATES]
        ended += sum(1 for _ in _change_all(store, keys, _expired(now)))
        action_contents.forget(store, head["actions"])
        patches.update(head["_id"], _over)
    return ended


def _change_all(store: Store, keys: Sequence[str], change: Change) -> Iterator[tuple[Document, Document]]:
    """Change these deliveries, several in a commit; each that is there, before and after."""

    def work(part: Sequence[str]) -> list[tuple[Document, Document]]:
        updates = [store.collection("deliveries").update(key, change) for key in part]
        return [(one.before, one.after) for one in updates if one.before is not None and one.after is not None]

    for start in range(0, len(keys), TOGETHER):
        yield from store.together(partial(work, keys[start : start + TOGETHER]))


def _cancelled(states: Sequence[str], who: str, now: datetime) -> Change:
    def change(delivery: Document | None) -> Document | None:
        if delivery is None or delivery["state"] not in states:
            return None
        return {**delivery, "state": "cancelled", "finished_at": now, "cancelled_by": who}

    return change


def _expired(now: datetime) -> Change:
    def change(delivery: Document | None) -> Document | None:
        if delivery is None or delivery["state"] not in OPEN_STATES:
            return None
        return {**delivery, "state": "expired", "finished_at": now}

    return change


def _over(head: Document | None) -> Document | None:
    return None if head is None else {**head, "state": "over"}
