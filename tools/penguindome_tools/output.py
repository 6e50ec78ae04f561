"""How commands speak: tables on a terminal, JSON for programs, and hostile text made harmless."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from penguindome import json
from penguindome.errors import PenguinDomeError, UsageError
from penguindome.files import write_atomically

T = TypeVar("T")
ENTRIES_SHOWN = 10
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def safe(value: Any) -> str:
    """`value` as text in which nothing can move a cursor, forge a line or reverse its direction.

    What clients sent is shown through this and in no other way: control, format and surrogate characters appear as
    `\\x1b`-like escapes.
    """
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else str(value)
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--json`, passed to a command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of a table.")(function)


def print_json(value: Any) -> None:
    """Print one value as JSON, dates as ISO 8601 UTC."""
    click.echo(json.dumps(value))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str = "") -> None:
    """Print `rows` as a table of `columns` on a terminal, as tab-separated lines in a pipe, or whole as JSON.

    A column's heading is its key with spaces for underscores. `empty` is said on stderr when there is no row.
    """
    if as_json:
        print_json(list(rows))
    elif not rows:
        if empty:
            click.echo(empty, err=True)
    elif sys.stdout.isatty():
        table = Table(box=box.SIMPLE_HEAD, header_style="bold")
        for column in columns:
            table.add_column(column.replace("_", " "), overflow="fold")
        for row in rows:
            table.add_row(*(Text(safe(row.get(column))) for column in columns))
        Console().print(table)
    else:
        for row in rows:
            click.echo("\t".join(safe(row.get(column)) for column in columns))


def print_fields(document: Mapping[str, Any], *, indent: int = 0) -> None:
    """Print one document for people: a line for each field, nested ones indented, the first entries of long lists."""
    width = max((len(safe(name)) for name, value in document.items() if not _is_nested(value)), default=0) + 1
    for name, value in document.items():
        label = " " * indent + safe(name) + ":"
        if not _is_nested(value):
            text = ", ".join(safe(entry) for entry in value) if isinstance(value, list) else safe(value)
            click.echo(f"{label:<{width + indent}} {text}".rstrip())
            continue
        click.echo(label)
        if isinstance(value, dict):
            print_fields(value, indent=indent + 2)
        elif isinstance(value, str):
            for line in value.splitlines():
                click.echo(" " * (indent + 2) + safe(line))
        else:
            _print_entries(value, indent + 2)


def _print_entries(entries: Sequence[Any], indent: int) -> None:
    for entry in entries[:ENTRIES_SHOWN]:
        click.echo(" " * indent + "- " + _one_line(entry))
    if len(entries) > ENTRIES_SHOWN:
        click.echo(" " * indent + f"... and {len(entries) - ENTRIES_SHOWN} more (--json shows all)")


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value)
    if isinstance(value, str):
        return "\n" in value.strip()
    return isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value)


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{safe(name)} {_one_line(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(_one_line(entry) for entry in value) + "]"
    return safe(value)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before a destructive act; `yes` (the option `--yes`) answers. Raises UsageError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"this asks for confirmation: {question}", hint="repeat the command with --yes")
    click.confirm(question, abort=True)


def progress(items: Iterable[T], *, length: int | None, label: str) -> Iterator[T]:
    """Pass `items` through, with a progress bar on stderr when that is a terminal."""
    yield from track(
        items,
        total=length,
        description=label,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def write_output(path: str, text: str, *, mode: int = 0o600) -> None:
    """Write text to standard output (`-`) or, at once and with this mode, to a file.

    Raises PenguinDomeError when the file cannot be written.
    """
    if path == "-":
        click.echo(text, nl=False)
        return
    try:
        write_atomically(Path(path), text, mode=mode)
    except OSError as error:
        # The error names the file that would have been renamed.
        raise PenguinDomeError(f"{path} cannot be written: {error.strerror}") from error
