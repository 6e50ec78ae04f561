"""`penguindome-client collect`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(client: Client, _options: argparse.Namespace) -> int:
    """Run the plugins and spool the report."""
    from penguindome.client import minute

    with client.locked():
        installed = client.installed()
        kept = minute.collect(client, installed)
        waiting = len(client.spool.waiting())
    for complaint in installed.complaints():
        print(complaint)
    if not kept:
        print("This machine is going down; nothing was kept.")
        return 1
    print(f"A report was collected; {waiting} wait to be submitted.")
    return 0
