"""`penguindome checks`: which checks there are, whether their files are right, and why one matches or not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from penguindome import json
from penguindome.errors import InvalidData, UsageError
from penguindome.times import format_duration, isoformat
from penguindome_server.checks import Check, read_checks
from penguindome_server.enrolment import find_client
from penguindome_server.query import Explanation, explain
from penguindome_server.services import SHIPPED_CHECKS
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import json_option, print_json, print_table, safe

LARGEST_DOCUMENT = 16 * 1024 * 1024
LONGEST_VALUE = 200


@click.group()
def command() -> None:
    """The checks that find problems in what clients report.

    They are YAML: the shipped ones, and a site's own in /etc/penguindome/checks.d/*.yml, which add to them, change
    their fields by name, or disable them.
    """


@command.command("list")
@json_option
@pass_context
def list_checks(context: Context, *, as_json: bool) -> None:
    """List all checks, also the disabled ones.

    \b
    Examples:
      penguindome checks list
      penguindome checks list --json
    """
    if as_json:
        print_json([_described(check) for check in context.checks.all])
        return
    rows = [{**_described(check), "source": _short(check.source)} for check in context.checks.all]
    print_table(rows, ["name", "enabled", "severity", "grace_period", "description", "source"], as_json=False)


def _described(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "enabled": check.enabled,
        "severity": check.severity,
        "grace_period": format_duration(check.grace_period),
        "alert_frequency": format_duration(check.alert_frequency),
        "description": check.description,
        "remedy": check.remedy,
        "query": _plain(check.query),
        "older_than": {path: format_duration(age) for path, age in check.older_than.items()},
        "source": check.source,
    }


def _plain(value: Any) -> Any:
    """With moments as text: in a query they stand under any key."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return isoformat(value) if isinstance(value, datetime) else value


def _short(source: str) -> str:
    """A shipped check's file by its name alone."""
    return source.removeprefix(f"{SHIPPED_CHECKS}/")


@command.command()
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@pass_context
def lint(context: Context, *, directory: Path | None) -> None:
    """Look for mistakes in a site's checks, laid over the shipped ones; exit 1 if there are any.

    Every problem is shown with file and line. Without DIRECTORY the site's own checks.d is looked at.

    \b
    Examples:
      penguindome checks lint
      penguindome checks lint ~/checks-for-review
    """
    _, problems = read_checks(SHIPPED_CHECKS, directory or context.paths.settings / "checks.d")
    for problem in problems:
        click.echo(safe(problem))
    click.get_current_context().exit(1 if problems else 0)


@command.command()
@click.argument("name")
@click.option("--client", metavar="HOST", help="The stored document of this client (host name or client id).")
@click.option(
    "--document",
    metavar="FILE",
    type=click.File("rb"),
    help='A client\'s document as JSON, {"plugins": {...}}; - is stdin.',
)
@json_option
@pass_context
def test(context: Context, *, name: str, client: str | None, document: Any, as_json: bool) -> None:
    """Say whether the check NAME matches a client, and which part of its query does. Exit 1 if it matches.

    \b
    Examples:
      penguindome checks test disk-not-encrypted --client laptop7
      penguindome-client show --json | penguindome checks test firewall-missing --document -
    """
    if name not in context.checks:
        raise UsageError(f"there is no check {name!r}", hint="penguindome checks list shows all")
    if (client is None) == (document is None):
        raise UsageError("a check is tested against one document", hint="give either --client or --document")
    subject = find_client(context.store, client) if client is not None else _read(document)
    check = context.checks[name]
    matches = check.matches(subject)
    parts = explain(check.query, subject)
    if as_json:
        print_json(
            {
                "name": name,
                "matches": matches,
                "enabled": check.enabled,
                "parts": [_plain(vars(part)) for part in parts],
            }
        )
    else:
        click.echo(f"{name}: {'matches' if matches else 'does not match'}" + ("" if check.enabled else " (disabled)"))
        for part in parts:
            click.echo(_line(part))
        for path, age in check.older_than.items():
            click.echo(f"       {path} older than {format_duration(age)} at the time of collection")
    click.get_current_context().exit(1 if matches else 0)


def _line(part: Explanation) -> str:
    mark = "true " if part.matches else "false"
    found = ""
    if part.path is not None:
        found = " <- " + (", ".join(_value(value) for value in part.found) if part.found else "(nothing there)")
    return f"  {'  ' * part.depth}{mark}  {safe(part.part)}{found}"


def _value(value: Any) -> str:
    text = safe(value) if isinstance(value, str) else safe(_plain(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def _read(file: Any) -> dict[str, Any]:
    contents = file.read(LARGEST_DOCUMENT + 1)
    if len(contents) > LARGEST_DOCUMENT:
        raise InvalidData("the document is larger than 16 MiB")
    value = json.loads(contents)
    if not isinstance(value, dict):
        raise InvalidData("the document must be a JSON object")
    return value
