"""`penguindome-client repository`: tell apt of the site's repository; see `apt_sources`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(client: Client, _options: argparse.Namespace) -> int:
    """Make apt's files, or remove them."""
    from penguindome.client import apt_sources

    client.require_setup()
    apt_sources.put_in_place(client)
    return 0
