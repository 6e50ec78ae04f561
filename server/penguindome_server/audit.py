"""The periodic audit: what time alone brings, what changed checks bring, and what a crash left over.

1. Outboxes that nobody has finished are finished, expired enrolment tokens are deleted; actions that have expired, or
   wait for a client that has left the fleet, are ended (`action_ends.tidy`).
2. Clients whose last report was evaluated with other checks are evaluated again; issues that do not fit what is
   known of a client are mended.
3. `not-reporting`: nothing reported for `not_reporting_after` (by the calendar; the issue's grace period is
   business time). A client that never reported counts from its enrolment; one that is not enrolled never counts.
   Closed by hand, it stays closed until the client has reported and fallen silent again.
4. `pending-patches`: something waits for a client for longer than `pending_patches_after`. 5. `duplicate-hostname`,
   wherever names collide.
6. Open issues of clients that are revoked, replaced or gone are closed.
7. A warning when more of the fleet than `unseen_percent` has not been seen for `unseen_after` of business time:
   then it is rather the network or this server.
8. `release-not-taken`: a client that reports has not taken the release that it should have for
   `release_not_taken_after`. Releases that fail on too many clients are halted, and a warning says so.
9. `repository-expiring` and `certificate-expiring`: issues of the server itself (see `server_issues.py`).

The fleet is read once, as a stream of a few fields of each document; whole documents are read only of those clients
that something is done to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from penguindome_server import (
    action_ends,
    audit_changes,
    duplicates,
    halting,
    outbox,
    rollout,
    server_issues,
)
from penguindome_server.audit_changes import Findings
from penguindome_server.business_time import BusinessTime, Values, from_settings
from penguindome_server.checks import CheckSet
from penguindome_server.evaluation import checks_digest
from penguindome_server.issue_kinds import CERTIFICATE_EXPIRING, DUPLICATE_HOSTNAME, REPOSITORY_EXPIRING
from penguindome_server.issues import Grace, Listed, close_all_issues, list_issues
from penguindome_server.server_issues import SERVER_ID, Expiring
from penguindome_server.store import Document, Store

BATCH = 50
REFRESH_AFTER = timedelta(days=1)
REFRESH_AT_MOST = 1000
KEEP_EXPIRED_TOKENS = timedelta(days=7)
SMALLEST_FLEET = 4

SURVEY_FIELDS = (
    "hostname",
    "state",
    "enrolled_at",
    "reported_at",
    "last_seen_at",
    "failing",
    "raised",
    "release",
    "update_outcome",
    "manual_closes",
    "checks_digest",
    "generation",
    "outbox.generation",
)


@dataclass(frozen=True)
class AuditSettings:
    """When time has brought something. Durations in business time where it says so."""

    business: BusinessTime
    not_reporting_after: timedelta = timedelta(days=7)
    pending_patches_after: timedelta = timedelta(days=7)
    unseen_after: timedelta = timedelta(hours=16)  # business time
    unseen_percent: int = 25
    release_not_taken_after: timedelta = timedelta(days=3)
    halt_after_failures: int = 20  # percent

    @classmethod
    def from_settings(cls, settings: Values) -> AuditSettings:
        """From the server's settings. Raises SettingsError."""
        return cls(
            business=from_settings(settings),
            not_reporting_after=settings["audit.not_reporting_after"],
            release_not_taken_after=settings["audit.release_not_taken_after"],
            halt_after_failures=settings["releases.halt_after_failures"],
        )


@dataclass(frozen=True)
class AuditResult:
    """What is wrong (`past_grace`, the worst first), what is in grace still, warnings about the fleet as a whole, and
    what the audit did.
    """

    past_grace: list[Listed]
    in_grace: list[Listed]
    warnings: list[str]
    clients: int
    changed: int

    @property
    def found_problems(self) -> bool:
        """Whether there is anything that somebody should be told."""
        return bool(self.past_grace or self.warnings)


@dataclass
class _Survey:
    """What one pass over the fleet found."""

    clients: int = 0
    unseen: int = 0
    unfinished: list[str] = field(default_factory=list)
    to_change: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    seen_ids: set[str] = field(default_factory=set)
    holders: dict[str, list[str]] = field(default_factory=dict)
    stays_closed: set[str] = field(default_factory=set)
    reported_at: dict[str, datetime] = field(default_factory=dict)


def audit(
    store: Store, checks: CheckSet, settings: AuditSettings, *, now: datetime, expiring: Expiring | None = None,
    certificates: Expiring | None = None,
) -> AuditResult:  # fmt: skip
    """Audit the fleet, and return everything that is open afterwards. `expiring` is what of the server's own signed
    files is about to expire, `certificates` those of TLS (None: that was not looked at). Raises StoreUnavailable.
    """
    _delete_expired_tokens(store, now)
    halting.halt_failing(store, percent=settings.halt_after_failures, now=now)
    ended = action_ends.tidy(store, now=now)
    grace = Grace(checks, settings.business, now)
    listed = list(list_issues(store, grace))
    opened = _by_client(listed)
    findings = Findings(
        checks,
        settings.not_reporting_after,
        _pending_since(store, settings, now),
        now,
        rollout.offers(store),
        settings.release_not_taken_after,
    )
    survey = _survey(store, settings, opened, findings)
    changed = _settle_all(store, survey.unfinished)
    for batch in _batches(survey.to_change):
        changed += audit_changes.change_many(store, batch, findings, opened)
    changed += _close_gone(store, survey, opened, now)
    changed += _settle_duplicates(store, survey, opened, now)
    changed += _refresh(store, survey, listed)
    for name, found in ((REPOSITORY_EXPIRING, expiring), (CERTIFICATE_EXPIRING, certificates)):
        if found is not None:
            changed += server_issues.settle(store, name, found, now=now)
    if changed:
        del listed, opened
        listed = list(list_issues(store, grace))
    listed.sort(key=lambda issue: issue.rank)
    _remember(store, survey, listed, now)
    return AuditResult(
        past_grace=[issue for issue in listed if not issue.in_grace],
        in_grace=[issue for issue in listed if issue.in_grace],
        warnings=[*_warnings(survey, settings), *_halted(store)],
        clients=survey.clients,
        changed=changed + ended,
    )


def _by_client(issues: Iterable[Listed]) -> dict[str, dict[str, str]]:
    """For each client, the open issues' names with their sources."""
    opened: dict[str, dict[str, str]] = {}
    for issue in issues:
        opened.setdefault(issue.client_id, {})[issue.name] = issue.source
    return opened


def _survey(
    store: Store, settings: AuditSettings, opened: Mapping[str, Mapping[str, str]], findings: Findings
) -> _Survey:
    survey = _Survey()
    digest = checks_digest(findings.checks)
    for client in store.collection("clients").find(fields=SURVEY_FIELDS):
        client_id = client["_id"]
        names = opened.get(client_id, {})
        survey.seen_ids.add(client_id)
        if client.get("outbox"):
            survey.unfinished.append(client_id)
        if client["state"] != "enrolled":
            if names:
                survey.gone.append(client_id)
            continue
        survey.clients += 1
        survey.unseen += _is_unseen(client, settings, findings.now)
        survey.holders.setdefault(client["hostname"], []).append(client_id)
        if client.get("reported_at"):
            survey.reported_at[client_id] = client["reported_at"]
        if any(close["name"] == DUPLICATE_HOSTNAME for close in client.get("manual_closes", ())):
            survey.stays_closed.add(client_id)
        if client.get("outbox") or findings.concern(client, names, digest):
            survey.to_change.append(client_id)
    survey.gone += opened.keys() - survey.seen_ids - {SERVER_ID}
    return survey


def _is_unseen(client: Document, settings: AuditSettings, now: datetime) -> bool:
    last = client.get("last_seen_at") or client.get("reported_at") or client.get("enrolled_at")
    return last is not None and settings.business.elapsed(last, now) > settings.unseen_after


def _pending_since(store: Store, settings: AuditSettings, now: datetime) -> dict[str, list[datetime]]:
    """For each client, when those things were queued that have waited too long."""
    where = {"state": {"$in": ["pending", "delivered"]}, "queued_at": {"$lt": now - settings.pending_patches_after}}
    pending: dict[str, list[datetime]] = {}
    for delivery in store.collection("deliveries").find(where, fields=["client_id", "queued_at"]):
        pending.setdefault(delivery["client_id"], []).append(delivery["queued_at"])
    return pending


def _settle_all(store: Store, client_ids: Iterable[str]) -> int:
    count = 0
    for client_id in client_ids:
        outbox.settle(store, client_id)
        count += 1
    return count


def _in_batches(store: Store, keys: Sequence[str], change: Callable[[str], int]) -> int:
    """Do `change` for each key, several in one commit; returns how many it changed."""

    def work(batch: Sequence[str]) -> int:
        return sum(change(key) for key in batch)

    return sum(store.together(partial(work, batch)) for batch in _batches(keys))


def _batches(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _close_gone(store: Store, survey: _Survey, opened: Mapping[str, Any], now: datetime) -> int:
    def close(client_id: str) -> int:
        return close_all_issues(store, client_id, who="audit", now=now, reason="client-gone")

    return _in_batches(store, [client_id for client_id in survey.gone if client_id in opened], close)


def _settle_duplicates(store: Store, survey: _Survey, opened: Mapping[str, Mapping[str, str]], now: datetime) -> int:
    changed = 0
    clients = store.collection("clients")
    for hostname, ids in survey.holders.items():
        complained = [client_id for client_id in ids if DUPLICATE_HOSTNAME in opened.get(client_id, {})]
        if len(ids) == 1:
            changed += sum(duplicates.close_duplicate(store, client_id, now=now) for client_id in complained)
            continue
        for client_id in {*ids} - {*complained} - survey.stays_closed:
            holder = clients.get(client_id, fields=["hostname", "generation", "state"])
            if holder and holder["hostname"] == hostname and holder["state"] == "enrolled":
                cause = f"audit:{now.isoformat()}"
                changed += duplicates.open_duplicate(store, holder, ids, cause=cause, now=now)
    return changed


def _refresh(store: Store, survey: _Survey, listed: Iterable[Listed]) -> int:
    """Bring `last_seen_at` of issues up to date that reports keep confirming: about once a day, and not many in one
    audit.
    """
    due: dict[str, datetime] = {}
    for issue in listed:
        reported_at = survey.reported_at.get(issue.client_id)
        if issue.source == "check" and reported_at and reported_at - issue.last_seen_at > REFRESH_AFTER:
            due[issue.issue_id] = reported_at
            if len(due) >= REFRESH_AT_MOST:
                break
    issues = store.collection("issues")

    def refresh(issue_id: str) -> int:
        def change(issue: Document | None) -> Document | None:
            if issue is None or issue["state"] != "open" or issue["last_seen_at"] >= due[issue_id]:
                return None
            return {**issue, "last_seen_at": due[issue_id]}

        issues.update(issue_id, change)
        return 1

    return _in_batches(store, list(due), refresh)


def _warnings(survey: _Survey, settings: AuditSettings) -> list[str]:
    if survey.clients < SMALLEST_FLEET or survey.unseen * 100 <= survey.clients * settings.unseen_percent:
        return []
    share = f"{survey.unseen} of {survey.clients} clients"
    advice = "look at the network, the server's address and its certificate before you look at the clients"
    return [f"{share} have not been seen lately (more than {settings.unseen_percent} %): {advice}"]


def _halted(store: Store) -> Iterator[str]:
    for document in halting.halted_by_itself(store):
        number = document["release"]
        advice = f"look at `penguindome release show {number}`, then roll back, resume or halt it, or publish another"
        since = f"{document['halted_at']:%Y-%m-%d %H:%M} UTC"
        yield f"release {number} was halted at {since}: {document['halted_reason']}; {advice}"


def _delete_expired_tokens(store: Store, now: datetime) -> None:
    tokens = store.collection("enrolment_tokens")
    where = {"expires_at": {"$lt": now - KEEP_EXPIRED_TOKENS}}
    if tokens.count(where):
        tokens.delete(where)


def _remember(store: Store, survey: _Survey, listed: Sequence[Listed], now: datetime) -> None:
    summary = {"_id": "audit", "audited_at": now, "clients": survey.clients, "open_issues": len(listed)}
    store.collection("server_state").update("audit", lambda before: {**(before or {}), **summary})
