"""Issues as administrators see them: opened and closed by hand, listed with the time they have left.

The rules by which reports open and close them are in `evaluation.py` and `episodes.py`. One document of the
collection `issues` is one episode: from the moment a problem appears until it is gone. Times of an episode:
`first_seen_at` is when the data was collected that showed it ("failing since"), `opened_at` when the server learnt
of it, `last_seen_at` when it was last known to be there, `closed_at` when it ended.

An issue is *in grace* until as much business time has passed since `first_seen_at` as its check's grace period
says. Nobody is told about it before. What an administrator opens by hand has no grace, and only an administrator
closes it. An issue of a check that an administrator closes opens again when data that was collected later still
shows the problem.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from penguindome.errors import PenguinDomeError, UsageError
from penguindome_server import episodes, outbox
from penguindome_server.business_time import BusinessTime
from penguindome_server.checks import CheckSet
from penguindome_server.issue_kinds import described
from penguindome_server.store import Document, DuplicateKey, Store

SEVERITIES = ("critical", "high", "medium", "low")
MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Listed:
    """An issue for showing. `grace_period` is in business time; `in_grace` says whether it is not over yet. Closed
    ones are never in grace.
    """

    issue_id: str
    client_id: str
    hostname: str
    name: str
    state: str
    source: str
    severity: str
    description: str
    remedy: str
    since_at: datetime
    last_seen_at: datetime
    closed_at: datetime | None
    close_reason: str | None
    in_grace: bool

    @property
    def rank(self) -> tuple[int, str, str]:
        """Sorts the worst first, then by host name."""
        severity = SEVERITIES.index(self.severity) if self.severity in SEVERITIES else len(SEVERITIES)
        return severity, self.hostname, self.name

    def row(self) -> dict[str, Any]:
        """As a row of a table, or an object of JSON."""
        return {
            "id": self.issue_id,
            "client": self.hostname,
            "client_id": self.client_id,
            "issue": self.name,
            "state": self.state,
            "since_at": self.since_at,
            "last_seen_at": self.last_seen_at,
            "closed_at": self.closed_at,
            "close_reason": self.close_reason,
            "severity": self.severity,
            "in_grace": self.in_grace,
            "description": self.description,
            "remedy": self.remedy,
        }


class Grace:
    """Tells for each issue whether it is still in grace; the checks' settings as they are now decide."""

    def __init__(self, checks: CheckSet, business: BusinessTime, now: datetime) -> None:
        self._checks = checks
        self._business = business
        self._now = now
        self._over_since: dict[str, datetime] = {}

    def covers(self, issue: Document) -> bool:
        """Whether this issue is still in grace."""
        if issue["state"] != "open" or issue["source"] == MANUAL:
            return False
        name = issue["name"]
        if name not in self._over_since:
            known = described(self._checks, name)
            self._over_since[name] = self._business.subtract(self._now, known.grace_period if known else timedelta(0))
        over: bool = issue["first_seen_at"] <= self._over_since[name]
        return not over


def list_issues(
    store: Store, grace: Grace, *, client_id: str | None = None, name: str | None = None, state: str | None = "open"
) -> Iterator[Listed]:
    """Issues of one client or all, of one name or all; `state` is open, closed, or None for both. In the order of
    their ids.
    """
    given = {"client_id": client_id, "name": name, "state": state}
    where = {field: value for field, value in given.items() if value is not None}
    # The order of an index, so that a fleet's issues need not be sorted for each part that is read.
    for issue in store.collection("issues").find(where, sort="opened_at" if state and not client_id else None):
        yield _listed(issue, grace)


def open_issues(store: Store, client_id: str) -> list[Document]:
    """The open issues of a client, whole."""
    return list(store.collection("issues").find({"client_id": client_id, "state": "open"}))


def open_issue(
    store: Store,
    checks: CheckSet,
    client: Document,
    name: str,
    *,
    who: str,
    now: datetime,
    severity: str | None = None,
    description: str = "",
    details: str = "",
) -> Document:
    """Open an issue by hand on `client` (its `_id` and `hostname`). Raises UsageError when one of this name is open.

    What is not given is taken from the check of that name, if there is one.
    """
    known = described(checks, name)
    transition = {
        "name": name,
        "do": "open",
        "source": MANUAL,
        "severity": severity or (known.severity if known else "medium"),
        "description": description or (known.description if known else details or name),
        "remedy": known.remedy if known else "",
        "details": {"text": details} if details else {},
        "first_seen_at": now,
    }
    episode = episodes.new_episode(
        client, transition, cause=f"manual:{uuid.uuid4().hex}", generation=client.get("generation", 0), now=now, who=who
    )
    try:
        store.collection("issues").insert(episode)
    except DuplicateKey as error:
        raise UsageError(f"{name} is open on {client['hostname']} already", hint="penguindome issues list") from error
    return episode


def close_issue(store: Store, issue_id: str, *, who: str, now: datetime, reason: str = "") -> Document:
    """Close an issue by hand and return it. Data that was collected before now does not open it again.

    Raises UsageError when there is no such issue, or it is closed.
    """
    issue = store.collection("issues").get(issue_id)
    if issue is None:
        raise UsageError(f"there is no issue {issue_id!r}", hint="penguindome issues list --json shows the ids")
    if issue["state"] != "open":
        raise UsageError(f"issue {issue_id} is closed already")
    updated = store.collection("issues").update(issue_id, lambda found: _closed_by_hand(found, who, now, reason))
    # The client second: what comes between the two still has the name in `failing`, and opens nothing.
    outbox.change_settled(store, issue["client_id"], lambda client: forgotten(client, issue["name"], now))
    if updated.after is None:
        raise PenguinDomeError(f"issue {issue_id} was deleted meanwhile")
    return updated.after


def close_all_issues(store: Store, client_id: str, *, who: str, now: datetime, reason: str) -> int:
    """Close all open issues of a client that is revoked or replaced; returns how many. `reason` says why, in a word."""

    def change(issue: Document | None) -> Document | None:
        if issue is None or issue["state"] != "open":
            return None
        return episodes.closed(issue, who=who, reason=reason, now=now)

    issues = store.collection("issues")
    found = list(issues.find({"client_id": client_id, "state": "open"}, fields=["name"]))
    for issue in found:
        issues.update(issue["_id"], change)
    return len(found)


def forgotten(client: Document, name: str, now: datetime) -> Document:
    """The client, for which an administrator closed this issue at `now`: without this name among what failed at its
    last report, so that newer data brings it anew.
    """
    closes = [close for close in client.get("manual_closes", ()) if close["name"] != name]
    return {
        **client,
        "failing": [failing for failing in client.get("failing", ()) if failing != name],
        "raised": [raised for raised in client.get("raised", ()) if raised != name],
        "manual_closes": [*closes, {"name": name, "closed_at": now}],
    }


def _closed_by_hand(issue: Document | None, who: str, now: datetime, reason: str) -> Document | None:
    if issue is None or issue["state"] != "open":
        return None
    closed = episodes.closed(issue, who=who, reason=MANUAL, now=now)
    closed["manual_closed_at"] = now
    if reason:
        closed["history"][-1] = {**closed["history"][-1], "reason": reason}
    return closed


def _listed(issue: Document, grace: Grace) -> Listed:
    return Listed(
        issue_id=issue["_id"],
        client_id=issue["client_id"],
        hostname=issue["hostname"],
        # Tens of thousands of issues share a few dozen of these texts.
        name=sys.intern(issue["name"]),
        state=sys.intern(issue["state"]),
        source=sys.intern(issue["source"]),
        severity=sys.intern(issue["severity"]),
        description=sys.intern(issue["description"]),
        remedy=sys.intern(issue["remedy"]),
        since_at=issue["first_seen_at"],
        last_seen_at=issue["last_seen_at"],
        closed_at=issue.get("closed_at"),
        close_reason=issue.get("close_reason"),
        in_grace=grace.covers(issue),
    )
