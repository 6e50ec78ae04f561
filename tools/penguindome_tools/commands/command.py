"""`penguindome command`: run a script once on clients, and see what came of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import click

from penguindome.actions import COMMAND_FILE
from penguindome.errors import UsageError
from penguindome.times import parse_duration
from penguindome_server.action_records import counts_of, deliveries_of, find_batch
from penguindome_tools.action_display import cancel_batch, choose, delivery_row, list_batches
from penguindome_tools.action_signing import Order, lifetime_option, place, read_file, rehearse
from penguindome_tools.action_targets import Chosen, show_targets, target_options, targets_of
from penguindome_tools.acts import Afterwards, administrative
from penguindome_tools.command_results import print_result, wait_for_results
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import confirm, json_option, print_json, safe

SHELL_LINE = "penguindome.shell-line"
SHOWN_LINES = 20
MODE = 0o700


class ShellLineCommand(click.Command):
    """A command whose words after `--` are a shell line, whatever they look like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what follows the first `--` apart."""
        if "--" in args:
            place = args.index("--")
            ctx.meta[SHELL_LINE] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)


@click.group()
def command() -> None:
    """Run scripts or shell lines once on clients, as root.

    A command is signed for the clients that it names, and tried again until it exits with 0, its attempts are used up,
    or it expires.

    \b
    Examples:
      penguindome command run --host laptop7 --wait -- systemctl restart cups
      penguindome command run rotate-logs.sh --all --attempts 3 --expires 2d
      penguindome command list
      penguindome command result 4f1c9a0b
    """


def _timeout(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> timedelta | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@command.command(cls=ShellLineCommand, options_metavar="[OPTIONS]")
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE | -- SHELL LINE...]")
@click.option("--name", help="What to call it [default: from the file's name or the first word of the line].")
@target_options
@click.option("--attempts", type=click.IntRange(1, 1000), help="How often to try [default: until it expires].")
@lifetime_option("command", "7d")
@click.option("--wait", is_flag=True, help="Show each client's result as it comes; exit 0 only if all exited with 0.")
@click.option("--timeout", callback=_timeout, metavar="DURATION",
              help="How long --wait waits: 90s, 10m [default: until the command expires].")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_context
@administrative("command run")
def run(
    context: Context, *, file: Path | None, name: str | None, chosen: Chosen, attempts: int | None,
    lifetime: timedelta, wait: bool, timeout: timedelta | None, yes: bool, as_json: bool,
) -> Afterwards:  # fmt: skip
    """Run FILE, a script that begins with #!, or a shell line, on clients as root; print the id of the command.

    A shell line of one word is taken as it stands; several words reach the client's /bin/sh as the same words.

    \b
    Examples:
      penguindome command run inventory.py --all
      penguindome command run --host laptop7 --wait -- systemctl restart cups
      penguindome command run --all --name old-kernels -- 'dpkg -l | grep -c linux-image'
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout says how long --wait waits", hint="add --wait, or leave --timeout out")
    title, script = _script(context, file, click.get_current_context().meta.get(SHELL_LINE))
    parameters = {"name": name or _usable_name(title), "attempts": attempts}
    order = Order("command", title, lifetime, parameters, {COMMAND_FILE: (script, MODE)})
    queued = _queue(context, order, chosen, yes=yes)

    def tell() -> None:
        batch = find_batch(context.store, queued, "command")
        if wait:
            click.get_current_context().exit(wait_for_results(context, batch, timeout=timeout, as_json=as_json))
        if as_json:
            print_json({"id": batch.id, "clients": counts_of(context.store, batch)})
        else:
            click.echo(batch.id)

    # The act ends before: what a client answers is no outcome of it.
    return tell


def _queue(context: Context, order: Order, chosen: Chosen, *, yes: bool) -> str:
    """Ask, sign and queue; returns the id."""
    script, _mode = order.files[COMMAND_FILE]
    targets = targets_of(context, chosen)
    digest = sha256(script).hexdigest()
    context.acts_on(*(target.hostname for target in targets), **order.parameters, sha256=digest)
    rehearse(order, targets, context.clock())
    clients = f"{len(targets)} client{'s' if len(targets) > 1 else ''}"
    click.echo(f"Run {safe(order.parameters['name'])} ({len(script)} bytes) as root on {clients}:", err=True)
    show_targets(targets)
    _show_script(script)
    confirm(f"Run it on {clients}?", yes=yes)
    queued = place(context, order, targets)
    context.acts_on(id=queued)
    return queued


def _script(context: Context, file: Path | None, line: Sequence[str] | None) -> tuple[str, bytes]:
    """What is shown of it in lists, and the script."""
    if (file is None) == (not line):
        raise UsageError(
            "a command is either a file or a shell line",
            hint="give FILE, or -- and then the line: penguindome command run --host HOST -- LINE",
        )
    if file is None:
        assert line is not None
        text = line[0] if len(line) == 1 else shlex.join(line)
        return text[:200], f"#!/bin/sh\n{text}\n".encode()
    script, _mode = read_file(context, file)
    if not script.startswith(b"#!"):
        raise UsageError(
            f"{file} does not begin with #!",
            hint="name its interpreter in the first line, as #!/bin/sh or #!/usr/bin/python3",
        )
    return file.name[:200], script


def _usable_name(title: str) -> str:
    """A name of the characters that names may have: of a file without its ending, or a line's first word."""
    word = Path((title.split() or [""])[0]).name.partition(".")[0]
    return re.sub("[^A-Za-z0-9_-]+", "-", word).strip("-_")[:64] or "command"


def _show_script(script: bytes) -> None:
    lines = script.decode("utf-8", "backslashreplace").splitlines()
    for line in lines[:SHOWN_LINES]:
        click.echo(f"  | {safe(line)}", err=True)
    if len(lines) > SHOWN_LINES:
        click.echo(f"  | ... and {len(lines) - SHOWN_LINES} more lines", err=True)


@command.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only those that some client has not finished.")
@json_option
@pass_context
def list_command(context: Context, *, only_open: bool, as_json: bool) -> None:
    """List commands, newest first.

    \b
    Examples:
      penguindome command list --open
    """
    list_batches(context, "command", only_open=only_open, as_json=as_json)


@command.command()
@click.argument("command_id", metavar="ID")
@click.option("--host", metavar="HOST", help="Only of this client.")
@json_option
@pass_context
def result(context: Context, *, command_id: str, host: str | None, as_json: bool) -> None:
    """Show what came of a command, by the beginning of its id: state, exit status and output on each client.

    \b
    Examples:
      penguindome command result 4f1c9a0b
      penguindome command result 4f1c9a0b --json | jq -r '.[] | select(.result.exit_status != 0) | .client'
    """
    batch = find_batch(context.store, command_id, "command")
    deliveries = choose(context, deliveries_of(context.store, batch), host)
    if as_json:
        print_json([delivery_row(delivery) for delivery in deliveries])
        return
    for delivery in deliveries:
        print_result(delivery)


@command.command()
@click.argument("command_id", metavar="ID")
@click.option("--host", metavar="HOST", help="Only for this client.")
@pass_context
@administrative("command cancel")
def cancel(context: Context, *, command_id: str, host: str | None) -> None:
    """Cancel a command, by the beginning of its id, for clients that have not finished it.

    A client that was handed it already may still run it, which is then shown.

    \b
    Examples:
      penguindome command cancel 4f1c9a0b --host laptop7
    """
    cancel_batch(context, "command", command_id, host)
