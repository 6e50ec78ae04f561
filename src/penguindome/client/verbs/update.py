"""`penguindome-client update`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(client: Client, _options: argparse.Namespace) -> int:
    """Ask for news, begin what they ask for, and say what came."""
    from penguindome.client import update_record, update_words, updates, updating

    with client.locked():
        updated = updates.ask(client)
        updating.go_on(client, now=True)
        problem = client.state.last_error
        release = client.state.highest_release
    if problem:
        print(problem)
        return 1
    record = update_record.load(client.paths)
    moving = record is not None and record.phase in update_record.UNFINISHED
    lines = [f"A new manifest of release {release} is in force."] if updated else []
    lines += [update_words.standing(client.paths, record)] if moving else []
    lines += update_words.waiting(client.paths, record, in_force=release)
    complaints = update_words.complaints(record)
    print("\n".join([*lines, *complaints] or ["There is nothing new."]))
    return 1 if complaints else 0
