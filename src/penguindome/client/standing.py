"""How this machine stands with its server: gathered from state, spool and manifest, and put into plain words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from penguindome.client import backoff, update_record, update_words

if TYPE_CHECKING:
    from penguindome.client.context import Client

# How long a refused action is told of.
TOLD_OF_REFUSALS = timedelta(days=7)
# A clock that is off by more will be refused by the server.
NOTABLE_OFFSET = 60.0


@dataclass(frozen=True)
class Standing:
    """What `status` tells. `complaints` is empty when all is well; each is one sentence, with what to do about it."""

    server: str
    client_id: str
    hostname: str
    enrolment: str
    enrolled_at: datetime | None
    last_contact_at: datetime | None
    last_delivery_at: datetime | None
    waiting: int
    waiting_bytes: int
    set_aside: int
    dropped: int
    release: int | None
    patches: list[str]
    waiting_actions: list[dict[str, Any]]
    refused_actions: list[dict[str, Any]]
    update: str
    next_try_at: datetime | None
    last_error: str
    last_error_at: datetime | None
    complaints: list[str]

    def to_document(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))


def take(client: Client) -> Standing:
    """Look at everything. Reads only. Raises NotSetUp or NeedsRoot."""
    client.require_setup()
    state, installed, waiting = client.state, client.installed(), client.spool.waiting()
    update = update_record.load(client.paths)
    over = backoff.is_over(state.not_before_at, client.clock())
    return Standing(
        server=client.settings["server.url"],
        client_id=client.identity.client_id,
        hostname=client.identity.hostname,
        enrolment=state.enrolment,
        enrolled_at=state.enrolled_at,
        last_contact_at=client.last_contact(),
        last_delivery_at=state.delivered_at,
        waiting=len(waiting),
        waiting_bytes=sum(entry.size for entry in waiting),
        set_aside=len(client.spool.bad()),
        dropped=state.spool_dropped,
        release=installed.manifest.release if installed.manifest else None,
        patches=installed.overlay.paths if installed.overlay else [],
        waiting_actions=_waiting_actions(client),
        refused_actions=client.records.refusals(),
        update=update_words.standing(client.paths, update),
        next_try_at=None if over else state.not_before_at,
        last_error=state.last_error,
        last_error_at=state.last_error_at,
        complaints=[
            *_about_enrolment(client),
            *_about_exchange(client),
            *_about_files(client, installed.complaints()),
            *(f"An action waits: {why}." for why in state.actions_held_back.values()),
            *_about_refusals(client),
            *update_words.complaints(update),
            *update_words.waiting(client.paths, update, in_force=state.highest_release),
        ],
    )


def _waiting_actions(client: Client) -> list[dict[str, Any]]:
    """Commands and wipes that are still to be done, or told."""
    return [
        {
            "id": record.id,
            "kind": record.kind,
            "title": record.title,
            "attempt": record.attempt,
            "running": record.running,
            "reason": (record.result or {}).get("reason"),
            "done": record.is_final,
            "not_before_at": record.not_before_at,
            "expires_at": record.expires_at,
        }
        for record in client.records.open()
    ]


def _about_enrolment(client: Client) -> list[str]:
    state = client.state
    if state.enrolment == "new":
        return ["The server has not been asked yet to take this machine. Run: sudo penguindome-client enroll"]
    if state.enrolment == "pending":
        return [
            "An administrator must approve this machine: read him its fingerprint (above). Reports are kept meanwhile."
        ]
    if state.enrolment == "refused":
        why = f": {state.enrolment_message}" if state.enrolment_message else ""
        then = "if he gives you a new bundle, run: sudo penguindome-client setup --bundle FILE"
        return [f"The server does not take reports of this machine{why}. They are kept. Ask the administrator; {then}"]
    return []


def _about_exchange(client: Client) -> list[str]:
    state = client.state
    lines = []
    if state.last_error and state.enrolment != "refused":
        hint = f" ({state.last_error_hint})" if state.last_error_hint else ""
        lines.append(
            f"The last exchange with the server failed: {state.last_error}{hint}. Nothing is lost; it is tried again."
        )
    if state.rotation_problem:
        lines.append(
            f"The server seems to have another key ({state.rotation_hint}) than the one that this machine trusts, and"
            f" nothing signed by that is taken: {state.rotation_problem}. Reports are delivered all the same."
            " Tell the administrator."
        )
    if abs(state.clock_offset) >= NOTABLE_OFFSET:
        off = _span(timedelta(seconds=abs(state.clock_offset)))
        which = "behind" if state.clock_offset > 0 else "ahead of"
        lines.append(
            f"This machine's clock is {off} {which} the server's; set it, for example with: timedatectl set-ntp true"
        )
    if state.spool_dropped:
        lines.append(f"{state.spool_dropped} old reports were dropped because too many waited.")
    bad = client.spool.bad()
    if bad:
        lines.append(
            f"{len(bad)} reports were not acceptable to the server and lie in {client.spool.directory} as *.bad."
            " Tell the administrator."
        )
    return lines


def _about_files(client: Client, complaints: list[str]) -> list[str]:
    # A machine that waits for approval cannot have its manifest yet: that is told already.
    if client.state.enrolment != "enrolled" and client.state.highest_release == 0 and len(complaints) == 1:
        return []
    return [f"Verification: {complaint}" for complaint in complaints]


def _about_refusals(client: Client) -> list[str]:
    now = client.clock()
    return [
        f"Refused on {_moment(refusal['refused_at'])}: {refusal['reason']} (action {refusal['id']}). "
        "Tell the administrator."
        for refusal in client.records.refusals()
        if now - refusal["refused_at"] < TOLD_OF_REFUSALS
    ]


def sentences(standing: Standing, now: datetime) -> list[str]:
    """The standing in plain words, a line each."""
    how = {
        "enrolled": "enrolled",
        "pending": "waits for approval",
        "refused": "not accepted",
        "new": "not enrolled yet",
    }[standing.enrolment]
    since = (
        f" since {_moment(standing.enrolled_at)}" if standing.enrolment == "enrolled" and standing.enrolled_at else ""
    )
    lines = [
        f"server:        {standing.server}",
        f"this machine:  {standing.hostname}, {how}{since}",
        f"fingerprint:   {standing.client_id}",
        f"last contact:  {_ago(standing.last_contact_at, now)}",
        f"last report:   {_ago(standing.last_delivery_at, now)}",
        f"waiting:       {_waiting(standing)}",
    ]
    if standing.patches:
        lines.append(f"patches:       {', '.join(standing.patches)}")
    lines += [f"{action['kind'] + ':':<14} {_action(action, now)}" for action in standing.waiting_actions]
    if standing.update:
        lines.append(f"update:        {standing.update}")
    if standing.next_try_at is not None:
        lines.append(f"next try:      in {_span(standing.next_try_at - now)}, at the latest")
    return [*lines, "", *(standing.complaints or ["All is well."])]


def _action(action: dict[str, Any], now: datetime) -> str:
    words = [f"{action['title']} ({action['id']})"]
    if action["running"]:
        words.append(f"is at work, attempt {action['attempt']}")
    elif action["done"]:
        words.append("is over, and the server is still to be told")
    elif action["attempt"] == 0:
        words.append("waits to be started")
    else:
        again = f" in {_span(action['not_before_at'] - now)}" if action["not_before_at"] else " next minute"
        words.append(f"did not succeed in attempt {action['attempt']} ({action['reason']}), and is tried again{again}")
    return ", ".join(words)


def _waiting(standing: Standing) -> str:
    if not standing.waiting:
        return "nothing"
    plural = "s" if standing.waiting > 1 else ""
    return f"{standing.waiting} report{plural} ({standing.waiting_bytes / 1000:.0f} kB)"


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    return f"{_moment(moment)} ({_span(now - moment)} ago)" if now >= moment else _moment(moment)


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _span(span: timedelta) -> str:
    seconds = max(int(span.total_seconds()), 0)
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "less than a minute"
