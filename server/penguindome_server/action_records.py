"""Queued actions as administrators look at them: found by the beginning of their ids, with what became of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penguindome import json
from penguindome.actions import Action
from penguindome.errors import PenguinDomeError, UsageError
from penguindome_server.deliveries import STATES
from penguindome_server.store import Document, Store

SHORTEST_PREFIX = 4
SHOWN_ID = 12
_FIELDS = ("kind", "state", "batch", "actions", "issued_at", "expires_at", "queued_at", "queued_by", "title")


@dataclass(frozen=True)
class Batch:
    """What one command queued: `id` is that of its first action, `actions` are the ids of all."""

    id: str
    actions: tuple[str, ...]
    record: Mapping[str, Any]

    @property
    def short_id(self) -> str:
        """Enough of the id to name it."""
        return self.id[:SHOWN_ID]


def batches(store: Store, kind: str) -> list[Batch]:
    """All that were queued of this kind, newest first."""
    found = store.collection("patches").find({"kind": kind}, fields=_FIELDS)
    heads = [record for record in found if record.get("state") in ("queued", "over")]
    heads.sort(key=lambda record: (record["queued_at"], record["_id"]), reverse=True)
    return [_batch(record) for record in heads]


def find_batch(store: Store, text: str, kind: str) -> Batch:
    """The one of this kind that has an action whose id begins so (four digits or more). Raises UsageError."""
    found = matching_batches(store, text, kind)
    if not found:
        raise UsageError(f"no {kind} has an id that begins with {text!r}", hint=f"see: penguindome {kind} list")
    if len(found) > 1:
        names = ", ".join(batch.short_id for batch in found)
        raise UsageError(f"several have an id that begins with {text!r}: {names}", hint="give more of it")
    return found[0]


def matching_batches(store: Store, text: str, kind: str) -> list[Batch]:
    """Those of this kind that have an action whose id begins so."""
    prefix = text.lower()
    if not re.fullmatch(f"[0-9a-f]{{{SHORTEST_PREFIX},32}}", prefix):
        return []
    patches = store.collection("patches")
    heads = {}
    for record in patches.find({"_id": {"$gte": prefix, "$lt": f"{prefix}g"}}, fields=_FIELDS):
        head = patches.get(record["batch"], fields=_FIELDS) if record.get("state") == "part" else record
        if head is not None and head.get("kind") == kind and head.get("state") in ("queued", "over"):
            heads[head["_id"]] = head
    return [_batch(head) for head in heads.values()]


def deliveries_of(store: Store, batch: Batch, *, fields: Sequence[str] | None = None) -> list[Document]:
    """Its deliveries, by host name; `fields` limits what is fetched."""
    fields = None if fields is None else ("hostname", "client_id", "state", *fields)
    found = store.collection("deliveries").find({"action_id": {"$in": list(batch.actions)}}, fields=fields)
    return sorted(found, key=lambda delivery: (delivery["hostname"], delivery["client_id"]))


def counts_of(store: Store, batch: Batch) -> dict[str, int]:
    """State -> how many deliveries are in it, for states that occur."""
    own, deliveries = {"action_id": {"$in": list(batch.actions)}}, store.collection("deliveries")
    # An index answers this; the deliveries of a large fleet, with the outputs of commands, are not read for it.
    counts = {state: deliveries.count({**own, "state": state}) for state in STATES}
    return {state: count for state, count in counts.items() if count}


def newest_for_client(store: Store, client_id: str, kind: str) -> Batch | None:
    """The newest of this kind that was queued for a client."""
    deliveries = store.collection("deliveries").find({"client_id": client_id}, fields=("kind", "queued_at"))
    own = [delivery for delivery in deliveries if delivery.get("kind") == kind]
    for delivery in sorted(own, key=lambda delivery: delivery["queued_at"], reverse=True):
        found = matching_batches(store, delivery["_id"].partition(":")[0], kind)
        if found:
            return found[0]
    return None


def signed_contents(store: Store, batch: Batch) -> Action:
    """The first action of the batch, as its signed text says. Raises PenguinDomeError when that is damaged."""
    record = store.collection("patches").get(batch.id, fields=("text",))
    if record is None or not isinstance(record.get("text"), str):
        raise PenguinDomeError(f"the text of {batch.short_id} is missing in the store")
    return Action.from_content(json.loads(record["text"]), record["text"].encode())


def _batch(head: Document) -> Batch:
    return Batch(id=head["_id"], actions=tuple(head["actions"]), record=head)


def states_in_words(counts: Mapping[str, int]) -> str:
    """`3 done, 1 pending`."""
    return ", ".join(f"{count} {state}" for state, count in counts.items())
