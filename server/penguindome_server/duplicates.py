"""Host names that several enrolled machines share: an issue on each of them, which closes when one is left.

What is right is decided by what the store holds at the moment; the audit mends what two simultaneous renames may leave.
"""

from __future__ import annotations

from datetime import datetime

from penguindome_server import episodes
from penguindome_server.issue_kinds import DUPLICATE_HOSTNAME, KINDS
from penguindome_server.store import Document, Store

NAMED_AT_MOST = 20


def settle_hostname(store: Store, hostname: str, *, cause: str, now: datetime) -> None:
    """Open `duplicate-hostname` on every enrolled client of this name if there are several, and close it if there are
    not.

    `cause` is what made this necessary, for instance the id of a report; the same cause opens an episode once.
    """
    clients = store.collection("clients").find(
        {"hostname": hostname, "state": "enrolled"}, fields=["hostname", "generation"]
    )
    holders = list(clients)
    issues = store.collection("issues")
    where = {"hostname": hostname, "name": DUPLICATE_HOSTNAME, "state": "open"}
    complained = {
        issue["client_id"]
        for issue in issues.find(where, fields=["client_id", "details"])
        if issue["details"].get("hostname", hostname) == hostname
    }
    if len(holders) > 1:
        ids = [holder["_id"] for holder in holders]
        for holder in holders:
            if holder["_id"] not in complained:
                open_duplicate(store, holder, ids, cause=cause, now=now)
    else:
        for holder in holders:
            close_duplicate(store, holder["_id"], now=now)


def open_duplicate(store: Store, holder: Document, ids: list[str], *, cause: str, now: datetime) -> bool:
    """Open the issue on one holder of the name; `ids` are all of them. Says whether it was not there yet."""
    others = [client_id for client_id in ids if client_id != holder["_id"]][:NAMED_AT_MOST]
    transition = episodes.opening(
        KINDS[DUPLICATE_HOSTNAME],
        source="server",
        first_seen_at=now,
        details={"hostname": holder["hostname"], "other_clients": others},
    )
    episode = episodes.new_episode(holder, transition, cause=cause, generation=holder.get("generation", 0), now=now)
    return episodes.insert(store, episode)


def close_duplicate(store: Store, client_id: str, *, now: datetime) -> bool:
    """Close the issue of this client, if one is open; says whether one was."""
    found = episodes.open_of(store, client_id, DUPLICATE_HOSTNAME)
    if found is None or found["source"] == "manual":
        return False

    def change(episode: Document | None) -> Document | None:
        if episode is None or episode["state"] != "open":
            return None
        return {**episodes.closed(episode, who="server", reason="resolved", now=now), "last_seen_at": now}

    store.collection("issues").update(found["_id"], change)
    return True


def rename(store: Store, client_id: str, hostname: str) -> None:
    """Let the open issues of a client show its new name; a name that somebody else's change has overtaken is left
    alone.
    """
    current = store.collection("clients").get(client_id, fields=["hostname"])
    if current is None or current["hostname"] != hostname:
        return

    def change(issue: Document | None) -> Document | None:
        return None if issue is None or issue["hostname"] == hostname else {**issue, "hostname": hostname}

    issues = store.collection("issues")
    for issue in list(issues.find({"client_id": client_id, "state": "open"}, fields=["hostname"])):
        if issue["hostname"] != hostname:
            issues.update(issue["_id"], change)
