"""`penguindome audit-trail`: what changed on which client, and when."""

from __future__ import annotations

from typing import Any

import click

from penguindome.times import parse_duration
from penguindome_server.enrolment import find_client
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import json_option, print_table


@click.command()
@click.argument("client", required=False)
@click.option("--since", default="1d", show_default=True, metavar="DURATION", help="How far back: 90m, 12h, 3d, 2w.")
@click.option("--path", "prefix", default="", help="Only changes below this path, e.g. plugins.firewall.")
@json_option
@pass_context
def command(context: Context, *, client: str | None, since: str, prefix: str, as_json: bool) -> None:
    """Show what changed on CLIENT (host name or client id), or on all clients, with old and new values.

    \b
    Examples:
      penguindome audit-trail laptop7 --since 2w
      penguindome audit-trail --path plugins.hd_encryption --json
    """
    try:
        start = context.clock() - parse_duration(since)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error
    where: dict[str, Any] = {"received_at": {"$gte": start}}
    if client is not None:
        where["client_id"] = find_client(context.store, client)["_id"]
    rows = [
        {**row, "at": row["received_at"]}
        for row in context.store.collection("audit_trail").find(where, sort="received_at")
        if row["path"].startswith(prefix)
    ]
    columns = ["at", "hostname", "path", "change", "old", "new"]
    print_table(rows, columns, as_json=as_json, empty=f"no change since {since} ago")
