"""`penguindome log`: who did what with this server, and whether the record of it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any

import click

from penguindome.errors import PenguinDomeError, UsageError
from penguindome.times import parse_duration
from penguindome_server.admin_log import COLLECTION
from penguindome_server.admin_log_keeper import LogKeeper, Verdict
from penguindome_server.store import Document
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import json_option, print_json, print_table, progress, safe

SOMETHING_IS_WRONG = 1
COLUMNS = ("sequence", "done_at", "who", "act", "on", "outcome", "details")
SHOWN = 100
_TARGETS_SHOWN = 5


@click.group()
def command() -> None:
    """The log of administrative acts: who did what, when, on whom, and how it went.

    Each entry names the one before it by its hash, and where the log ends is signed and kept by root: what somebody
    changed in the database shows.

    \b
    Examples:
      penguindome log show --since 2w
      penguindome log verify
    """


def _since(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> timedelta | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@command.command("show")
@click.option("--since", callback=_since, metavar="DURATION", help="How far back: 90m, 12h, 3d, 2w.")
@click.option("--who", help="Only acts of this person.")
@click.option("--act", help="Only this act (clients revoke), or all of this kind (clients).")
@click.option("--on", "target", metavar="NAME", help="Only acts on this host, client id, file or path.")
@click.option("--limit", type=click.IntRange(min=1), help=f"How many, the newest [default: {SHOWN}; with --since all].")
@json_option
@pass_context
def show_command(
    context: Context, *, since: timedelta | None, who: str | None, act: str | None, target: str | None,
    limit: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Show administrative acts, the newest last.

    \b
    Examples:
      penguindome log show --since 2w
      penguindome log show --who ann --act clients
      penguindome log show --on laptop7 --json
    """
    _settle(context)
    where = {} if since is None else {"done_at": {"$gte": context.clock() - since}}
    newest_first = context.store.collection(COLLECTION).find(where, sort="-_id")
    found = (entry for entry in newest_first if _is_wanted(entry, who=who, act=act, target=target))
    entries = list(islice(found, limit or (SHOWN if since is None else None)))[::-1]
    more = sum(1 for _ in found)
    if as_json:
        print_json(entries)
    else:
        print_table([_row(entry) for entry in entries], COLUMNS, as_json=False, empty="no such act in the log")
    if more:
        click.echo(f"{more} older ones are not shown; all: --limit {len(entries) + more}", err=True)


def _settle(context: Context) -> None:
    """Let acts that wait for the store be shown too, where root asks."""
    with context.as_root():
        keeps = os.access(context.paths.keys / "server.fingerprint", os.R_OK, effective_ids=True)
    if keeps:
        try:
            _keeper(context).settle()
        except (OSError, PenguinDomeError) as error:
            click.echo(f"warning: acts that wait are not shown: {safe(error)}", err=True)


def _keeper(context: Context) -> LogKeeper:
    return LogKeeper(context.paths, context.store, as_root=context.as_root, clock=context.clock)


def _is_wanted(entry: Document, *, who: str | None, act: str | None, target: str | None) -> bool:
    if who is not None and who not in (entry.get("who"), entry.get("login")):
        return False
    if act is not None and not f"{entry.get('act')} ".startswith(f"{act} "):
        return False
    return target is None or _is_on(entry, target.lower())


def _is_on(entry: Document, target: str) -> bool:
    named = [*_listed(entry), *_details(entry).values()]
    # Not all of its targets are in the entry: it may have been on this one.
    return entry.get("targets_sha256") is not None or any(
        isinstance(name, str) and name.lower() == target for name in named
    )


def _listed(entry: Document) -> list[Any]:
    targets = entry.get("targets")
    return targets if isinstance(targets, list) else []


def _details(entry: Document) -> Mapping[str, Any]:
    details = entry.get("details")
    return details if isinstance(details, dict) else {}


def _row(entry: Document) -> dict[str, Any]:
    targets = _listed(entry)
    more = entry.get("targets_in_all", len(targets))
    on = ", ".join(safe(target) for target in targets[:_TARGETS_SHOWN])
    if isinstance(more, int) and more > _TARGETS_SHOWN:
        on += f" and {more - _TARGETS_SHOWN} more"
    known = {name: value for name, value in _details(entry).items() if value not in (None, "", [], {})}
    details = ", ".join(f"{safe(name)}={safe(value)}" for name, value in known.items())
    who, login = entry.get("who"), entry.get("login")
    by = f"{safe(who)} (logged in as {safe(login)})" if login not in (None, who) else safe(who)
    return {**entry, "who": by, "on": on, "details": details}


@command.command("verify")
@json_option
@pass_context
def verify_command(context: Context, *, as_json: bool) -> None:
    """Hold the log in the database to the head that root signed and keeps. Exit 1 if anything is wrong.

    An entry that was edited, removed, added or put elsewhere shows, and so does a whole log that was replaced or set
    back to an earlier state. Acts whose program was killed are written into the log first.

    \b
    Examples:
      penguindome log verify
      penguindome log verify --json | jq -r '.problems[]'
    """
    _require_keys(context)
    try:
        verdict = _keeper(context).verify(_shown)
    except OSError as error:
        raise PenguinDomeError(f"the log cannot be verified: {error.strerror}: {error.filename}") from error
    if as_json:
        print_json(_described(verdict))
    else:
        _say(verdict)
    if not verdict.is_whole:
        raise click.exceptions.Exit(SOMETHING_IS_WRONG)


def _require_keys(context: Context) -> None:
    try:
        with context.as_root():
            found = (context.paths.keys / "server.fingerprint").exists()
    except PermissionError as error:
        raise UsageError("root alone can read where the log must end", hint="run this as root") from error
    if not found:
        hint = "run: penguindome setup; of several servers, one holds the keys and is asked this"
        raise UsageError("this machine has no server key that could have signed where the log must end", hint=hint)


def _described(verdict: Verdict) -> dict[str, Any]:
    return {
        "whole": verdict.is_whole,
        "entries": verdict.entries,
        "hash": verdict.hash,
        "signed_by": verdict.signed_by,
        "under_way": verdict.under_way,
        "problems": verdict.problems.found,
        "problems_in_all": verdict.problems.count,
    }


def _say(verdict: Verdict) -> None:
    for problem in verdict.problems.found:
        click.echo(safe(problem))
    if verdict.is_whole:
        under_way = f"; {verdict.under_way} acts are under way" if verdict.under_way else ""
        click.echo(f"the log is whole: {verdict.entries} entries, the last has the hash {verdict.hash}{under_way}")
        return
    unsaid = verdict.problems.count - len(verdict.problems.found)
    more = f", {unsaid} of them not shown" if unsaid else ""
    click.echo(f"{verdict.problems.count} problems in the log of administrative acts{more}", err=True)


def _shown(entries: Iterator[Document], count: int) -> Iterator[Document]:
    return progress(entries, length=count, label="verifying the log")
