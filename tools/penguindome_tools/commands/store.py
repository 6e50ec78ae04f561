"""`penguindome store`: look whether the store is sound, and move it to another engine or place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click

from penguindome.errors import UsageError
from penguindome.files import read_limited
from penguindome_server.store import Document, open_store
from penguindome_server.store.copying import copy_store
from penguindome_server.store.schema import SCHEMA
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import json_option, print_json, print_table, progress, safe

FOUND_PROBLEMS = 1
_LONGEST_URI = 4096


@click.group()
def command() -> None:
    """Check the store, or copy it into another one.

    \b
    Examples:
      penguindome store check
      penguindome store copy settings mongodb://db1,db2/penguindome?replicaSet=rs0
    """


@command.command("check")
@json_option
@pass_context
def check_command(context: Context, *, as_json: bool) -> None:
    """Look for damage: the engine's own check, indexes, and every document.

    Reads everything once; the server may run meanwhile. Exits with 1 when something is wrong.

    \b
    Examples:
      penguindome store check
      penguindome store check --json | jq -r '.problems[]'
    """
    problems = context.store.check()
    counts = {name: context.store.collection(name).count() for name in SCHEMA} if not problems else {}
    if as_json:
        print_json({"store": context.store.uri, "problems": problems, "documents": counts})
    elif problems:
        for problem in problems:
            click.echo(safe(problem))
        click.echo(f"{len(problems)} problems in {context.store.uri}; restore it from a backup", err=True)
    else:
        click.echo(f"{context.store.uri} is sound; documents: {sum(counts.values())}")
    if problems:
        raise click.exceptions.Exit(FOUND_PROBLEMS)


@command.command("copy")
@click.argument("source")
@click.argument("target")
@json_option
@pass_context
@administrative("store copy")
def copy_command(context: Context, *, source: str, target: str, as_json: bool) -> None:
    """Copy all documents of SOURCE into TARGET, which must be empty, and compare the two at the end.

    Each is a URI as in the setting database.uri, `settings` for the value of that setting, or @FILE for a file that
    holds the URI: other users of the machine can read what is on a command line, a password in it too. Stop the server
    first.

    \b
    Examples:
      systemctl stop penguindome-server
      penguindome store copy settings @/root/mongodb.uri
      penguindome store copy mongodb://localhost/penguindome sqlite:///var/lib/penguindome/server/store.sqlite
    """
    source_uri, target_uri = _uri(context, source), _uri(context, target)
    if source_uri == target_uri:
        raise UsageError("source and target are the same store")
    context.become_service_user()
    with closing(open_store(source_uri)) as original, closing(open_store(target_uri)) as copy:
        shown = original.uri, copy.uri
        context.acts_on(source=shown[0], target=shown[1])
        summaries = copy_store(original, copy, _shown)
    rows = [
        {"collection": summary.name, "documents": summary.documents, "digest": summary.digest} for summary in summaries
    ]
    if as_json:
        print_json({"source": shown[0], "target": shown[1], "collections": rows})
        return
    print_table([{**row, "digest": f"{row['digest']:.12}"} for row in rows], list(rows[0]), as_json=False)
    click.echo(
        f"{shown[1]} holds the same documents as {shown[0]}.\n"
        f"Next: set database.uri to the new store in {context.paths.settings / 'server.yml'} and start the server.",
        err=True,
    )


def _uri(context: Context, word: str) -> str:
    return str(context.settings["database.uri"]) if word == "settings" else given_uri(word)


def given_uri(word: str) -> str:
    """A URI as it was typed, or the one in a file (`@FILE`). Raises UsageError."""
    if not word.startswith("@"):
        return word
    try:
        return read_limited(Path(word[1:]), _LONGEST_URI).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{word[1:]} cannot be read: {error}", hint="it must hold the URI of a store") from error


def _shown(documents: Iterator[Document], count: int, label: str) -> Iterator[Document]:
    return progress(documents, length=count, label=label)
