"""`penguindome backup`: everything that a server needs to go on elsewhere, in one encrypted file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from penguindome.errors import PenguinDomeError, UsageError
from penguindome_server.store import Document
from penguindome_tools.acts import administrative
from penguindome_tools.archive import Head, Member
from penguindome_tools.backup import make_backup
from penguindome_tools.context import Context, pass_context
from penguindome_tools.encryption import (
    Protection,
    check_recipients,
    checked_passphrase,
    read_passphrase,
    wants_passphrase,
)
from penguindome_tools.output import json_option, print_json, progress, safe
from penguindome_tools.restore import verify

passphrase_option = click.option(
    "--passphrase-file", metavar="FILE", help="Take the passphrase from the first line of FILE (-: standard input)."
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@passphrase_option
@click.option("--recipient-file", "recipients", metavar="CERT", multiple=True,
              type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Encrypt to the OpenPGP certificate in CERT instead of a passphrase; can be repeated.")  # fmt: skip
@click.option("--verify", "verify_only", is_flag=True, help="Read the backup in FILE, check all of it, and stop.")
@json_option
@pass_context
@administrative("backup", unless=("verify_only",))
def command(
    context: Context, *, file: Path, passphrase_file: str | None, recipients: tuple[Path, ...], verify_only: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write keys, settings, store, releases and repository into FILE, encrypted. The server goes on meanwhile.

    The passphrase is asked for, twice, unless one is given. Keep FILE elsewhere, and the passphrase elsewhere than
    FILE: whoever has both is the server. A file that is there is replaced once the new one is whole.

    \b
    Examples:
      penguindome backup /mnt/backup/penguindome.backup
      penguindome backup --passphrase-file /root/backup.passphrase /mnt/backup/penguindome.backup
      penguindome backup --recipient-file admin.asc /mnt/backup/penguindome.backup
      penguindome backup --verify /mnt/backup/penguindome.backup
    """
    if verify_only:
        if recipients:
            raise UsageError("--verify reads a backup: it has no use for recipients")
        head, hashes = verify(file, passphrase_of(file, passphrase_file))
        _show(file, head, as_json=as_json, files=len(hashes), what="is whole")
        return
    if recipients and passphrase_file:
        raise UsageError("a backup is encrypted to a passphrase or to certificates, not to both")
    check_recipients(recipients)
    passphrase = None if recipients else _new_passphrase(passphrase_file)
    _back_up(context, file, Protection(passphrase, recipients), as_json=as_json)


def _back_up(context: Context, file: Path, protection: Protection, *, as_json: bool) -> None:
    if not file.parent.is_dir():
        raise UsageError(f"there is no directory {file.parent}")
    context.acts_on(str(file))
    try:
        head = make_backup(context, file, protection, documents=_documents, files=_files)
    except OSError as error:
        raise PenguinDomeError(f"no backup was made: {error.filename or file}: {error.strerror}") from error
    _show(file, head, as_json=as_json, files=None, what="was written")


def passphrase_of(file: Path, passphrase_file: str | None) -> bytes | None:
    """The passphrase of a backup, given or asked for; None when it is encrypted to certificates."""
    if not wants_passphrase(file):
        if passphrase_file:
            raise UsageError(f"{file} is encrypted to certificates: it has no passphrase")
        return None
    if passphrase_file:
        return read_passphrase(passphrase_file)
    _require_terminal()
    return checked_passphrase(str(click.prompt(f"Passphrase of {file}", hide_input=True, err=True)).encode())


def _new_passphrase(passphrase_file: str | None) -> bytes:
    if passphrase_file:
        return read_passphrase(passphrase_file)
    _require_terminal()
    words = click.prompt("Passphrase for the backup", hide_input=True, confirmation_prompt=True, err=True)
    return checked_passphrase(str(words).encode())


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise UsageError("a passphrase is needed", hint="add --passphrase-file FILE (-: standard input)")


def _show(file: Path, head: Head, *, as_json: bool, files: int | None, what: str) -> None:
    documents = sum(row["documents"] for row in head.store)
    if as_json:
        counted = {} if files is None else {"files": files}
        print_json({"file": str(file), **vars(head), "store": [dict(row) for row in head.store], **counted})
        return
    click.echo(
        f"{file} {what}: backup {safe(head.id)[:12]} of {safe(head.server_url)}, {head.created_at:%Y-%m-%d %H:%M} UTC"
    )
    click.echo(f"server key: {safe(head.server_key)}; documents: {documents}")


def _documents(documents: Iterator[Document], count: int, label: str) -> Iterator[Document]:
    return progress(documents, length=count, label=label)


def _files(members: list[Member]) -> Iterator[Member]:
    return progress(members, length=len(members), label="writing files")
