"""`penguindome wipe`: destroy what people keep on a machine that was lost."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import click

from penguindome.actions import Target
from penguindome.errors import PenguinDomeError, UsageError
from penguindome.times import format_duration
from penguindome_server.action_ends import cancel as cancel_deliveries
from penguindome_server.action_queue import require_free
from penguindome_server.action_records import Batch, deliveries_of, matching_batches, newest_for_client
from penguindome_server.enrolment import find_client
from penguindome_server.store import Document
from penguindome_tools.action_display import list_batches, show_batch
from penguindome_tools.action_signing import Order, lifetime_option, place, rehearse
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import json_option, safe

MACHINE_FIELDS = (
    "hostname",
    "machine_id",
    "address",
    "last_seen_at",
    "reported_at",
    "enrolled_at",
    "package_kind",
)


class WipeGroup(click.Group):
    """A group whose first word may be a host: `wipe laptop7` is `wipe host laptop7`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the command in front when it is left out."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["host", *args]
        return super().parse_args(ctx, args)


@click.group(cls=WipeGroup)
def command() -> None:
    """Wipe a lost machine: the homes, processes and accounts of its users, and with --luks its encrypted disks.

    `penguindome wipe HOST` is short for `penguindome wipe host HOST`.

    \b
    Examples:
      penguindome wipe laptop7 --reason "left in a train"
      penguindome wipe laptop7 --reason "stolen" --luks --confirm laptop7
      penguindome wipe show laptop7
      penguindome wipe cancel laptop7
    """


@command.command()
@click.argument("host")
@click.option("--reason", help="Why; it is signed and kept. Asked for on a terminal.")
@click.option("--luks", is_flag=True, help="Destroy the headers of LUKS volumes last: nobody can open them again.")
@click.option("--confirm", "confirmation", metavar="HOSTNAME", help="The host name once more, instead of typing it.")
@lifetime_option("wipe", "90d")
@pass_context
@administrative("wipe host")
def host(
    context: Context, *, host: str, reason: str | None, luks: bool, confirmation: str | None, lifetime: timedelta
) -> None:
    """Wipe HOST as soon as it asks the server; print the id of the wipe.

    It can be cancelled until the machine was handed it. Remember that a thief may never connect it.

    \b
    Examples:
      penguindome wipe laptop7 --reason "left in a train"
      penguindome wipe host laptop7 --reason "stolen" --luks --confirm laptop7
    """
    client = _enrolled(context, host)
    reason = _ask_reason() if reason is None else reason
    target = Target(client["_id"], client["hostname"])
    context.acts_on(target.hostname, client_id=target.client_id, reason=reason, luks=luks)
    order = Order("wipe", reason, lifetime, {"reason": reason, "luks": luks})
    rehearse(order, [target], context.clock())
    require_free(context.store, "wipe", [target], (), now=context.clock())
    click.echo(f"Wipe this machine, when it next asks the server within {format_duration(lifetime)}:", err=True)
    click.echo(f"  client id: {target.client_id}", err=True)
    for name in MACHINE_FIELDS:
        click.echo(f"  {name.replace('_', ' ')}: {safe(client.get(name))}", err=True)
    for line in _what_will_happen(luks=luks):
        click.echo(f"  - {line}", err=True)
    _require_name(target.hostname, confirmation)
    batch_id = place(context, order, [target])
    context.acts_on(id=batch_id)
    click.echo(batch_id)


def _enrolled(context: Context, host: str) -> Document:
    """The client to wipe. Raises UsageError, which says what has become of it if it was one."""
    try:
        return find_client(context.store, host, states=("enrolled",), fields=MACHINE_FIELDS)
    except UsageError as error:
        other = find_client(context.store, host, fields=("replaced_by",))
        hint = "a machine is wiped first, and revoked when it has reported; now it would have to be set up again"
        if other["state"] == "pending":
            hint = f"approve it first: penguindome clients approve {safe(other['_id'])}"
        elif other.get("replaced_by"):
            hint = f"it was replaced by {safe(other['replaced_by'])}"
        raise UsageError(
            f"{other['hostname']} is {other['state']}, and a machine that is not enrolled is given nothing", hint=hint
        ) from error


def _ask_reason() -> str:
    if not sys.stdin.isatty():
        raise click.UsageError("Missing option '--reason'.")
    reason: str = click.prompt("Why it is wiped, for all who read the log", err=True)
    return reason


def _what_will_happen(*, luks: bool) -> list[str]:
    return [
        "network file systems are detached first, and nothing on them is touched",
        "the processes of all human users are killed, their homes deleted, and their accounts too",
        "what was deleted cannot be brought back" + ("" if luks else "; disks are not overwritten"),
        *(["the headers of its LUKS volumes are destroyed: the machine will not start again"] if luks else []),
    ]


def _require_name(hostname: str, confirmation: str | None) -> None:
    """Let the host name be typed, unless it was given. Raises UsageError when it is another."""
    if confirmation is None:
        if not sys.stdin.isatty():
            raise UsageError(
                "a wipe is confirmed with the host name", hint=f"repeat it with --confirm {safe(hostname)}"
            )
        confirmation = click.prompt(f"Type the host name ({safe(hostname)}) to wipe it", default="", show_default=False)
    if confirmation.strip() != hostname:
        raise UsageError(
            f"{confirmation.strip()!r} is not the name of the machine that would be wiped, {hostname!r}",
            hint="nothing was queued",
        )


@command.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only those that have not ended.")
@json_option
@pass_context
def list_command(context: Context, *, only_open: bool, as_json: bool) -> None:
    """List wipes, newest first.

    \b
    Examples:
      penguindome wipe list --open
    """
    list_batches(context, "wipe", only_open=only_open, as_json=as_json)


@command.command()
@click.argument("name", metavar="HOST|ID")
@json_option
@pass_context
def show(context: Context, *, name: str, as_json: bool) -> None:
    """Show a wipe, or the newest one of HOST: what was ordered, and the outcome of each step.

    \b
    Examples:
      penguindome wipe show laptop7
    """
    batch = _find(context, name)
    show_batch(context, batch, as_json=as_json)
    if as_json:
        return
    for delivery in deliveries_of(context.store, batch):
        _show_steps(delivery)


def _show_steps(delivery: Document) -> None:
    result = delivery.get("result")
    steps = result.get("steps") if isinstance(result, Mapping) else None
    for step in steps if isinstance(steps, list) else ():
        click.echo(f"  - {_step(step)}")


def _step(step: Any) -> str:
    """One step that the client told: usually `name`, `outcome` and `detail`."""
    if not isinstance(step, Mapping):
        return safe(step)
    if "name" in step and "outcome" in step:
        detail = f" ({safe(step['detail'])})" if step.get("detail") else ""
        return f"{safe(step['name'])}: {safe(step['outcome'])}{detail}"
    return ", ".join(f"{safe(name)} {safe(value)}" for name, value in step.items())


@command.command("cancel")
@click.argument("name", metavar="HOST|ID")
@pass_context
@administrative("wipe cancel")
def cancel_command(context: Context, *, name: str) -> None:
    """Cancel a wipe, or the newest one of HOST, that was not handed out yet. Exit 1 when it is too late.

    \b
    Examples:
      penguindome wipe cancel laptop7
    """
    batch = _find(context, name)
    deliveries = deliveries_of(context.store, batch)
    context.acts_on(*(delivery["hostname"] for delivery in deliveries), id=batch.id)
    outcome = cancel_deliveries(context.store, deliveries, who=context.who, now=context.clock(), only_in_time=True)
    for delivery in outcome.in_time:
        click.echo(f"{safe(delivery['hostname'])}: cancelled before it was handed out")
    for delivery in outcome.too_late:
        at = safe(delivery["delivered_at"])
        raise PenguinDomeError(
            f"too late: {delivery['hostname']} was handed the wipe at {at}, and nothing can stop it now",
            hint=f"see: penguindome wipe show {batch.short_id}",
        )
    if not outcome.in_time:
        states = ", ".join(f"{one['hostname']} is {one['state']}" for one in deliveries)
        raise PenguinDomeError(f"there is nothing to cancel: {states}", hint=f"penguindome wipe show {batch.short_id}")


def _find(context: Context, name: str) -> Batch:
    """The wipe of this id, or the newest of this client. Raises UsageError when it is not clear which."""
    store = context.store
    found = {batch.id: batch for batch in matching_batches(store, name, "wipe")}
    try:
        client_id = find_client(store, name, fields=())["_id"]
    except UsageError:
        if not found:
            raise
    else:
        newest = newest_for_client(store, client_id, "wipe")
        if newest is not None:
            found[newest.id] = newest
        elif not found:
            raise UsageError(f"no wipe was ever queued for {name!r}", hint="see: penguindome wipe list")
    if len(found) > 1:
        names = ", ".join(batch.short_id for batch in found.values())
        raise UsageError(f"{name!r} may be several wipes: {names}", hint="give more of the id")
    return next(iter(found.values()))
