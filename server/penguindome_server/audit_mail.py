"""The mail that tells what the periodic audit found.

It goes out when something is past its grace period that the last one did not tell, and otherwise once a day for as long
as there is anything. Host names and descriptions are in its text alone, escaped, never in a header.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from email.message import EmailMessage
from itertools import groupby

from penguindome.logging import one_line
from penguindome.settings import Settings
from penguindome_server import mail
from penguindome_server.audit import AuditResult
from penguindome_server.issues import Listed
from penguindome_server.store import Store

TELL_AGAIN = timedelta(days=1)
SHOWN_AT_MOST = 200
# Issues are remembered by the beginning of their ids, so that those of a large fleet fit into one document.
REMEMBERED_LENGTH = 8
REMEMBERED_AT_MOST = 50_000
_DOCUMENT = "audit_mail"


def is_due(store: Store, result: AuditResult, *, now: datetime) -> bool:
    """Whether these findings are to be told now."""
    if not result.found_problems:
        return False
    last = store.collection("server_state").get(_DOCUMENT)
    if last is None or now - last["told_at"] >= TELL_AGAIN or (result.warnings and not last["warned"]):
        return True
    told = set(last["told"])
    return any(short not in told for short in _short_ids(result))


def note_told(store: Store, result: AuditResult, *, now: datetime) -> None:
    """Remember that these findings were told."""
    told = {"_id": _DOCUMENT, "told_at": now, "told": _short_ids(result), "warned": bool(result.warnings)}
    store.collection("server_state").update(_DOCUMENT, lambda _before: told)


def compose(settings: Settings, result: AuditResult, *, now: datetime) -> EmailMessage:
    """The mail to `audit.mail_to` about these findings."""
    machines = len({issue.client_id for issue in result.past_grace})
    subject = f"[PenguinDome] {_count(len(result.past_grace), 'problem')} on {_count(machines, 'machine')}"
    if not result.past_grace:
        subject = "[PenguinDome] warning about the fleet"
    text = "\n".join(_lines(result))
    return mail.message(settings, mail.addresses(settings["audit.mail_to"]), subject, text, clock=lambda: now)


def _lines(result: AuditResult) -> Iterator[str]:
    for warning in result.warnings:
        yield from (f"Warning: {warning}", "")
    shown = result.past_grace[:SHOWN_AT_MOST]
    # The machine with the worst problem first, and its others below it.
    order = {client_id: place for place, client_id in reversed(list(enumerate(issue.client_id for issue in shown)))}
    shown.sort(key=lambda issue: (order[issue.client_id], issue.rank))
    for _client_id, issues in groupby(shown, key=lambda issue: issue.client_id):
        yield from _machine(list(issues))
    left = len(result.past_grace) - len(shown)
    if left:
        yield from (f"And {left} more.", "")
    if result.in_grace:
        yield from (f"{_count(len(result.in_grace), 'problem')} more within grace: penguindome issues list --all", "")
    yield "On the server, `penguindome issues list` shows what is open now."


def _machine(issues: Sequence[Listed]) -> Iterator[str]:
    yield one_line(issues[0].hostname)
    for issue in issues:
        yield f"  {one_line(issue.name)} ({one_line(issue.severity)}), since {issue.since_at:%Y-%m-%d %H:%M} UTC"
        for text in (issue.description, issue.remedy):
            if text:
                yield f"    {one_line(text)}"
    yield ""


def _short_ids(result: AuditResult) -> list[str]:
    return [issue.issue_id[:REMEMBERED_LENGTH] for issue in result.past_grace[:REMEMBERED_AT_MOST]]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
