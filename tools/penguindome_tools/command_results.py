"""What came of a command on clients: shown, and waited for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import click

from penguindome import json
from penguindome_server.action_records import Batch, deliveries_of
from penguindome_server.deliveries import OPEN_STATES, TRYING
from penguindome_server.store import Document
from penguindome_tools.action_display import delivery_row
from penguindome_tools.context import Context
from penguindome_tools.output import safe

LOOK_SECONDS = 0.5
INTERRUPTED = 130
_LOOKED_AT = ("result.attempt", "result.exit_status")


def print_result(delivery: Document) -> None:
    """Show a delivery's state, and the result that the client told: status in a line, output below it, indented."""
    result = delivery.get("result")
    result = result if isinstance(result, Mapping) else {}
    words = [safe(delivery["state"])]
    if result.get("status") == TRYING and delivery["state"] in OPEN_STATES:
        words.append("tried, and to be tried again")
    if result.get("exit_status") is not None:
        words.append(f"exit status {safe(result['exit_status'])}")
    if result.get("attempt") is not None:
        words.append(f"attempt {safe(result['attempt'])}")
    if delivery.get("finished_at"):
        words.append(safe(delivery["finished_at"]))
    if result.get("reason") and result.get("exit_status") is None:
        words.append(safe(result["reason"]))
    click.echo(f"{safe(delivery['hostname'])} {safe(delivery['client_id'])[:8]}: {', '.join(words)}")
    for stream, mark in (("output", "|"), ("error", "!")):
        for line in _lines(result.get(stream)):
            click.echo(f"  {mark} {line}")
    if result.get("truncated"):
        click.echo("  (cut: there was more output than is kept)")


def _lines(text: Any) -> list[str]:
    """The lines of what a client sent, made harmless; only newlines break lines."""
    if not isinstance(text, str) or not text:
        return []
    return [safe(line.removesuffix("\r")) for line in text.removesuffix("\n").split("\n")]


def wait_for_results(context: Context, batch: Batch, *, timeout: timedelta | None, as_json: bool) -> int:
    """Show each client's result as it comes; the exit status: 0 if all exited with 0, 1 otherwise.

    With `as_json`, each is one line; the id of the command goes to stderr. Ctrl-C leaves the command queued.
    """
    try:
        click.echo(batch.id, err=True)
        return _wait(context, batch, timeout=timeout, as_json=as_json)
    except KeyboardInterrupt:
        click.echo(f"\nThe command stays queued. {_later(batch)}", err=True)
        return INTERRUPTED


def _wait(context: Context, batch: Batch, *, timeout: timedelta | None, as_json: bool) -> int:
    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    shown: set[str] = set()
    attempts: dict[str, Any] = {}
    succeeded = True
    while True:
        waiting = []
        # The audit says what has expired; nobody has to wait for it here.
        is_over = context.clock() >= batch.record["expires_at"]
        for delivery in deliveries_of(context.store, batch, fields=_LOOKED_AT):
            if delivery["_id"] in shown:
                continue
            if delivery["state"] in OPEN_STATES and not is_over:
                waiting.append(safe(delivery["hostname"]))
                _show_attempt(delivery, attempts)
            else:
                shown.add(delivery["_id"])
                succeeded &= _show_end(context, delivery["_id"], as_json=as_json)
        if not waiting:
            return 0 if succeeded else 1
        if deadline is not None and time.monotonic() >= deadline:
            click.echo(f"No result yet from {', '.join(waiting)}. {_later(batch)}", err=True)
            return 1
        time.sleep(LOOK_SECONDS)


def _show_end(context: Context, key: str, *, as_json: bool) -> bool:
    """Show the result of one client; says whether it exited with 0."""
    delivery = context.store.collection("deliveries").get(key)
    if delivery is None:
        return False
    if as_json:
        click.echo(json.dumps(delivery_row(delivery)))
    else:
        print_result(delivery)
    result = delivery.get("result")
    return delivery["state"] == "done" and isinstance(result, Mapping) and result.get("exit_status") == 0


def _show_attempt(delivery: Document, attempts: dict[str, Any]) -> None:
    """Say on stderr that an attempt failed, once."""
    result = delivery.get("result")
    if isinstance(result, Mapping) and attempts.get(delivery["_id"]) != result.get("attempt"):
        attempts[delivery["_id"]] = result.get("attempt")
        said = f"attempt {safe(result.get('attempt'))} ended with exit status {safe(result.get('exit_status'))}"
        click.echo(f"{safe(delivery['hostname'])}: {said}, and it is tried again", err=True)


def _later(batch: Batch) -> str:
    name = batch.short_id
    return f"See its results with: penguindome command result {name}; cancel it with: penguindome command cancel {name}"
