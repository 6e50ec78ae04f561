"""What the audit changes about one client: decided by its document alone, and written like a report, with an outbox."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from penguindome_server import episodes, outbox, rollout
from penguindome_server.checks import CheckSet
from penguindome_server.evaluation import checks_digest, evaluate
from penguindome_server.issue_kinds import KINDS, NOT_REPORTING, PENDING_PATCHES, RELEASE_NOT_TAKEN
from penguindome_server.issues import forgotten, open_issues
from penguindome_server.rollout import Offer
from penguindome_server.store import Document, Store
from penguindome_server.update_outcomes import NOT_TAKEN


@dataclass(frozen=True)
class Findings:
    """What the audit knows beside a client's document: `pending` tells since when things wait for each client, `offers`
    who shall have which release.
    """

    checks: CheckSet
    not_reporting_after: timedelta
    pending: Mapping[str, Sequence[datetime]]
    now: datetime
    offers: Sequence[Offer] = ()
    release_not_taken_after: timedelta = timedelta(days=3)

    def silent_since(self, client: Document) -> datetime | None:
        """Since when this enrolled client has been silent for too long; None if it is not, or if somebody closed that
        by hand.
        """
        last: datetime | None = client.get("reported_at") or client.get("enrolled_at")
        if last is None or self.now - last <= self.not_reporting_after or _closed_by_hand(client, NOT_REPORTING, last):
            return None
        return last + self.not_reporting_after

    def waiting_since(self, client: Document) -> datetime | None:
        """Since when something has waited too long for this client, apart from what waited when that was closed by
        hand.
        """
        times = [
            queued
            for queued in self.pending.get(client["_id"], ())
            if not _closed_by_hand(client, PENDING_PATCHES, queued)
        ]
        return min(times, default=None)

    def not_taken(self, client: Document) -> Offer | None:
        """The release that this enrolled client has not taken for too long; None if it has, or is silent, or has tried
        it and failed, or refused it, which is an issue of its own, or if somebody closed that by hand.
        """
        offer = rollout.due(self.offers, client["_id"])
        if offer is None or not client.get("reported_at") or self.silent_since(client) is not None:
            return None
        if (client.get("release") or 0) >= offer.release or self.now - offer.since_at <= self.release_not_taken_after:
            return None
        last = client.get("update_outcome") or {}
        if last.get("release") == offer.release and last.get("status") in NOT_TAKEN:
            return None
        return None if _closed_by_hand(client, RELEASE_NOT_TAKEN, offer.since_at) else offer

    def concern(self, client: Document, opened: Mapping[str, str], digest: str) -> bool:
        """Whether this enrolled client needs a closer look.

        `opened` has its open issues' names and sources, `digest` is that of the checks.
        """
        if (self.silent_since(client) is not None) != (NOT_REPORTING in opened and _ours(opened[NOT_REPORTING])):
            return True
        if (self.waiting_since(client) is not None) != (PENDING_PATCHES in opened and _ours(opened[PENDING_PATCHES])):
            return True
        if (self.not_taken(client) is not None) != (RELEASE_NOT_TAKEN in opened and _ours(opened[RELEASE_NOT_TAKEN])):
            return True
        if not client.get("reported_at"):
            return False
        if client.get("checks_digest") != digest:
            return True
        failing = client.get("failing", [])
        return any(name not in opened for name in failing) or any(
            source == "check" and name not in failing for name, source in opened.items()
        )


Opened = Mapping[str, Mapping[str, str]]
"""For each client, the names of its open issues with their sources."""


def change_many(store: Store, client_ids: Sequence[str], findings: Findings, opened: Opened) -> int:
    """Bring these clients and their issues to what the findings say; returns how many had to be changed.

    `opened` may be a little old: opening what is open, and closing what is closed, does nothing.
    """
    plans = []
    again = []
    for client in store.collection("clients").find({"_id": {"$in": list(client_ids)}}):
        if client.get(outbox.FIELD):
            again.append(client["_id"])
            continue
        names = opened.get(client["_id"], {})
        after = _audited(client, findings, names, _forgotten_names(store, client, names))
        if after is not None:
            plans.append((client, after))

    def work() -> list[str]:
        return [before["_id"] for before, after in plans if not outbox.write(store, before, after)]

    # Who was changed by somebody else meanwhile is looked at anew.
    again += store.together(work) if plans else []
    return len(plans) + sum(change(store, client_id, findings) for client_id in again)


def change(store: Store, client_id: str, findings: Findings) -> bool:
    """Bring one client and its issues to what the findings say; False if there was nothing to do."""
    opened = {issue["name"]: issue["source"] for issue in open_issues(store, client_id)}

    def audited(client: Document) -> Document | None:
        return _audited(client, findings, opened, _forgotten_names(store, client, opened))

    return outbox.change_settled(store, client_id, audited) is not None


def _forgotten_names(store: Store, client: Document, opened: Collection[str]) -> list[tuple[str, datetime]]:
    """Names that the client fails, whose issue was closed by hand, by a command that died before it told the client's
    document.
    """
    found = []
    for name in client.get("failing", ()):
        if name not in opened:
            where = {"client_id": client["_id"], "name": name, "closed_at": {"$gte": client["collected_at"]}}
            closes = store.collection("issues").find(where, fields=["manual_closed_at"])
            times = [issue["manual_closed_at"] for issue in closes if issue.get("manual_closed_at")]
            found += [(name, max(times))] if times else []
    return found


def _audited(
    client: Document, findings: Findings, opened: Mapping[str, str], forgotten_names: Sequence[tuple[str, datetime]]
) -> Document | None:
    """The client's document after the audit, or None when all is as it should be. Pure."""
    if client["state"] != "enrolled":
        return None
    after = client
    for name, closed_at in forgotten_names:
        after = forgotten(after, name, closed_at)
    transitions = list(_time_brings(after, findings, opened))
    if client.get("reported_at"):
        evaluation = evaluate(after, after, findings.checks, collected_at=client["collected_at"])
        transitions += [*_mended(after, findings, opened, evaluation.failing), *evaluation.transitions]
        after = {**after, "failing": evaluation.failing, "manual_closes": evaluation.manual_closes}
    if not transitions and not forgotten_names:
        return None
    generation = client.get("generation", 0) + 1
    raised = [name for name in after.get("raised", ()) if name != NOT_REPORTING]
    if findings.silent_since(after) is not None:
        raised.append(NOT_REPORTING)
    return {
        **after,
        "generation": generation,
        "raised": raised,
        **({"checks_digest": checks_digest(findings.checks)} if client.get("reported_at") else {}),
        "outbox": _outbox(client, generation, transitions, findings.now),
    }


def _time_brings(client: Document, findings: Findings, opened: Mapping[str, str]) -> Iterator[Document]:
    silent_since = findings.silent_since(client)
    if silent_since is not None and NOT_REPORTING not in opened:
        details = {"reported_before": bool(client.get("reported_at"))}
        yield episodes.opening(KINDS[NOT_REPORTING], source="audit", first_seen_at=silent_since, details=details)
    elif silent_since is None and NOT_REPORTING in opened:
        yield episodes.closing(NOT_REPORTING, reason="resolved")
    waiting_since = findings.waiting_since(client)
    if waiting_since is not None and PENDING_PATCHES not in opened:
        yield episodes.opening(KINDS[PENDING_PATCHES], source="audit", first_seen_at=waiting_since)
    elif waiting_since is None and PENDING_PATCHES in opened:
        yield episodes.closing(PENDING_PATCHES, reason="resolved")
    offer = findings.not_taken(client)
    if offer is not None and RELEASE_NOT_TAKEN not in opened:
        # Its grace begins now: the machine may have been switched on a moment ago, and be about to take it.
        offered = {"release": offer.release, "offered_at": offer.since_at}
        yield episodes.opening(KINDS[RELEASE_NOT_TAKEN], source="audit", first_seen_at=findings.now, details=offered)
    elif offer is None and RELEASE_NOT_TAKEN in opened:
        yield episodes.closing(RELEASE_NOT_TAKEN, reason="resolved")


def _mended(
    client: Document, findings: Findings, opened: Mapping[str, str], failing: Collection[str]
) -> Iterator[Document]:
    """Transitions for issues that fit neither what failed before nor what fails now (`failing`): a write was lost, or
    the store was put together from backups.
    """
    before = client.get("failing", ())
    names = {check.name: check for check in findings.checks}
    for name in failing:
        if name in before and name not in opened and name in names:
            yield episodes.opening(names[name], source="check", first_seen_at=client["collected_at"])
    for name, source in opened.items():
        if source == "check" and name not in failing and name not in before:
            yield episodes.closing(name, reason="resolved", last_seen_at=client["reported_at"])


def _outbox(client: Document, generation: int, transitions: Sequence[Document], now: datetime) -> Document:
    return {
        "cause": "audit",
        "generation": generation,
        "hostname": client["hostname"],
        "received_at": now,
        "trail": [],
        "packages": None,
        "issues": list(transitions),
        "hostnames": [],
    }


def _ours(source: str) -> bool:
    return source != "manual"


def _closed_by_hand(client: Document, name: str, since: datetime) -> bool:
    return any(close["name"] == name and close["closed_at"] >= since for close in client.get("manual_closes", ()))
