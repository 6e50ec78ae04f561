"""`penguindome-client status`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(client: Client, options: argparse.Namespace) -> int:
    """Say how this machine stands with its server."""
    from penguindome.client import standing

    now = standing.take(client)
    if options.json:
        from penguindome import json

        print(json.dumps(now.to_document(), indent=2))
    else:
        print("\n".join(standing.sentences(now, client.clock())))
    return 0
