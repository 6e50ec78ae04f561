"""`penguindome release`: make, publish, look at and verify what clients run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from penguindome.errors import PenguinDomeError, UsageError
from penguindome_server import halting
from penguindome_server.release_documents import key
from penguindome_server.store import Document
from penguindome_tools.acts import administrative
from penguindome_tools.commands import release_rollout
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import confirm, json_option, print_fields, print_json, print_table, progress, safe
from penguindome_tools.releases import completion, own_record, records
from penguindome_tools.releases.creation import Order, Outlook, create, order_of_release, order_of_site
from penguindome_tools.releases.making import Signing
from penguindome_tools.releases.pruning import has_packages, remove_packages, superfluous
from penguindome_tools.releases.shares import canaries_of
from penguindome_tools.releases.verification import verify_release, verify_renewed, verify_served

COLUMNS = ("release", "state", "created_at", "created_by", "version", "clients", "message")


@click.group()
def command() -> None:
    """Publish releases: the client, with your plugins, settings and one-time commands, signed for your fleet.

    \b
    What goes into a release lies in /etc/penguindome:
      plugins.d/NAME              an executable file: a plugin of your own, or in the place of the one of that name
      plugins.d/NAME.disabled     the shipped plugin NAME is left out
      commands.d/NAME             an executable file that each client runs once
      client-release.d/*.yml      settings of clients

    \b
    Examples:
      penguindome release create --dry-run           what would change
      penguindome release create --canary 10%        a tenth of the clients first
      penguindome release promote                    then all
      penguindome release rollback                   the content before, as a new release
    """


for _each in (release_rollout.promote, release_rollout.halt, release_rollout.resume, release_rollout.refresh):
    command.add_command(_each)

_message_option = click.option("--message", default="", help="What this release is for; shown by `release list`.")
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
_canary_option = click.option(
    "--canary", "canaries", multiple=True, metavar="10%|HOST",
    help="Only so many percent of the clients, or this one, get it for now (may be repeated).",
)  # fmt: skip


@command.command("create")
@_message_option
@_canary_option
@click.option("--dry-run", is_flag=True, help="Show what would change since the last release, and publish nothing.")
@click.option(
    "--packages", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory with the client's packages, in place of those of the server's package.",
)  # fmt: skip
@_yes_option
@pass_context
@administrative("release create", unless=("dry_run",))
def create_command(
    context: Context, *, message: str, canaries: Sequence[str], dry_run: bool, packages: Path | None, yes: bool
) -> None:
    """Make a release of the client's packages and what lies in /etc/penguindome, and publish it.

    Without --canary all clients get it. Nothing is published unless all is well.

    \b
    Examples:
      penguindome release create --dry-run
      penguindome release create --message "new plugin for printers" --canary 10% --canary laptop7
    """
    stage = _stage(context, canaries)
    order = order_of_site(context, packages or context.paths.client_packages, stage, message)
    _release(context, lambda _: order, yes=yes, dry_run=dry_run)


@command.command("rollback")
@click.argument("number", metavar="[N]", type=click.IntRange(min=1), required=False)
@_message_option
@_canary_option
@_yes_option
@pass_context
@administrative("release rollback")
def rollback_command(context: Context, *, number: int | None, message: str, canaries: Sequence[str], yes: bool) -> None:
    """Publish the content of release N under a new number, because clients never go back.

    N is the newest before the last one that was for all and is not halted, if this server's own record and its store
    say the same.

    \b
    Examples:
      penguindome release rollback
      penguindome release rollback 3 --message "4 was slow"
    """
    stage = _stage(context, canaries)

    def order(signing: Signing) -> Order:
        old = own_record.before_newest(context) if number is None else own_record.one(context, number)
        said = message or f"back to the content of release {old['content_of']}"
        return order_of_release(context, signing, old, stage, said)

    _release(context, order, yes=yes, dry_run=False)


def _release(context: Context, order_for: Callable[[Signing], Order], *, yes: bool, dry_run: bool) -> None:
    """Make and publish a release of what is ordered, after showing what it would be."""

    def agree(outlook: Outlook) -> bool:
        _tell(outlook)
        context.acts_on(f"release {outlook.number}", version=outlook.version, dry_run=dry_run)
        if not dry_run:
            confirm(f"Publish release {outlook.version}{_of(outlook)}?", yes=yes)
        return not dry_run

    def steps(names: list[str]) -> Iterator[str]:
        return progress(names, length=len(names), label="making packages")

    try:
        with completion.one_at_a_time(context), completion.signing(context) as signing:
            finished = None if dry_run else completion.finish(context, signing)
            document = create(context, order_for(signing), signing, agree=agree, steps=steps, finished=finished)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise PenguinDomeError(f"no release was made: {where}{error.strerror or error}") from error
    if document is not None:
        click.echo(f"release {document['version']} is published: {records.state(document)}")


def _tell(outlook: Outlook) -> None:
    for warning in outlook.warnings:
        click.echo(f"warning: {safe(warning)}", err=True)
    if outlook.finished is not None:
        click.echo(f"release {outlook.finished}, whose publication was interrupted, is published now", err=True)
    since = f"since release {outlook.since}" if outlook.since else "no release before it"
    click.echo(f"release {outlook.version}{_of(outlook)} ({since}):", err=True)
    rows = [vars(change) for change in outlook.changes]
    print_table(rows, ("what", "name", "change"), as_json=False, empty="nothing has changed")


def _of(outlook: Outlook) -> str:
    return f" with {outlook.origin}" if outlook.origin else ""


@command.command("list")
@json_option
@pass_context
def list_command(context: Context, *, as_json: bool) -> None:
    """List releases, the newest first: who has each, and how many clients run it.

    \b
    Examples:
      penguindome release list
      penguindome release list --json
    """
    running = _running(context)
    rows = [_row(document, running) for document in records.newest_first(context.store)]
    print_table(rows, COLUMNS, as_json=as_json, empty="no releases; make one: penguindome release create")
    for difference in _differences(context):
        click.echo(f"warning: {difference}", err=True)
    unfinished = _under_way(context)
    if unfinished is not None:
        click.echo(f"the publication of release {unfinished} is under way, or was interrupted", err=True)


@command.command("show")
@click.argument("number", metavar="N", type=click.IntRange(min=1))
@json_option
@pass_context
def show_command(context: Context, *, number: int, as_json: bool) -> None:
    """Show a release: its document, who has it, and its files.

    \b
    Examples:
      penguindome release show 7
    """
    document = records.one(context.store, number)
    shown = _row(document, _running(context))
    shown |= {name: value for name, value in document.items() if not name.startswith("_") and name not in shown}
    shown["tried"], shown["failed"] = halting.outcomes(context.store, number, since=document.get("resumed_at"))
    directory = context.paths.releases / str(number)
    files = sorted(path for path in directory.glob("*") if path.is_file())
    shown["files"] = [{"name": path.name, "bytes": path.stat().st_size} for path in files]
    if as_json:
        print_json(shown)
    else:
        print_fields(shown)


@command.command("verify")
@click.argument("number", metavar="[N]", type=click.IntRange(min=1), required=False)
@json_option
@pass_context
def verify_command(context: Context, *, number: int | None, as_json: bool) -> None:
    """Compare everything on the disk of release N, or of all releases and what is served beside them, with what was
    signed; 1: something is wrong.

    \b
    Examples:
      penguindome release verify
      penguindome release verify 7
    """
    now, paths = context.clock(), context.paths
    # Whatever the store says, or hides: what lies here, and what root knows of.
    pruned = {entry["release"]: entry["pruned_at"] is not None for entry in own_record.entries(context)}
    known = sorted({*pruned, *records.on_disk(paths)}, reverse=True)
    if number and number not in known:
        raise UsageError(f"there is no release {number}", hint="see: penguindome release list")
    numbers = [number] if number else known
    with completion.signing(context) as signing, context.as_root():
        found = [
            problem
            for each in progress(numbers, length=len(numbers), label="verifying")
            for problem in (
                *verify_release(
                    paths.releases / str(each), each, signing.certificates, now=now, pruned=pruned.get(each, False)
                ),
                *verify_renewed(paths, each, signing.certificates),
            )
        ]
        if not number:
            found += verify_served(paths, known, signing.certificates, now=now)
    problems = [vars(problem) for problem in found]
    print_table(problems, ("release", "file", "problem"), as_json=as_json)
    if problems:
        click.get_current_context().exit(1)
    if not as_json:
        names = ", ".join(map(str, numbers))
        click.echo(f"as signed: {names}" if names else "no releases", err=True)


@command.command("prune")
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="How many releases stay.")
@_yes_option
@pass_context
@administrative("release prune")
def prune_command(context: Context, *, keep: int, yes: bool) -> None:
    """Remove the packages of old releases. What is for all clients, and canaries, stay in any case.

    \b
    Examples:
      penguindome release prune
      penguindome release prune --keep 5 --yes
    """
    store, now = context.store, context.clock()
    with completion.one_at_a_time(context), completion.signing(context) as signing:
        completion.finish(context, signing)
        numbers = _to_prune(context, keep)
        names = ", ".join(map(str, numbers))
        if numbers:
            context.acts_on(*(f"release {number}" for number in numbers))
            confirm(f"Remove the packages of release {names}?", yes=yes)
        before = own_record.standing(context).offered
        for number in numbers:
            own_record.change(context, number, pruned_at=now)
            store.collection(records.RELEASES).update(
                key(number), lambda before: None if before is None else {**before, "pruned_at": now}
            )
        if own_record.standing(context).offered != before:
            completion.publish_anew(context, signing)
        with context.as_root():
            freed = sum(remove_packages(context.paths.releases / str(number)) for number in numbers)
    click.echo(f"removed: {names or 'nothing'}; {freed / 1e6:.0f} MB are free again")


def _to_prune(context: Context, keep: int) -> list[int]:
    """The releases whose packages can go, newest first: also what an earlier run that was interrupted left of them."""
    own = own_record.entries(context)
    begun = [entry["release"] for entry in own if entry["pruned_at"]]
    with context.as_root():
        begun = [number for number in begun if has_packages(context.paths.releases / str(number))]
    return sorted([*begun, *superfluous(own, records.newest_first(context.store), keep=keep)], reverse=True)


def _stage(context: Context, canaries: Sequence[str]) -> records.Stage:
    """Who gets a release first. Raises UsageError for what is neither a percentage nor a client; SettingsError before
    setup, when there is no store to ask either.
    """
    with context.as_root():
        completion.require_keys(context.paths)
    percent, clients = canaries_of(context.store, canaries)
    return records.Stage(percent or 0, tuple(clients))


def _running(context: Context) -> Counter[Any]:
    """How many enrolled clients say that they have each release."""
    clients = context.store.collection("clients").find({"state": "enrolled"}, fields=("release",))
    return Counter(client.get("release") for client in clients)


def _row(document: Document, running: Counter[Any]) -> dict[str, Any]:
    row = {"release": document["release"], "state": records.state(document), "clients": running[document["release"]]}
    return row | {name: document[name] for name in ("created_at", "created_by", "version", "message")}


def _differences(context: Context) -> list[str]:
    try:
        return list(own_record.differences(context))
    except PenguinDomeError as error:
        return [error.message]


def _under_way(context: Context) -> int | None:
    try:
        document = completion.under_way(context)
    except OSError:
        return None
    return None if document is None else document["release"]
