"""`penguindome-client enroll`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "exit status: 0 enrolled, 1 not (yet)"


def run(client: Client, _options: argparse.Namespace) -> int:
    """Ask, and say what came of it."""
    from penguindome.client import enrolment

    with client.locked():
        if client.state.enrolment == "enrolled" and not client.identity.may_ask_for_enrolment:
            print(f"This machine is enrolled at {client.settings['server.url']}.")
            return 0
        state = enrolment.ask(client)
    if state == "enrolled":
        print(f"This machine is enrolled at {client.settings['server.url']}.")
        return 0
    print("The server has the request, and an administrator must approve it. Read him the fingerprint of this machine:")
    print(f"  {client.identity.client_id}")
    print("It is asked again every few minutes by itself.")
    return 1
