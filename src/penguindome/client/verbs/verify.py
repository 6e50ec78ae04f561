"""`penguindome-client verify`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")
    parser.epilog = "exit status: 0 all is as signed, 1 something is not"


def run(client: Client, options: argparse.Namespace) -> int:
    """List what is not as the signed manifest says."""
    client.require_setup()
    installed = client.installed()
    complaints = installed.complaints()
    if options.json:
        from penguindome import json

        problems = [{"path": problem.path, "reason": problem.reason} for problem in installed.problems]
        print(json.dumps({"manifest": installed.condition, "problems": problems}, indent=2))
    else:
        for complaint in complaints:
            print(complaint)
        if not complaints and installed.manifest is not None:
            patched = f", {len(installed.overlay.paths)} paths patched" if installed.overlay else ""
            print(
                f"{len(installed.manifest.files)} files are as signed (release {installed.manifest.release}{patched})."
            )
    return 1 if complaints else 0
