"""What waits for a client: signed actions that were queued for it, handed out with every answer until it tells what
came of them.

A delivery is one action for one client. Its state: `pending` (never handed out), `delivered`, and then one of `done`,
`failed` (the client's word), `cancelled` (an administrator's, or the client left the fleet) or `expired`. Each step is
a compare-and-swap, so that of a cancellation and a poll at the same moment exactly one comes first. The store decides
nothing but this: what an action is, and for whom, is in its signed text, which the client judges.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

from penguindome import json
from penguindome.actions import Action, ActionRefused
from penguindome.errors import PenguinDomeError
from penguindome.logging import get_logger
from penguindome_server import action_contents
from penguindome_server.refusals import Refusal
from penguindome_server.store import Document, Store

log = get_logger(__name__)

OPEN_STATES = ("pending", "delivered")
RESULTS = ("done", "failed")
TRYING = "trying"
STATES = (*OPEN_STATES, *RESULTS, "cancelled", "expired")
REMEMBER_SECONDS = 1.0
REMEMBER_AT_MOST = 5000
ANSWER_BYTES = 12 << 20
RESULT_BYTES = 900_000
OUTPUT_CHARACTERS = 1 << 16
"""To what the output of a command is cut when its result would not fit into a document."""


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
    """The signed actions that wait for this client, oldest first: `id`, `text`, `signature` and `contents` (base64, by
    name) of each, `ANSWER_BYTES` in all unless the first alone is larger. They count as delivered then.

    What the client tries already it has, and is not given again. What is not whole (a store that was damaged, or a
    command that died while it queued) is left out, and logged.
    """
    answer: list[dict[str, Any]] = []
    room = ANSWER_BYTES
    for delivery in _open_deliveries(store, client_id):
        offer = _whole(store, delivery, now)
        if offer is None:
            continue
        action, signature = offer
        room -= len(action.data) + sum(4 * -(-entry.size // 3) for entry in action.files.values())
        if answer and room < 0:
            break
        try:
            contents = action_contents.read(store, action)
        except ActionRefused as error:
            log.error("{} is not handed to {}: {}", action.id, client_id, error.message)
            continue
        if _hand_over(store, delivery, now):
            encoded = {name: base64.b64encode(content).decode("ascii") for name, content in contents.items()}
            text = action.data.decode("ascii")
            answer.append({"id": action.id, "text": text, "signature": signature, "contents": encoded})
    return answer


def acknowledge(store: Store, client_id: str, action_id: str, *, result: dict[str, Any], now: datetime) -> None:
    """Note what came of an action on a client. `result["status"]`: `done`, `failed`, or `trying` (an attempt failed,
    and there will be another).

    The first end that is told stays; telling it again does nothing. What is told of a cancelled delivery is kept, and
    it stays cancelled; the client may have been faster than the expiry that we noted. Raises Refusal.
    """
    result = _shortened(result)

    def change(document: Document | None) -> Document | None:
        if document is None or _is_known(document.get("result"), result):
            return None
        if result["status"] == TRYING:
            return {**document, "result": result} if document["state"] not in RESULTS else None
        state = "cancelled" if document["state"] == "cancelled" else result["status"]
        return {**document, "state": state, "finished_at": now, "result": result}

    if store.collection("deliveries").update(f"{action_id}:{client_id}", change).after is None:
        raise Refusal("not-found", "no such action was queued for this client")


def _is_known(before: Any, result: dict[str, Any]) -> bool:
    """Whether this, or something later, was told before."""
    if not isinstance(before, dict):
        return False
    if before.get("status") != TRYING:
        return True
    return result["status"] == TRYING and _attempt(result) < _attempt(before)


def _attempt(result: dict[str, Any]) -> int:
    attempt = result.get("attempt")
    return attempt if type(attempt) is int else 0


def _shortened(result: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(result)) <= RESULT_BYTES:
        return result
    cut = {name: result[name][:OUTPUT_CHARACTERS] for name in ("output", "error") if isinstance(result.get(name), str)}
    result = {**result, **cut, "truncated": True}
    if len(json.dumps(result)) > RESULT_BYTES:
        raise Refusal("too-large", "the result is too large, apart from its output")
    return result


def _open_deliveries(store: Store, client_id: str) -> list[Document]:
    where = {"client_id": client_id, "state": {"$in": list(OPEN_STATES)}}
    found = [one for one in store.collection("deliveries").find(where) if one.get("result") is None]
    return sorted(found, key=lambda delivery: (str(delivery.get("queued_at")), delivery["_id"]))


def _whole(store: Store, delivery: Document, now: datetime) -> tuple[Action, str] | None:
    """The action of a delivery and its signature, when it is queued as a whole, readable, and has not expired."""
    action_id = delivery["_id"].partition(":")[0]
    record = store.collection("patches").get(action_id)
    if record is None:
        log.error("the action {} is missing: it is not handed to {}", action_id, delivery["client_id"])
        return None
    if not is_queued(store, record):
        return None
    text, signature = record.get("text"), record.get("signature")
    try:
        if not isinstance(text, str) or not isinstance(signature, str):
            raise ActionRefused("it has no text, or no signature")
        action = _parsed(text)
        if action.id != action_id:
            raise ActionRefused("its text is that of another action")
    except (PenguinDomeError, ValueError) as error:
        log.error("the action {} is damaged, and not handed to {}: {}", action_id, delivery["client_id"], error)
        return None
    return (action, signature) if now < action.expires_at else None


@lru_cache(maxsize=16)
def _parsed(text: str) -> Action:
    """Remembered: what a thousand clients are given within a minute is the same text."""
    return Action.from_content(json.loads(text), text.encode("ascii"))


def is_queued(store: Store, record: Document) -> bool:
    """Whether an action, and all that were queued by the same command, are whole."""
    batch = record.get("batch")
    if record.get("state") == "part" and isinstance(batch, str):
        head = store.collection("patches").get(batch, fields=("state",))
        return head is not None and head.get("state") == "queued"
    return record.get("state") == "queued"


def _hand_over(store: Store, delivery: Document, now: datetime) -> bool:
    """Whether the delivery may go out now, which is noted; somebody may have cancelled it a moment ago."""
    if delivery["state"] == "delivered":
        return True

    def change(document: Document | None) -> Document | None:
        if document is None or document["state"] != "pending":
            return None
        return {**document, "state": "delivered", "delivered_at": now}

    after = store.collection("deliveries").update(delivery["_id"], change).after
    return after is not None and after["state"] == "delivered"
