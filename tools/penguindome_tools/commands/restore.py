"""`penguindome restore`: make this machine the server of a backup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from penguindome.errors import PenguinDomeError
from penguindome_server.store import Document
from penguindome_tools.acts import administrative
from penguindome_tools.commands.backup import passphrase_of, passphrase_option
from penguindome_tools.commands.store import given_uri
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import confirm, json_option, print_json, progress, safe
from penguindome_tools.restore import Restored, restore


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@passphrase_option
@click.option("--database", metavar="URI", help="Put the store there (@FILE: the URI is in a file), and use it.")
@click.option("--force", is_flag=True, help="Replace the data of a server that are here, or a damaged store.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_context
@administrative("restore")
def command(
    context: Context, *, file: Path, passphrase_file: str | None, database: str | None, force: bool, yes: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Make this machine the server of which FILE is a backup: its keys, settings, store, releases and repository.

    The server must be stopped, and there must be no data of another one unless --force says so. Everything is checked
    before anything is changed; what is replaced is kept, and named at the end. Interrupted, it is finished by giving
    the command again.

    \b
    Examples:
      penguindome restore /mnt/backup/penguindome.backup
      penguindome restore --database @/root/mongodb.uri /mnt/backup/penguindome.backup
    """
    uri = None if database is None else given_uri(database)
    passphrase = passphrase_of(file, passphrase_file)
    confirm(f"Replace keys and settings of this machine by those in {file}?", yes=yes)
    context.acts_on(str(file), force=force)
    try:
        restored = restore(context, file, passphrase, database=uri, force=force, documents=_documents)
    except OSError as error:
        raise PenguinDomeError(
            f"{error.filename or file}: {error.strerror}", hint="mend that, and give the command again"
        ) from error
    _tell(restored, as_json=as_json)


def _tell(restored: Restored, *, as_json: bool) -> None:
    for warning in restored.warnings:
        click.echo(f"warning: {warning}", err=True)
    head = restored.head
    if as_json:
        replaced, old_store = (None if path is None else str(path) for path in (restored.replaced, restored.old_store))
        answer = {"id": head.id, "created_at": head.created_at, "server_key": head.server_key}
        print_json(
            {
                **answer,
                "database": restored.database,
                "release_floor": restored.floor,
                "replaced": replaced,
                "old_store": old_store,
            }
        )
        return
    click.echo(f"restored: backup {head.id[:12]} of {safe(head.server_url)}, {head.created_at:%Y-%m-%d %H:%M} UTC")
    click.echo(f"server key: {safe(head.server_key)}")
    click.echo(f"store: {restored.database}; the next release has a number above {restored.floor}")
    if restored.replaced is not None:
        click.echo(f"what was here is kept in {restored.replaced}, private keys too: delete it when all is well")
    if restored.old_store is not None:
        click.echo(f"the store that was here is kept as {restored.old_store}: delete it when all is well")
    click.echo(
        "What was done after the backup is undone: look at clients that were revoked, tokens that were used and\n"
        "actions that were cancelled since. Machines that enrolled since need a new bundle.\n"
        "next: penguindome keys list; penguindome store check; systemctl start penguindome-server "
        "penguindome-audit.timer penguindome-repository.timer",
        err=True,
    )


def _documents(documents: Iterator[Document], count: int, label: str) -> Iterator[Document]:
    return progress(documents, length=count, label=label)
