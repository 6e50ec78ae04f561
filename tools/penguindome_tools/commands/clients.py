"""`penguindome clients`: who is there, who waits, and what is decided about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from penguindome.errors import UsageError
from penguindome_server.action_ends import open_for_client
from penguindome_server.action_records import SHOWN_ID
from penguindome_server.enrolment import STATES, approve, conflicts, find_client, predecessors, reject, revoke
from penguindome_server.store import Document
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import confirm, json_option, print_fields, print_json, print_table, safe

FIELDS = (
    "state",
    "hostname",
    "machine_id",
    "address",
    "requested_at",
    "enrolled_at",
    "enrolled_by",
    "last_seen_at",
    "reported_at",
    "package_version",
    "package_kind",
    "release",
    "failing",
    "previous_hostnames",
    "replaces",
    "replaced_by",
)
COLUMNS = ("hostname", "state", "client_id", "address", "last_seen_at", "reported_at", "failing")

_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def command() -> None:
    """List clients, and decide about them. CLIENT is a host name, a client id, or the beginning of one.

    \b
    Examples:
      penguindome clients list --state pending
      penguindome clients approve laptop7
      penguindome clients approve 5A3F --replaces laptop7     after laptop7 was installed anew
      penguindome clients revoke laptop7                      when it was lost; to wipe it, do that first
    """


@command.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only clients in this state.")
@json_option
@pass_context
def list_command(context: Context, *, state: str | None, as_json: bool) -> None:
    """List all clients, by host name.

    \b
    Examples:
      penguindome clients list --state pending
      penguindome clients list --json | jq -r '.[] | select(.failing != []) | .hostname'
    """
    where = {"state": state} if state else None
    found = context.store.collection("clients").find(where, fields=FIELDS)
    rows = sorted((_row(document) for document in found), key=lambda row: (row["hostname"], row["client_id"]))
    if not as_json:
        rows = [row | {"failing": len(row["failing"] or ())} for row in rows]
    print_table(rows, COLUMNS, as_json=as_json, empty="no clients; begin with: penguindome enrolment export FILE")


@command.command()
@click.argument("client")
@json_option
@pass_context
def show(context: Context, *, client: str, as_json: bool) -> None:
    """Show all that is known of a client, the last report included.

    \b
    Examples:
      penguindome clients show laptop7
      penguindome clients show laptop7 --json | jq .plugins.os_info
    """
    document = find_client(context.store, client)
    shown = {"client_id": document["_id"]} | {key: document[key] for key in document if key not in _NOT_SHOWN}
    if earlier := [one["_id"] for one in predecessors(context.store, document)]:
        shown["predecessors"] = earlier
    if as_json:
        print_json(shown)
    else:
        print_fields(shown)


@command.command("approve")
@click.argument("client")
@click.option("--replaces", metavar="OLD", help="The client that this machine was before it was installed anew.")
@_yes_option
@pass_context
@administrative("clients approve")
def approve_command(context: Context, *, client: str, replaces: str | None, yes: bool) -> None:
    """Enrol a client that waits, after comparing its id with the one that the machine shows.

    On the machine, `penguindome-client status` shows the id.

    \b
    Examples:
      penguindome clients approve laptop7
      penguindome clients approve 5A3F --replaces laptop7
    """
    states = ("pending", "enrolled") if replaces else ("pending",)
    document = _waiting_first(context, client, states)
    old = None if replaces is None else _other_than(context, replaces, document["_id"])
    old_id = old["_id"] if old else None
    context.acts_on(document["hostname"], client_id=document["_id"], replaces=old_id)
    others = [one for one in _conflicts(context, document) if old is None or one["_id"] != old["_id"]]
    for other in others:
        click.echo(f"warning: {_described(other)} has the same host name or machine-id", err=True)
    if others:
        confirm(f"Enrol {_described(document)} beside it?", yes=yes)
    if old is not None:
        _show_waiting(context, old, cancel_wipe=True)
        confirm(f"Let {_described(document)} replace {_described(old)}?", yes=yes)
    after = approve(context.store, document["_id"], who=context.who, now=context.clock(), replaces=old_id)
    click.echo(f"{_described(after)}")


@command.command("reject")
@click.argument("client")
@_yes_option
@pass_context
@administrative("clients reject")
def reject_command(context: Context, *, client: str, yes: bool) -> None:
    """Refuse a client that waits, for good; the machine can only ask again with a new key.

    \b
    Example:
      penguindome clients reject 5A3F
    """
    document = find_client(context.store, client, states=("pending",))
    context.acts_on(document["hostname"], client_id=document["_id"])
    confirm(f"Reject {_described(document)}?", yes=yes)
    click.echo(_described(reject(context.store, document["_id"], who=context.who, now=context.clock())))


@command.command("revoke")
@click.argument("client")
@_yes_option
@click.option("--cancel-wipe", is_flag=True, help="Even if a wipe waits for it, which is cancelled.")
@pass_context
@administrative("clients revoke")
def revoke_command(context: Context, *, client: str, yes: bool, cancel_wipe: bool) -> None:
    """Refuse an enrolled client from now on, within five seconds; its repository credentials end too.

    What waits for it is cancelled, and it cannot be wiped any more: wipe it first, and revoke it when it has reported.

    \b
    Examples:
      penguindome clients revoke laptop7
      penguindome clients revoke laptop7 --yes
      penguindome clients revoke laptop7 --cancel-wipe        after it was found
    """
    document = find_client(context.store, client, states=("enrolled",))
    _show_waiting(context, document, cancel_wipe=cancel_wipe)
    context.acts_on(document["hostname"], client_id=document["_id"])
    confirm(f"Revoke {_described(document)}?", yes=yes)
    click.echo(_described(revoke(context.store, document["_id"], who=context.who, now=context.clock())))


def _show_waiting(context: Context, document: Document, *, cancel_wipe: bool) -> None:
    """Say what ends with a client. Raises UsageError when that is a wipe, which nobody gives up by the way."""
    waiting = open_for_client(context.store, document["_id"], now=context.clock())
    for one in waiting:
        name = f"the {safe(one.get('kind'))} {safe(one['action_id'])[:SHOWN_ID]} ({safe(one['state'])})"
        click.echo(f"warning: {name} waits for it, and is cancelled with it", err=True)
    if any(one.get("kind") == "wipe" for one in waiting) and not cancel_wipe:
        raise UsageError(
            f"a wipe of {document['hostname']} has not ended, and would never",
            hint=f"see: penguindome wipe show {safe(document['hostname'])}; to give it up, repeat with --cancel-wipe",
        )


_NOT_SHOWN = {"_id", "_version", "exchange", "repository_secret_hash", "outbox", "recent_reports", "trail_bytes"}


def _row(document: Document) -> dict[str, Any]:
    return {"client_id": document["_id"]} | {name: document.get(name) for name in FIELDS}


def _described(document: Document) -> str:
    return f"{safe(document['_id'])} {safe(document['hostname'])} ({safe(document['state'])})"


def _waiting_first(context: Context, client: str, states: tuple[str, ...]) -> Document:
    """The client to approve: among several of one name, the one that waits is meant."""
    fields = ("machine_id", "signing_key")
    if "enrolled" in states:
        pending = [one for one in _of_name(context, client) if one["state"] == "pending"]
        if len(pending) == 1:
            return find_client(context.store, pending[0]["_id"], fields=fields)
    return find_client(context.store, client, states=states, fields=fields)


def _of_name(context: Context, name: str) -> Iterator[Document]:
    return context.store.collection("clients").find({"hostname": name.lower()}, fields=("state",))


def _other_than(context: Context, text: str, client_id: str) -> Document:
    """The client to be replaced: when both have one name, the one that is not the new one."""
    found = [
        one for one in _of_name(context, text) if one["_id"] != client_id and one["state"] in ("enrolled", "revoked")
    ]
    return find_client(context.store, found[0]["_id"] if len(found) == 1 else text)


def _conflicts(context: Context, document: Document) -> list[Document]:
    return conflicts(context.store, document["_id"], hostname=document["hostname"], machine_id=document["machine_id"])
