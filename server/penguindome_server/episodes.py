"""Episodes: the documents of `issues`, one for each time that a problem appeared. How they open and close, as data and
in the store.

A transition is data that fits into an outbox: `{"name", "do": "open", ...}` or `{"name", "do": "close", ...}`.
Applying one twice, late, or in two processes at once gives the same:

- An episode's `_id` is made of client, name and what opened it, so that it is inserted once, and not again after
  somebody closed it.
- There is at most one open episode of a client and name (a unique index). Where one is open, opening another adds
  to its details.
- Each episode has the client's `generation` (the count of stored reports and evaluations) that opened it. A
  transition closes only episodes of earlier generations, so that a late one cannot close what came after it.
- What an administrator opened by hand is closed by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from penguindome_server.issue_kinds import Described
from penguindome_server.store import Document, DuplicateKey, Store

HISTORY_LENGTH = 100
LONGEST_DETAIL = 20


def issue_id(client_id: str, name: str, cause: str) -> str:
    """The `_id` of the episode of this issue that `cause` opened."""
    return hashlib.blake2b(f"{client_id}\n{name}\n{cause}".encode(), digest_size=10).hexdigest()


def opening(
    issue: Described, *, source: str, first_seen_at: datetime, details: Mapping[str, Any] | None = None
) -> Document:
    """The transition that opens an issue. `source` is check, audit or server."""
    return {
        "name": issue.name,
        "do": "open",
        "source": source,
        "severity": issue.severity,
        "description": issue.description,
        "remedy": issue.remedy,
        "details": dict(details or {}),
        "first_seen_at": first_seen_at,
    }


def closing(name: str, *, reason: str, last_seen_at: datetime | None = None) -> Document:
    """The transition that closes an issue; `last_seen_at` is when it was last known to be there."""
    return {"name": name, "do": "close", "reason": reason, "last_seen_at": last_seen_at}


def apply(store: Store, client: Document, transition: Document, *, cause: str, generation: int, now: datetime) -> None:
    """Carry a transition out, if that has not been done yet. `client` needs `_id` and `hostname`."""
    if transition["do"] == "open":
        insert(store, new_episode(client, transition, cause=cause, generation=generation, now=now))
    else:
        _close(store, client["_id"], transition, generation=generation, now=now)


def new_episode(
    client: Document, transition: Document, *, cause: str, generation: int, now: datetime, who: str | None = None
) -> Document:
    """The document of an episode that opens now."""
    return {
        "_id": issue_id(client["_id"], transition["name"], cause),
        "client_id": client["_id"],
        "hostname": client["hostname"],
        "name": transition["name"],
        "state": "open",
        "source": transition["source"],
        "severity": transition["severity"],
        "description": transition["description"],
        "remedy": transition["remedy"],
        "details": transition["details"],
        "opened_at": now,
        "first_seen_at": transition["first_seen_at"],
        "last_seen_at": now,
        "closed_at": None,
        "closed_by": None,
        "close_reason": None,
        "manual_closed_at": None,
        "generation": generation,
        "history": [{"done_at": now, "what": "opened", "who": who or transition["source"]}],
    }


def insert(store: Store, episode: Document) -> bool:
    """Add an episode; where one of the same client and name is open already, add to its details. Says whether it was
    added.
    """
    try:
        store.collection("issues").insert(episode)
    except DuplicateKey:
        if episode["details"]:
            _add_details(store, episode)
        return False
    return True


def open_of(store: Store, client_id: str, name: str) -> Document | None:
    """The open episode of this client and name."""
    where = {"client_id": client_id, "name": name, "state": "open"}
    return next(iter(store.collection("issues").find(where, limit=1)), None)


def closed(episode: Document, *, who: str, reason: str, now: datetime) -> Document:
    """This episode, closed. `reason` is `manual` when a person did it."""
    done = {"done_at": now, "what": "closed", "who": who}
    return {
        **episode,
        "state": "closed",
        "closed_at": now,
        "closed_by": who,
        "close_reason": reason,
        "history": [*episode.get("history", ()), done][-HISTORY_LENGTH:],
    }


def _close(store: Store, client_id: str, transition: Document, *, generation: int, now: datetime) -> None:
    def change(episode: Document | None) -> Document | None:
        if episode is None or episode["state"] != "open" or episode["source"] == "manual":
            return None
        if episode["generation"] >= generation:
            return None
        after = closed(episode, who="server", reason=transition["reason"], now=now)
        after["last_seen_at"] = max(transition.get("last_seen_at") or now, episode["last_seen_at"])
        return after

    found = open_of(store, client_id, transition["name"])
    if found is not None:
        store.collection("issues").update(found["_id"], change)


def _add_details(store: Store, episode: Document) -> None:
    def change(stored: Document | None) -> Document | None:
        if stored is None or stored["state"] != "open" or stored["generation"] > episode["generation"]:
            return None
        details = _merged(stored.get("details", {}), episode["details"])
        if details == stored.get("details") and stored["last_seen_at"] >= episode["last_seen_at"]:
            return None
        return {**stored, "details": details, "last_seen_at": max(stored["last_seen_at"], episode["last_seen_at"])}

    found = open_of(store, episode["client_id"], episode["name"])
    if found is not None:
        store.collection("issues").update(found["_id"], change)


def _merged(old: Document, new: Document) -> Document:
    """Details of an episode with newer ones: lists keep what was in them, up to a length; the newest come last."""
    merged = {**old, **new}
    for key, value in new.items():
        if isinstance(value, list) and isinstance(old.get(key), list):
            merged[key] = [*(item for item in old[key] if item not in value), *value][-LONGEST_DETAIL:]
    return merged
