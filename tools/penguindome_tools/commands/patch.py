"""`penguindome patch`: put files onto clients, or take them away, until the next release."""

from __future__ import annotations

import re
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import click

from penguindome.actions import ActionRefused, check_patch_name
from penguindome.errors import ManifestError, UsageError
from penguindome.manifest import check_name
from penguindome_server.action_queue import require_free
from penguindome_server.action_records import find_batch
from penguindome_tools.action_display import cancel_batch, list_batches, show_batch
from penguindome_tools.action_signing import Order, lifetime_option, place, read_file, rehearse
from penguindome_tools.action_targets import Chosen, show_targets, target_options, targets_of
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import confirm, json_option, safe

_lifetime_option = lifetime_option("patch", "30d")
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def command() -> None:
    """Change files of PenguinDome on clients: plugins, one-time commands, settings.

    A patch is signed for the clients that it names, stays until the next release, and is reported when it was applied.

    \b
    Examples:
      penguindome patch add firewall.py --path plugins/firewall.py --host laptop7
      penguindome patch add usb --path plugins/usb --query '{"plugins.os_info.id": "debian"}'
      penguindome patch remove plugins/prey --all
      penguindome patch list --open
      penguindome patch cancel 4f1c9a0b --host laptop7
    """


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--path", "name", required=True, metavar="PATH",
              help="Where it goes: below plugins/ or commands/, or settings/NAME.yml.")  # fmt: skip
@click.option("--mode", metavar="MODE", help="Permission bits [default: 0755 if FILE is executable, else 0644].")
@target_options
@_lifetime_option
@_yes_option
@pass_context
@administrative("patch add")
def add(
    context: Context, *, file: Path, name: str, mode: str | None, chosen: Chosen, lifetime: timedelta, yes: bool
) -> None:
    """Put FILE onto clients, in place of what is there, and print the id of the patch.

    \b
    Examples:
      penguindome patch add firewall.py --path plugins/firewall.py --host laptop7 --host laptop8
      penguindome patch add interval.yml --path settings/interval.yml --all --expires 7d --yes
    """
    content, own_mode = read_file(context, file)
    bits = _bits(mode) if mode is not None else 0o755 if own_mode & 0o111 else 0o644
    digest = sha256(content).hexdigest()
    order = Order("patch", f"{name} ({bits:04o})", lifetime, {"remove": []}, {name: (content, bits)})
    about = (
        f"Put {safe(str(file))} ({len(content)} bytes, sha256 {digest[:12]}...) as {safe(name)}, mode {bits:04o}, on"
    )
    _queue(context, order, chosen, [name], about, digest=digest, yes=yes)


@command.command()
@click.argument("name", metavar="PATH")
@target_options
@_lifetime_option
@_yes_option
@pass_context
@administrative("patch remove")
def remove(context: Context, *, name: str, chosen: Chosen, lifetime: timedelta, yes: bool) -> None:
    """Take the file PATH away from clients until the next release, and print the id of the patch.

    \b
    Examples:
      penguindome patch remove plugins/prey --host laptop7
    """
    order = Order("patch", f"remove {name}", lifetime, {"remove": [name]})
    _queue(context, order, chosen, [name], f"Take {safe(name)} away from", digest=None, yes=yes)


def _queue(
    context: Context, order: Order, chosen: Chosen, paths: list[str], about: str, *, digest: str | None, yes: bool
) -> None:
    for path in paths:
        _require_path(path)
    targets = targets_of(context, chosen)
    context.acts_on(*(target.hostname for target in targets), sha256=digest)
    rehearse(order, targets, context.clock())
    require_free(context.store, "patch", targets, paths, now=context.clock())
    clients = f"{len(targets)} client{'s' if len(targets) > 1 else ''}"
    click.echo(f"{about} {clients}:", err=True)
    show_targets(targets)
    confirm(f"Do this on {clients}?", yes=yes)
    batch_id = place(context, order, targets)
    context.acts_on(id=batch_id)
    click.echo(batch_id)


def _require_path(path: str) -> None:
    """Raise UsageError unless a patch may change a file of this name."""
    try:
        check_name(path)
        check_patch_name(path)
    except (ManifestError, ActionRefused) as error:
        raise UsageError(
            f"{path[:100]!a} is no path that a patch may change",
            hint="it is plain and relative: plugins/NAME, commands/NAME or settings/NAME.yml",
        ) from error


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
    """Cancel a patch for clients that have not finished it.

    A client that was handed it already may still apply it, which is then shown.

    \b
    Examples:
      penguindome patch cancel 4f1c9a0b
      penguindome patch cancel 4f1c9a0b --host laptop7
    """
    cancel_batch(context, "patch", patch_id, host)
