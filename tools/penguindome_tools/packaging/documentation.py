"""Write the manual pages and the bash completion of a role's command, from its parser."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

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
    page = Manpage(parser)
    page.manual = "PenguinDome"
    page.date = _date()
    (root / MANUAL / f"{PROGRAM}.1").write_text(str(page))
    (root / COMPLETIONS / PROGRAM).write_text(shtab.complete(parser, "bash"))


def _of_the_server(root: Path) -> None:
    import click
    from click.shell_completion import BashComplete
    from click_man.core import write_man_pages

    from penguindome_tools.cli import penguindome

    # Our group imports a command when it is asked for it; the generator wants to see all of them.
    context = click.Context(penguindome)
    commands = {name: penguindome.get_command(context, name) for name in penguindome.list_commands(context)}
    whole = click.Group("penguindome", commands, params=penguindome.params, help=penguindome.help)
    write_man_pages("penguindome", whole, version=version("penguindome"), target_dir=str(root / MANUAL), date=_date())
    completion = BashComplete(penguindome, {}, "penguindome", "_PENGUINDOME_COMPLETE")
    (root / COMPLETIONS / "penguindome").write_text(completion.source())


def _date() -> str:
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%d")
