"""`penguindome enrolment`: the bundle that machines enrol with, and one-time tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from penguindome.times import format_duration, parse_duration
from penguindome_server.enrolment_tokens import create_token, list_tokens
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.enrolment_bundle import enrolment_bundle
from penguindome_tools.output import json_option, print_json, print_table, write_output


@click.group()
def command() -> None:
    """Let machines in: export the bundle, make one-time tokens.

    \b
    Examples:
      penguindome enrolment export laptops.bundle       for all machines; each then waits for approval
      penguindome enrolment export --token one.bundle   for one machine, which is enrolled at once
      penguindome enrolment list                        tokens, and whether they were used
    """


def _duration(_ctx: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    try:
        lifetime = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not timedelta(0) < lifetime <= timedelta(days=90):
        raise click.BadParameter("a token lives up to 90 days")
    return lifetime


_expires_option = click.option(
    "--expires",
    "lifetime",
    default="24h",
    show_default=True,
    callback=_duration,
    metavar="DURATION",
    help="How long the token is good: 90m, 12h, 3d, up to 90d.",
)


@command.command()
@click.argument("file")
@click.option("--token", "with_token", is_flag=True, help="Put a one-time token in, instead of the enrolment key.")
@_expires_option
@click.option("--ca", "ca_file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Certificate that clients shall trust for TLS (PEM).")  # fmt: skip
@pass_context
@administrative("enrolment export")
def export(context: Context, *, file: str, with_token: bool, lifetime: timedelta, ca_file: Path | None) -> None:
    """Write the enrolment bundle to FILE, readable by you alone (`-`: standard output).

    It holds the server's URL and certificate, the enrolment key, and the TLS certificate if that is self-signed. Keep
    it like a password: who has it may ask to be enrolled, and nothing else. Then, on the machine:

    \b
      penguindome-client setup --bundle FILE

    \b
    Examples:
      penguindome enrolment export laptops.bundle
      penguindome enrolment export --token --expires 2d one.bundle
    """
    lives = {"token_lives": format_duration(lifetime)} if with_token else {}
    context.acts_on(file, **lives)
    now = context.clock()
    with context.as_root():
        bundle = enrolment_bundle(context.settings, context.paths, now=now, with_key=not with_token, ca_file=ca_file)
    if with_token:
        token = create_token(context.store, who=context.who, now=now, lifetime=lifetime)
        bundle = replace(bundle, token=token)
    with context.as_root():
        write_output(file, bundle.to_text())


@command.command()
@_expires_option
@pass_context
@administrative("enrolment token")
def token(context: Context, *, lifetime: timedelta) -> None:
    """Make a token that enrols one machine at once, and print it. It is not shown again.

    Hand it over beside a bundle: penguindome-client setup --bundle FILE --token-file TOKEN. To have both in one file:
    penguindome enrolment export --token FILE.

    \b
    Example:
      penguindome enrolment token --expires 2d > token.txt
    """
    context.acts_on(token_lives=format_duration(lifetime))
    click.echo(create_token(context.store, who=context.who, now=context.clock(), lifetime=lifetime))


@command.command("list")
@json_option
@pass_context
def list_command(context: Context, *, as_json: bool) -> None:
    """List the one-time tokens of the last month, and which machine used each.

    \b
    Example:
      penguindome enrolment list --json | jq '.[] | select(.state == "good")'
    """
    now = context.clock()
    rows = [_row(document, now) for document in list_tokens(context.store)]
    columns = ("token", "state", "created_at", "created_by", "expires_at", "used_at", "used_by")
    if as_json:
        print_json(rows)
    else:
        print_table(rows, columns, as_json=False, empty="no tokens; make one: penguindome enrolment token")


def _row(document: dict[str, Any], now: datetime) -> dict[str, Any]:
    state = "used" if document["used_at"] else "expired" if document["expires_at"] <= now else "good"
    # The hash's beginning tells tokens apart; nobody can make a token of it.
    row = {"token": document["_id"][:12], "state": state}
    return row | {name: document[name] for name in ("created_at", "created_by", "expires_at", "used_at", "used_by")}
