"""`penguindome keys`: which keys this server has, and new ones in the place of old ones."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from penguindome_server.store import Store
from penguindome_tools import key_list, key_rotation
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.installation import recorded_fingerprint
from penguindome_tools.key_rotation import Outcome
from penguindome_tools.output import confirm, json_option, print_json, print_table, safe, write_output

COLUMNS = ("key", "fingerprint", "created_at", "age_days", "expires_at", "purpose")
SOON = timedelta(days=30)
FOUND_PROBLEMS = 1

_SERVER_MEANS = """\
A new server key will sign releases, actions and all else. Clients follow by themselves when they next ask, however long
they were away, and renew the keyrings of their package managers. Bundles that were exported before go on working.
Packages and bundles that were made before hold signatures of the old key: make a release afterwards."""
_CLIENT_MEANS = """\
A new enrolment key will be in the bundles that are exported from now on, and those that were exported before can enrol
no machine any more. Machines that are enrolled are not concerned."""


@click.group()
def command() -> None:
    """List the keys of this server, export their certificates, replace them.

    \b
    Examples:
      penguindome keys list
      penguindome keys export server penguindome.asc
      penguindome keys rotate server
      penguindome keys rotate client
    """


@command.command("list")
@json_option
@pass_context
def list_command(context: Context, *, as_json: bool) -> None:
    """List server key, enrolment key and TLS certificates: fingerprint, age, expiry, and what each is for.

    Exits with 1 when one cannot be used, or expires within 30 days.

    \b
    Examples:
      penguindome keys list
      penguindome keys list --json
    """
    settings, now = context.settings, context.clock()
    with context.as_root():
        keys = list(key_list.known_keys(context.paths, settings))
        interrupted = key_rotation.interrupted(context.paths)
    rows = [{**vars(key), "age_days": (now - key.created_at).days if key.created_at else None} for key in keys]
    if as_json:
        print_json({"keys": rows, "rotation_interrupted": interrupted is not None})
    else:
        print_table(rows, COLUMNS, as_json=False)
    expiring = [key for key in keys if key.expires_at is not None and key.expires_at - now < SOON]
    for key in expiring:
        click.echo(f"warning: the certificate {key.key} expires on {key.expires_at:%Y-%m-%d}", err=True)
    for key in keys:
        if key.problem:
            click.echo(f"warning: {key.key}: {safe(key.problem)}", err=True)
    if interrupted is not None:
        click.echo("warning: a rotation was interrupted; to finish it: penguindome keys rotate server", err=True)
    if expiring or interrupted is not None or any(key.problem for key in keys):
        raise click.exceptions.Exit(FOUND_PROBLEMS)


@command.command()
@click.argument("which", type=click.Choice(["server", "enrolment"]), default="server")
@click.argument("file", default="-")
@pass_context
def export(context: Context, *, which: str, file: str) -> None:
    """Write a public certificate, armoured, to FILE (`-`: standard output). Private keys never leave this way.

    \b
    Examples:
      penguindome keys export > penguindome.asc
      penguindome keys export server /etc/apt/keyrings/penguindome.asc
    """
    with context.as_root():
        text = key_rotation.export_certificate(context.paths, which)
        write_output(file, text, mode=0o644)


@command.group()
def rotate() -> None:
    """Put a new key in the place of one that is old, or that somebody may have."""


@rotate.command()
@click.option("--keep-old", is_flag=True, help="Keep the old private key in the keyring, instead of deleting it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_context
@administrative("keys rotate server")
def server(context: Context, *, keep_old: bool, yes: bool, as_json: bool) -> None:
    """Make a new server key, which the old one names as its follower, and sign all that is in force with it.

    Interrupted at any point, it is finished by giving the command again. The old private key is deleted at the end.

    \b
    Examples:
      penguindome keys rotate server
      penguindome keys rotate server --keep-old --yes
    """
    settings, paths = context.settings, context.paths
    with context.as_root():
        interrupted, old = key_rotation.interrupted(paths), recorded_fingerprint(paths)
    context.acts_on(old_key=interrupted.old if interrupted else old)
    if interrupted is None:
        click.echo(_SERVER_MEANS, err=True)
        confirm(f"Replace the server key {old}?", yes=yes)
    else:
        click.echo(f"finishing the rotation that was begun at {interrupted.started_at:%Y-%m-%d %H:%M} UTC", err=True)
    outcome = key_rotation.rotate_server_key(context, keep_old=keep_old)
    context.acts_on(new_key=outcome.new)
    for problem in outcome.problems:
        click.echo(f"warning: not signed anew, because the old key had not signed it: {safe(problem)}", err=True)
    if as_json:
        print_json(vars(outcome))
        return
    _tell(outcome, settings["server.url"])


def _tell(outcome: Outcome, url: str) -> None:
    click.echo(f"server key: {outcome.new}")
    click.echo(f"until now:  {outcome.old}")
    click.echo(f"signed anew: {outcome.files} files, {outcome.actions} actions that wait")
    click.echo("the private half of the old key was " + ("kept in the keyring" if outcome.kept_old else "deleted"))
    click.echo(
        "next: penguindome release create        (packages and tar that hold the new key)\n"
        "      penguindome enrolment export FILE (bundles with the new key; the old ones go on working)\n"
        "      penguindome backup FILE           (backups made before hold the old key alone)\n"
        f"machines that are to be set up by --url {url} --fingerprint ... need the new fingerprint",
        err=True,
    )


@rotate.command("client")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_context
@administrative("keys rotate client")
def client_command(context: Context, *, yes: bool, as_json: bool) -> None:
    """Make a new enrolment key: whoever holds an old bundle can ask for nothing any more.

    Machines that wait for approval ask with the old key: approve or refuse them first.

    \b
    Examples:
      penguindome keys rotate client
    """
    waiting = _waiting(context.store)
    context.acts_on(waiting=waiting)
    click.echo(_CLIENT_MEANS, err=True)
    if waiting:
        plural = "machine waits" if waiting == 1 else "machines wait"
        click.echo(f"{waiting} {plural} for approval and would need a new bundle: penguindome clients list", err=True)
    confirm("Replace the enrolment key?", yes=yes)
    with context.as_root():
        fingerprint = key_rotation.rotate_enrolment_key(context.paths)
    answer: dict[str, Any] = {"fingerprint": fingerprint, "waiting": waiting}
    if as_json:
        print_json(answer)
        return
    click.echo(f"enrolment key: {fingerprint}")
    click.echo(
        "next: penguindome enrolment export FILE  (and delete the old bundles)\n"
        "      penguindome release create         (the tar holds a bundle)",
        err=True,
    )


def _waiting(store: Store) -> int:
    return store.collection("clients").count({"state": "pending"})
