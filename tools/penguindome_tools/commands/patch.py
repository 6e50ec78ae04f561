"""`penguindome patch`: put files onto clients, or take them away, until the next release."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import click

from penguindome.actions import Target
from penguindome.errors import UsageError
from penguindome_server.action_queue import require_free
from penguindome_server.action_records import find_batch
from penguindome_tools.action_display import cancel_batch, list_batches, show_batch
from penguindome_tools.action_signing import Order, lifetime_option, place, read_file, rehearse
from penguindome_tools.action_targets import Chosen, show_targets, target_options, targets_of
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import confirm, json_option, safe
from penguindome_tools.patch_files import Released, require_path, require_usable, settings_warnings, usual_mode

_lifetime_option = lifetime_option("patch", "30d")
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def command() -> None:
    """Change files of PenguinDome on clients: plugins, one-time commands, settings.

    A patch is signed for the clients that it names, stays until the next release, and is reported when it was applied.

    \b
    Examples:
      penguindome patch add firewall.py --path plugins/firewall.py --host laptop7
      penguindome patch add usb --path plugins/usb --query '{"plugins.os_info.distribution": "debian"}'
      penguindome patch remove plugins/sshd.py --all
      penguindome patch list --open
      penguindome patch cancel 4f1c9a0b --host laptop7
    """


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--path", required=True, metavar="PATH",
              help="Where it goes: plugins/NAME, commands/NAME or settings/NAME.yml.")  # fmt: skip
@click.option("--mode", metavar="MODE", help="Permission bits [default: 0755; of settings 0644].")
@target_options
@_lifetime_option
@_yes_option
@pass_context
@administrative("patch add")
def add(
    context: Context, *, file: Path, path: str, mode: str | None, chosen: Chosen, lifetime: timedelta, yes: bool
) -> None:
    """Put FILE onto clients, in place of what is there, and print the id of the patch.

    A program must bear the name of the one that it takes the place of, ending included; clients report its output under
    that name without the ending. What no release would take is refused here as well.

    \b
    Examples:
      penguindome patch add firewall.py --path plugins/firewall.py --host laptop7 --host laptop8
      penguindome patch add interval.yml --path settings/interval.yml --all --expires 7d --yes
    """
    require_path(path)
    content, _own_mode = read_file(context, file)
    bits = usual_mode(path) if mode is None else _bits(mode)
    require_usable(path, content, bits)
    if path.startswith("settings/"):
        with context.as_root():
            warnings = settings_warnings(file)
        for warning in warnings:
            click.echo(f"warning: {safe(warning)}", err=True)
    targets = targets_of(context, chosen)
    Released(context.paths, context.store, targets).require_own_name(path)
    digest = sha256(content).hexdigest()
    _acts_on(context, targets, path=path, mode=f"{bits:04o}", sha256=digest)
    order = Order("patch", f"{path} ({bits:04o})", lifetime, {"remove": []}, {path: (content, bits)})
    what = f"{safe(str(file))} ({len(content)} bytes, sha256 {digest[:12]}...)"
    _queue(context, order, targets, path, f"Put {what} as {safe(path)}, mode {bits:04o}, on", yes=yes)


@command.command()
@click.argument("path")
@target_options
@_lifetime_option
@_yes_option
@pass_context
@administrative("patch remove")
def remove(context: Context, *, path: str, chosen: Chosen, lifetime: timedelta, yes: bool) -> None:
    """Take the file PATH away from clients until the next release, and print the id of the patch.

    \b
    Examples:
      penguindome patch remove plugins/sshd.py --host laptop7
    """
    require_path(path)
    targets = targets_of(context, chosen)
    _require_present(context, targets, path)
    _acts_on(context, targets, path=path)
    order = Order("patch", f"remove {path}", lifetime, {"remove": [path]})
    _queue(context, order, targets, path, f"Take {safe(path)} away from", yes=yes)


def _acts_on(context: Context, targets: Sequence[Target], **details: str) -> None:
    context.acts_on(*(target.hostname for target in targets), **details)


def _require_present(context: Context, targets: Sequence[Target], path: str) -> None:
    """Raise UsageError when no target can have the file, and warn when some have not: there the patch would fail."""
    released = Released(context.paths, context.store, targets)
    without = released.without(path)
    if len(without) == len(targets):
        there = ", ".join(released.beside(path)) or "nothing"
        raise UsageError(
            f"{safe(path)} is in no release that these clients have, and in no patch for them",
            hint=f"there is: {safe(there)}",
        )
    for target in without:
        click.echo(f"warning: {safe(target.hostname)} has no {safe(path)}: there the patch will fail", err=True)


def _queue(context: Context, order: Order, targets: Sequence[Target], path: str, about: str, *, yes: bool) -> None:
    rehearse(order, targets, context.clock())
    require_free(context.store, "patch", targets, [path], now=context.clock())
    clients = f"{len(targets)} client{'s' if len(targets) > 1 else ''}"
    click.echo(f"{about} {clients}:", err=True)
    show_targets(targets)
    confirm(f"Do this on {clients}?", yes=yes)
    batch_id = place(context, order, targets)
    context.acts_on(id=batch_id)
    click.echo(batch_id)


def _bits(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise UsageError(
            f"{text!r} is no mode that a file of a patch may have",
            hint="three octal digits, as 0755; set-user-id, set-group-id and sticky bits are not allowed",
        )
    return int(text, 8)


@command.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only those that some client has not finished.")
@json_option
@pass_context
def list_command(context: Context, *, only_open: bool, as_json: bool) -> None:
    """List patches, newest first.

    \b
    Examples:
      penguindome patch list --open
    """
    list_batches(context, "patch", only_open=only_open, as_json=as_json)


@command.command()
@click.argument("patch_id", metavar="ID")
@json_option
@pass_context
def show(context: Context, *, patch_id: str, as_json: bool) -> None:
    """Show a patch, by the beginning of its id: what it changes, and what became of it on each client.

    \b
    Examples:
      penguindome patch show 4f1c9a0b
    """
    show_batch(context, find_batch(context.store, patch_id, "patch"), as_json=as_json)


@command.command()
@click.argument("patch_id", metavar="ID")
@click.option("--host", metavar="HOST", help="Only for this client.")
@pass_context
@administrative("patch cancel")
def cancel(context: Context, *, patch_id: str, host: str | None) -> None:
    """Cancel a patch, by the beginning of its id, for clients that have not finished it.

    A client that was handed it already may still apply it, which is then shown.

    \b
    Examples:
      penguindome patch cancel 4f1c9a0b
      penguindome patch cancel 4f1c9a0b --host laptop7
    """
    cancel_batch(context, "patch", patch_id, host)
