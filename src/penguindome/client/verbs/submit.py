"""`penguindome-client submit`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(client: Client, _options: argparse.Namespace) -> int:
    """Send what waits, whatever the back-off says."""
    from penguindome.client import delivery

    with client.locked():
        result = delivery.deliver(client, patient=False)
        waiting = len(client.spool.waiting())
    print(f"{result.delivered} delivered, {result.unacceptable} set aside as unacceptable, {waiting} waiting")
    return 1 if waiting or result.unacceptable else 0
