"""Issues of the server itself: `repository-expiring`, when what it has signed for its clients was not signed anew, and
`certificate-expiring`, when a certificate that it shows for TLS was not renewed.

They are documents of `issues` like those of clients, under a client id that no client can have. Whether they are open
follows from the published files alone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from penguindome_server import episodes
from penguindome_server.issue_kinds import KINDS
from penguindome_server.store import Document, Store

SERVER_ID = "server"
"""In place of a client's id (40 hex digits)."""


@dataclass(frozen=True)
class SignedThing:
    """Something that was signed until a time: its name for people, and the two times. It is told of when less than a
    third of its validity is left (it should have been signed anew at half of it), or another part.
    """

    name: str
    signed_at: datetime
    expires_at: datetime
    told_before: int = 3

    def is_expiring(self, now: datetime) -> bool:
        """Whether it is to be told of."""
        return now > self.expires_at - (self.expires_at - self.signed_at) / self.told_before


@dataclass(frozen=True)
class Expiring:
    """What is about to expire, or has expired; `broken` names what cannot be read."""

    things: Sequence[SignedThing] = ()
    broken: Sequence[str] = ()

    @classmethod
    def of(cls, things: Iterable[SignedThing], broken: Sequence[str], *, now: datetime) -> Expiring:
        """Those of `things` that are expiring."""
        return cls([thing for thing in things if thing.is_expiring(now)], broken)


def settle(store: Store, name: str, expiring: Expiring, *, now: datetime) -> bool:
    """Open or close the issue of this name as `expiring` says; whether anything changed.

    Closed by hand, it stays closed for what it was about.
    """
    found = episodes.open_of(store, SERVER_ID, name)
    if not expiring.things and not expiring.broken:
        if found is None or found["source"] == "manual":
            return False
        _close(store, found, now)
        return True
    if found is not None:
        return False
    details = {
        "signed": [f"{thing.name}: until {thing.expires_at:%Y-%m-%d %H:%M} UTC" for thing in expiring.things],
        "unreadable": list(expiring.broken),
    }
    cause = "\n".join([*details["signed"], *details["unreadable"]])
    transition = episodes.opening(KINDS[name], source="audit", first_seen_at=now, details=details)
    server = {"_id": SERVER_ID, "hostname": socket.gethostname()}
    return episodes.insert(store, episodes.new_episode(server, transition, cause=cause, generation=0, now=now))


def _close(store: Store, found: Document, now: datetime) -> None:
    def change(issue: Document | None) -> Document | None:
        if issue is None or issue["state"] != "open" or issue["source"] == "manual":
            return None
        return {**episodes.closed(issue, who="audit", reason="resolved", now=now), "last_seen_at": now}

    store.collection("issues").update(found["_id"], change)
