"""`penguindome-client watch`: copies the running code, and lets the copy watch over an update."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(client: Client, _options: argparse.Namespace) -> int:
    """Do so, if there is an update to watch over."""
    from penguindome.client import updating

    updating.hand_over(client)
    return 0
