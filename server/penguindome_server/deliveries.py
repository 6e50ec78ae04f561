"""What waits for a client: signed actions that were queued for it, handed out with every answer until it acknowledges
them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from penguindome_server.refusals import Refusal
from penguindome_server.store import Document, Store

OPEN_STATES = ("pending", "delivered")
RESULTS = ("done", "failed")
REMEMBER_SECONDS = 1.0
REMEMBER_AT_MOST = 5000
ANSWER_BYTES = 12 << 20


class OpenDeliveries:
    """Knows for which clients anything waits, as of at most a second ago, so that the polls of all others cost the
    store nothing.
    """

    def __init__(self, store: Store, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._until = 0.0
        self._clients: frozenset[str] | None = frozenset()

    def may_exist(self, client_id: str) -> bool:
        """Whether the store has to be asked about this client. Raises StoreUnavailable."""
        if self._monotonic() >= self._until:
            with self._lock:
                if self._monotonic() >= self._until:
                    self._clients = self._read()
                    self._until = self._monotonic() + REMEMBER_SECONDS
        return self._clients is None or client_id in self._clients

    def _read(self) -> frozenset[str] | None:
        """The clients with open deliveries; None if there are too many deliveries to remember."""
        deliveries = self._store.collection("deliveries")
        where = {"state": {"$in": list(OPEN_STATES)}}
        found = [
            delivery["client_id"] for delivery in deliveries.find(where, limit=REMEMBER_AT_MOST, fields=("client_id",))
        ]
        return None if len(found) >= REMEMBER_AT_MOST else frozenset(found)


def pending_actions(store: Store, client_id: str, *, now: datetime) -> list[dict[str, Any]]:
    """The signed actions that wait for this client, oldest first: `id`, `text` and `signature` of each. They count as
    delivered then.
    """
    actions: list[dict[str, Any]] = []
    size = 0
    for delivery in _open_deliveries(store, client_id):
        action = store.collection("patches").get(delivery["action_id"])
        if action is None or _is_over(action, now):
            continue
        size += len(action["text"])
        if actions and size > ANSWER_BYTES:
            break
        actions.append({"id": action["_id"], "text": action["text"], "signature": action["signature"]})
        if delivery["state"] == "pending":
            store.collection("deliveries").update(delivery["_id"], _delivered(now))
    return actions


def acknowledge(store: Store, client_id: str, action_id: str, *, state: str, result: Any, now: datetime) -> None:
    """Note the outcome (`done` or `failed`) of an action on a client; the first one told stays. Raises Refusal."""

    def change(document: Document | None) -> Document | None:
        if document is None or document["state"] in RESULTS:
            return None
        return {**document, "state": state, "finished_at": now, "result": result}

    if store.collection("deliveries").update(f"{action_id}:{client_id}", change).after is None:
        raise Refusal("not-found", "no such action was queued for this client")


def _open_deliveries(store: Store, client_id: str) -> list[Document]:
    where = {"client_id": client_id, "state": {"$in": list(OPEN_STATES)}}
    return sorted(store.collection("deliveries").find(where), key=lambda delivery: delivery["queued_at"])


def _is_over(action: Document, now: datetime) -> bool:
    expires_at = action.get("expires_at")
    return expires_at is not None and bool(now >= expires_at)


def _delivered(now: datetime) -> Callable[[Document | None], Document | None]:
    def change(document: Document | None) -> Document | None:
        if document is None or document["state"] != "pending":
            return None
        return {**document, "state": "delivered", "delivered_at": now}

    return change
