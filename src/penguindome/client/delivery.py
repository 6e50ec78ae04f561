"""Delivering the spool, oldest first, so that nothing is lost and nothing counts twice.

After each `ok` the new exchange token is on disk before the report is deleted. When an answer is lost, the report goes
out again under the same `report_id` with the token that it had, and the server recognises it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from penguindome import json
from penguindome.client import backoff, reports, updates
from penguindome.client.enrolment import note_refusal
from penguindome.client.errors import Refused, ServerError, Unreachable
from penguindome.client.exchange import note_failure, note_success
from penguindome.client.spool import Entry
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import write_atomically
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.context import Client

# The answers that mean "never send this again", and only in our own JSON.
UNACCEPTABLE = frozenset({400, 413, 422})

log = get_logger(__name__)


@dataclass
class Delivery:
    """What became of the spool: how many reports the server acknowledged, called unacceptable, and failed on; whether
    it gave any answer of its own, and whether the last one brought an update.
    """

    delivered: int = 0
    unacceptable: int = 0
    postponed: int = 0
    answered: bool = False
    updated: bool = False
    news: object = None


def deliver(client: Client, *, patient: bool = True) -> Delivery:
    """Send all that waits. With `patient`, reports that the server failed on before wait for their time.

    A report on which the server itself fails (500) does not block those behind it: the next one is tried, and only if
    that fails too is the server left alone. Raises ServerError when an exchange failed; all that was not acknowledged
    is kept.
    """
    result = Delivery()
    _forget_postponed(client)
    for entry in client.spool.waiting():
        if entry.report_id == client.state.delivered_report_id:
            client.spool.remove(entry)
        elif not (patient and _is_postponed(client, entry)):
            try:
                _deliver_one(client, entry, result)
            except PenguinDomeError as error:
                _conclude(client, result, error)
                raise
    _conclude(client, result, None)
    return result


def _deliver_one(client: Client, entry: Entry, result: Delivery) -> None:
    try:
        answer = _send(client, entry)
    except InvalidData as error:
        _set_aside(client, entry, error.message)
        result.unacceptable += 1
    except ServerError as error:
        if isinstance(error, Refused) and error.status in UNACCEPTABLE:
            _set_aside(client, entry, f"{error.message} ({error.reason})")
            result.answered = True
            result.unacceptable += 1
            return
        log.warning("report {} was not delivered and is kept: {}", entry.sequence, error.message)
        if not _server_failed(error) or result.postponed:
            raise
        _postpone(client, entry)
        result.postponed += 1
    else:
        result.news = answer.get("update")
        result.answered = True
        result.delivered += 1
        result.postponed = 0


def _conclude(client: Client, result: Delivery, error: PenguinDomeError | None) -> None:
    """Remember how it went, and take the news that the last answer brought."""
    state = client.state
    if result.answered:
        client.note_contact()
        note_success(state)
    if result.delivered:
        state.enrolment, state.enrolment_message = "enrolled", ""
        result.updated = updates.take(client, result.news)
    if error is not None:
        if isinstance(error, Refused):
            note_refusal(state, error)
        note_failure(state, error, now=client.clock(), seed=client.identity.client_id)
    client.save()


def _send(client: Client, entry: Entry) -> dict[str, Any]:
    state, report, held = client.state, client.spool.read(entry), updates.holdings(client)

    def body(sent_at: datetime) -> dict[str, Any]:
        submission = reports.submission(report, state.exchange_token, now=client.clock(), sent_at=sent_at)
        return {**submission, **held}

    answer = client.exchange.ask("submit", body, client.identity.device_key.sign)
    token = answer.get("exchange_token")
    if answer.get("status") != "ok" or not isinstance(token, str):
        raise Unreachable("the answer to a report makes no sense", hint="is server.url right?", status=200)
    state.exchange_token = token
    state.delivered_report_id = entry.report_id
    state.delivered_at = client.clock()
    state.postponed.pop(entry.report_id, None)
    client.save()
    _keep_copy(client, report)
    client.spool.remove(entry)
    return answer


def _keep_copy(client: Client, report: dict[str, Any]) -> None:
    """Keep what was sent last, for the machine's user to see. A full disk only means that there is no newer copy."""
    sent = {name: report[name] for name in ("report_id", "sequence", "collected_at", "plugins", "commands")}
    sent["next_exchange_token"] = client.state.exchange_token
    try:
        write_atomically(client.last_report, json.dumps(sent), mode=0o600)
    except OSError as error:
        log.warning("no copy of the last report was kept: {}", error)


def _set_aside(client: Client, entry: Entry, why: str) -> None:
    log.error("report {} was set aside: {}", entry.sequence, why)
    client.state.bad_reports += 1
    client.state.postponed.pop(entry.report_id, None)
    client.save()
    client.spool.set_aside(entry)


def _server_failed(error: PenguinDomeError) -> bool:
    """Whether the server broke down over this one request, as far as one can tell."""
    return isinstance(error, (Refused, Unreachable)) and error.status == 500


def _postpone(client: Client, entry: Entry) -> None:
    failures = client.state.postponed.get(entry.report_id, {}).get("failures", 0) + 1
    waiting = backoff.delay(failures, client.identity.client_id)
    client.state.postponed[entry.report_id] = {"failures": failures, "not_before_at": client.clock() + waiting}


def _is_postponed(client: Client, entry: Entry) -> bool:
    postponed = client.state.postponed.get(entry.report_id)
    return postponed is not None and not backoff.is_over(postponed.get("not_before_at"), client.clock())


def _forget_postponed(client: Client) -> None:
    """Forget those that are no longer in the spool."""
    here = {entry.report_id for entry in client.spool.waiting()} if client.state.postponed else set()
    client.state.postponed = {name: value for name, value in client.state.postponed.items() if name in here}
