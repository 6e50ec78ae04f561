"""Queueing signed actions, so that a crash at any instant leaves all of a command deliverable, or nothing.

One command may make several actions: the text of one has room for a few thousand targets. The first is the head of
the batch. Written are, in this order: the actions (the head, state `queueing`, names all of them; the others have the
state `part`), their contents, a delivery for each target; then the head becomes `queued`, and with this write all of
them may be handed out. A head that stays `queueing` was left by a command that died: `sweep` deletes all that
belongs to it. What has expired is ended by `action_ends.py`, and the head is `over` then.

Two patches that wait for one client may not change the same path, because the later would undo the earlier one
unseen. It is looked for before anything is written, and again when the deliveries are there and nothing may be handed
out yet: of two commands at the same moment at least one sees the other, and withdraws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import ClassVar

from penguindome.actions import Action, Target
from penguindome.errors import PenguinDomeError
from penguindome.logging import get_logger
from penguindome_server import action_contents
from penguindome_server.deliveries import OPEN_STATES, is_queued
from penguindome_server.store import Document, Store

log = get_logger(__name__)

TOGETHER = 200


class ActionConflict(PenguinDomeError):
    """Something that waits for a client already stands against what is to be queued for it."""

    code: ClassVar[str] = "action-conflict"


@dataclass(frozen=True)
class SignedAction:
    """An action as it is handed out; `signature` is armoured."""

    action: Action
    signature: bytes


def queue(
    store: Store,
    batch: Sequence[SignedAction],
    contents: Mapping[str, bytes],
    *,
    title: str,
    who: str,
    now: datetime,
) -> str:
    """Queue the actions of one command, which differ in their targets alone; returns the id of the first, which names
    them all.

    `contents` are the files that they name; `title` is shown to administrators. Raises ActionConflict, and then
    nothing is queued.
    """
    head = batch[0].action.id
    _refuse_conflicts(store, batch, now)
    for record in _records(batch, title=title, who=who):
        store.collection("patches").insert(record)
    for signed in batch:
        action_contents.keep(store, signed.action.id, contents.values())
    deliveries = [delivery for signed in batch for delivery in _deliveries(signed.action, now)]
    for start in range(0, len(deliveries), TOGETHER):
        store.together(partial(store.collection("deliveries").insert_new, deliveries[start : start + TOGETHER]))
    try:
        _refuse_conflicts(store, batch, now)
    except ActionConflict:
        _delete(store, head, [signed.action.id for signed in batch])
        raise
    _release(store, head, now)
    return head


def require_free(store: Store, kind: str, targets: Sequence[Target], paths: Sequence[str], *, now: datetime) -> None:
    """Raise ActionConflict when something that waits for one of these clients forbids to queue this.

    That is a patch of one of these paths (or of a file where this needs a directory, or the other way round), or for a
    wipe another wipe. What a command left half queued, or is queueing now, does not count yet.
    """
    clients = [target.client_id for target in targets]
    for other in _clashes(store, kind, clients, paths, now):
        record = store.collection("patches").get(other["action_id"], fields=("state", "batch"))
        if record is not None and is_queued(store, record):
            raise _conflict(other, paths)


def _refuse_conflicts(store: Store, batch: Sequence[SignedAction], now: datetime) -> None:
    first = batch[0].action
    clients = [target.client_id for signed in batch for target in signed.action.targets]
    own = [signed.action.id for signed in batch]
    for other in _clashes(store, first.kind, clients, paths_of(first), now):
        if other["action_id"] not in own:
            raise _conflict(other, paths_of(first))


def _clashes(
    store: Store, kind: str, clients: Sequence[str], paths: Sequence[str], now: datetime
) -> Iterator[Document]:
    """Deliveries to these clients that stand against an action of this kind."""
    if kind not in ("patch", "wipe"):
        return
    # A patch that was handed out is applied before a later one, and stands against nothing.
    states = ["pending"] if kind == "patch" else list(OPEN_STATES)
    fields = ("action_id", "hostname", "kind", "paths", "expires_at")
    for start in range(0, len(clients), TOGETHER):
        where = {"client_id": {"$in": list(clients[start : start + TOGETHER])}, "state": {"$in": states}}
        for other in store.collection("deliveries").find(where, fields=fields):
            if other.get("kind") == kind and not _is_over(other, now) and (kind == "wipe" or _clash(other, paths)):
                yield other


def _clash(other: Document, paths: Sequence[str]) -> str | None:
    """The first of these paths that lies where the other patch changes something."""
    taken = other.get("paths") or ()
    return next((path for path in paths if any(_same_place(path, place) for place in taken)), None)


def _conflict(other: Document, paths: Sequence[str]) -> ActionConflict:
    kind, name, hostname = other["kind"], other["action_id"][:12], other["hostname"]
    if kind == "wipe":
        return ActionConflict(
            f"the wipe {name} waits for {hostname} already", hint=f"see: penguindome wipe show {name}"
        )
    return ActionConflict(
        f"{_clash(other, paths)} on {hostname} is changed by the patch {name}, which waits already",
        hint=f"wait until it is done, or cancel it: penguindome patch cancel {name}",
    )


def _same_place(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _is_over(delivery: Document, now: datetime) -> bool:
    expires_at = delivery.get("expires_at")
    return expires_at is not None and bool(now >= expires_at)


def paths_of(action: Action) -> list[str]:
    """The paths of the client's tree that a patch puts or takes away, sorted; none for other kinds."""
    return sorted([*action.files, *action.parameters["remove"]]) if action.kind == "patch" else []


def _records(batch: Sequence[SignedAction], *, title: str, who: str) -> Iterator[Document]:
    ids = [signed.action.id for signed in batch]
    for signed in batch:
        action = signed.action
        is_head = action.id == ids[0]
        yield {
            "_id": action.id,
            "kind": action.kind,
            "state": "queueing" if is_head else "part",
            "batch": ids[0],
            "text": action.data.decode("ascii"),
            "signature": signed.signature.decode("ascii"),
            "issued_at": action.issued_at,
            "expires_at": action.expires_at,
            "queued_at": None,
            "queued_by": who,
            "title": title,
            "targets": len(action.targets),
            **({"actions": ids} if is_head else {}),
        }


def _deliveries(action: Action, now: datetime) -> Iterator[Document]:
    for target in action.targets:
        yield {
            "_id": f"{action.id}:{target.client_id}",
            "action_id": action.id,
            "client_id": target.client_id,
            "hostname": target.hostname,
            "kind": action.kind,
            "paths": paths_of(action),
            "queued_at": now,
            "expires_at": action.expires_at,
            "state": "pending",
            "delivered_at": None,
            "finished_at": None,
            "result": None,
        }


def _release(store: Store, head: str, now: datetime) -> None:
    """Let the batch be handed out."""

    def change(record: Document | None) -> Document | None:
        if record is None or record["state"] != "queueing":
            return None
        return {**record, "state": "queued", "queued_at": now}

    after = store.collection("patches").update(head, change).after
    if after is None or after["state"] != "queued":
        raise PenguinDomeError("somebody swept away what was being queued", hint="repeat the command")


def sweep(store: Store, *, before: datetime) -> int:
    """Delete what commands that died left half queued, and had begun before this moment; returns how many batches."""
    patches = store.collection("patches")
    found = list(patches.find({"state": "queueing"}, fields=("issued_at", "actions")))
    left = [record for record in found if record["issued_at"] < before]
    for record in left:
        log.warning("the action {} was queued by a command that died: it is deleted", record["_id"])
        _delete(store, record["_id"], record["actions"])
    return len(left)


def _delete(store: Store, head: str, action_ids: Sequence[str]) -> None:
    """The head goes last: as long as it is there, it tells what else there is."""
    store.collection("deliveries").delete({"action_id": {"$in": list(action_ids)}})
    action_contents.forget(store, action_ids)
    patches = store.collection("patches")
    patches.delete({"_id": {"$in": [action_id for action_id in action_ids if action_id != head]}})
    patches.delete({"_id": head})
