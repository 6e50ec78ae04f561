"""How queued actions are listed, shown and cancelled, the same for every kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from penguindome_server.action_ends import cancel
from penguindome_server.action_records import (
    Batch,
    batches,
    counts_of,
    deliveries_of,
    find_batch,
    signed_contents,
    states_in_words,
)
from penguindome_server.deliveries import OPEN_STATES
from penguindome_server.enrolment import find_client
from penguindome_server.store import Document
from penguindome_tools.context import Context
from penguindome_tools.output import print_fields, print_json, print_table, safe

LIST_COLUMNS = ("id", "title", "queued_at", "queued_by", "expires_at", "clients")
DELIVERY_COLUMNS = ("client", "client_id", "state", "delivered_at", "finished_at", "reason")


def list_batches(context: Context, kind: str, *, only_open: bool, as_json: bool) -> None:
    """List what was queued of this kind, newest first, with what became of it."""
    rows = [_row(context, batch) for batch in batches(context.store, kind)]
    if only_open:
        rows = [row for row in rows if any(state in row["states"] for state in OPEN_STATES)]
    if not as_json:
        rows = [row | {"id": row["id"][:12], "clients": states_in_words(row["states"])} for row in rows]
    print_table(rows, LIST_COLUMNS, as_json=as_json, empty=f"no {kind} was queued" if not only_open else "none waits")


def _row(context: Context, batch: Batch) -> dict[str, Any]:
    record, counts = batch.record, counts_of(context.store, batch)
    shown = {name: record.get(name) for name in ("title", "queued_at", "queued_by", "expires_at")}
    return {"id": batch.id, **shown, "clients": sum(counts.values()), "states": counts}


def show_batch(context: Context, batch: Batch, *, as_json: bool) -> None:
    """Show all of a batch: what was signed, and what became of it on each client."""
    action = signed_contents(context.store, batch)
    deliveries = deliveries_of(context.store, batch)
    shown = {
        "id": batch.id,
        "kind": action.kind,
        "title": batch.record.get("title"),
        "queued_by": batch.record.get("queued_by"),
        "queued_at": batch.record.get("queued_at"),
        "expires_at": action.expires_at,
        **action.parameters,
    }
    files = [
        {"path": name, "mode": f"{entry.mode:04o}", "size": entry.size, "sha256": entry.sha256}
        for name, entry in action.files.items()
    ]
    if as_json:
        print_json({**shown, "files": files, "clients": [delivery_row(one) for one in deliveries]})
        return
    print_fields({name: value for name, value in shown.items() if value not in (None, [])})
    for file in files:
        click.echo(f"  {safe(file['path'])}  {file['mode']}  {file['size']} bytes  sha256 {file['sha256']}")
    print_table([delivery_row(one) for one in deliveries], DELIVERY_COLUMNS, as_json=False)


def delivery_row(delivery: Document) -> dict[str, Any]:
    """What is shown of one delivery; `result` is what the client told, or null."""
    result = delivery.get("result")
    reason = result.get("reason") if isinstance(result, Mapping) else None
    shown = {name: delivery.get(name) for name in ("client_id", "state", "queued_at", "delivered_at", "finished_at")}
    return {"client": delivery["hostname"], **shown, "reason": reason, "result": result}


def choose(context: Context, deliveries: Sequence[Document], host: str | None) -> list[Document]:
    """Those of these deliveries that are for this client, or all. Raises UsageError when there is none."""
    if host is None:
        return list(deliveries)
    named = [one for one in deliveries if host.lower() == one["hostname"] or one["client_id"].startswith(host.upper())]
    if len({one["client_id"] for one in named}) == 1:
        return named
    client_id = find_client(context.store, host, fields=())["_id"]
    chosen = [one for one in deliveries if one["client_id"] == client_id]
    if not chosen:
        raise click.UsageError(f"it is not for {safe(host)}")
    return chosen


def cancel_batch(context: Context, kind: str, text: str, host: str | None) -> None:
    """Cancel what was queued, for one client or for all that have not finished, and say for whom it may be too late."""
    batch = find_batch(context.store, text, kind)
    deliveries = choose(context, deliveries_of(context.store, batch), host)
    context.acts_on(*(delivery["hostname"] for delivery in deliveries), id=batch.id)
    outcome = cancel(context.store, deliveries, who=context.who, now=context.clock())
    for line in _outcome(outcome.in_time, outcome.maybe_too_late, kind):
        click.echo(line)
    if not (outcome.in_time or outcome.maybe_too_late):
        click.echo("nothing of it was open any more", err=True)


def _outcome(in_time: Sequence[Document], maybe_too_late: Sequence[Document], kind: str) -> Iterator[str]:
    for delivery in in_time:
        yield f"{safe(delivery['hostname'])}: cancelled before it was handed out"
    for delivery in maybe_too_late:
        at = safe(delivery["delivered_at"])
        yield f"{safe(delivery['hostname'])}: cancelled, but handed out at {at}: the {kind} may be carried out there"
