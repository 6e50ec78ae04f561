"""`penguindome-client prove`: the new client of an update shows that it works."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(client: Client, _options: argparse.Namespace) -> int:
    """Print the outcome as JSON; exit status 1 for a fault."""
    from penguindome import json
    from penguindome.client.proof import prove

    proof = prove(client)
    print(json.dumps(proof.to_document()))
    return 1 if proof.fault else 0
