"""Write the manual pages and the bash completion of a role's command, from its parser."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

MANUAL = "usr/share/man/man1"
COMPLETIONS = "usr/share/bash-completion/completions"


def write_documentation(role: str, root: Path) -> None:
    """Write them below `root`, as they lie on a machine; the date in them is SOURCE_DATE_EPOCH's."""
    (root / MANUAL).mkdir(parents=True, exist_ok=True)
    (root / COMPLETIONS).mkdir(parents=True, exist_ok=True)
    if role == "client":
        _of_the_client(root)
    else:
        _of_the_server(root)


def _of_the_client(root: Path) -> None:
    import shtab
    from argparse_manpage.manpage import Manpage

    from penguindome.client.cli import PROGRAM, build_parser

    parser = build_parser()
    (root / COMPLETIONS / PROGRAM).write_text(shtab.complete(parser, "bash"))
    page = Manpage(parser)
    page.description = "watch over this machine for a PenguinDome server"
    page.manual = "PenguinDome"
    page.source = f"PenguinDome {version('penguindome')}"
    page.date = _date()
    (root / MANUAL / f"{PROGRAM}.1").write_text(str(page))


def _of_the_server(root: Path) -> None:
    import click
    from click.shell_completion import BashComplete
    from click_man.core import write_man_pages

    from penguindome_tools.cli import penguindome

    completion = BashComplete(penguindome, {}, "penguindome", "_PENGUINDOME_COMPLETE")
    (root / COMPLETIONS / "penguindome").write_text(completion.source())
    # Our group imports a command when it is asked for it; the generator wants to see all of them.
    context = click.Context(penguindome)
    found = {name: penguindome.get_command(context, name) for name in penguindome.list_commands(context)}
    commands = {name: command for name, command in found.items() if command}
    whole = click.Group("penguindome", commands, params=penguindome.params, help=penguindome.help)
    for command in _all_of(whole):
        _make_printable(command)
    number = version("penguindome")
    write_man_pages("penguindome", whole, version=number, target_dir=str(root / MANUAL), date=_date())
    for page in (root / MANUAL).glob("penguindome*.1"):
        # The generator refers to `penguindome clients-list(1)` and calls the page penguindome-clients-list.1.
        page.write_text(
            re.sub(r"See \\fB\S+( \S+)+\(1\)", lambda m: "See " + m[0][4:].replace(" ", "-"), page.read_text())
        )


def _all_of(command: click.Command) -> Iterator[click.Command]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _all_of(inner)


def _make_printable(command: click.Command) -> None:
    r"""Let the help of a command be what a manual page may hold: whole sentences, and `.nf` for what follows `\b`."""
    help_text = inspect.cleandoc(command.help or "")
    command.short_help = " ".join(help_text.partition("\n\n")[0].split())
    paragraphs = []
    for paragraph in help_text.replace("\\", "\\e").split("\n\n"):
        kept = paragraph.removeprefix("\b\n")
        safe = re.sub(r"^(?=[.'])", r"\\&", kept, flags=re.MULTILINE)
        paragraphs.append(f".nf\n{safe}\n.fi" if kept != paragraph else safe)
    command.help = "\n\n".join(paragraphs)


def _date() -> str:
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%d")
