"""`penguindome-client show`: what is reported about this machine, for whoever uses it."""

from __future__ import annotations

import argparse
from typing import Any

from penguindome.client.context import Client
from penguindome.errors import PenguinDomeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--last", action="store_true", help="show the report that was delivered last, and run nothing")
    parser.add_argument("--json", action="store_true", help="print the report as it is sent, as JSON")


def run(client: Client, options: argparse.Namespace) -> int:
    """Print a report; nothing is sent or kept."""
    from penguindome import json

    client.require_setup()
    report = _last(client) if options.last else _fresh(client)
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    for kind in ("plugins", "commands"):
        for name, output in report[kind].items():
            print(f"{kind[:-1]} {name}:")
            print("\n".join(f"  {line}" for line in json.dumps(output, indent=2).splitlines()))
    return 0


def _fresh(client: Client) -> dict[str, Any]:
    from penguindome.client import reports

    plugins = reports.collect(client, client.installed())
    return {"hostname": client.identity.hostname, "plugins": plugins, "commands": {}}


def _last(client: Client) -> dict[str, Any]:
    from penguindome import json
    from penguindome.files import read_limited

    try:
        report: dict[str, Any] = json.loads_plain(read_limited(client.last_report, 64 << 20))
    except FileNotFoundError as error:
        raise PenguinDomeError(
            "no report was delivered yet", hint="see what would be sent: penguindome-client show"
        ) from error
    report.pop("next_exchange_token", None)
    return report
