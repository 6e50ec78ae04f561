"""`penguindome-client act`: what a transient unit runs, and nobody types."""

from __future__ import annotations

import argparse
import re

from penguindome.client.context import Client

COMMANDS = "commands"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "what", metavar="ID", type=_what, help="an accepted action, or `commands`: those of the release"
    )


def run(client: Client, options: argparse.Namespace) -> int:
    """Run it, unless another process is at it already."""
    from penguindome.client import runner
    from penguindome.client.context import Onlooker
    from penguindome.files import AlreadyRunning
    from penguindome.logging import get_logger

    client.require_setup()
    onlooker = Onlooker(client.paths, clock=client.clock)
    try:
        if options.what == COMMANDS:
            runner.act_for_release(onlooker)
        else:
            runner.act(onlooker, options.what)
    except AlreadyRunning as error:
        get_logger(__name__).debug(error.message)
    return 0


def _what(text: str) -> str:
    if text != COMMANDS and not re.fullmatch("[0-9a-f]{32}", text):
        raise argparse.ArgumentTypeError("this is no id of an action")
    return text
