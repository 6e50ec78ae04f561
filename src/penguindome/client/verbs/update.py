"""`penguindome-client update`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(client: Client, _options: argparse.Namespace) -> int:
    """Ask for news, and say what came."""
    from penguindome.client import updates

    with client.locked():
        updated = updates.ask(client)
        problem = client.state.last_error
        release = client.state.highest_release
    if problem:
        print(problem)
        return 1
    print(f"A new manifest of release {release} is in force." if updated else "There is nothing new.")
    return 0
