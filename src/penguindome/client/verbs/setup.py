"""`penguindome-client setup`."""

from __future__ import annotations

import argparse

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--bundle", metavar="FILE", required=True,
        help="the file that `penguindome enrolment export` wrote; - reads standard input",
    )  # fmt: skip
    parser.add_argument(
        "--token-file", metavar="FILE",
        help="a one-time token of `penguindome enrolment token`, beside a bundle without one; - reads standard input",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="leave the server that this machine trusts now for another"
    )
    parser.epilog = (
        "examples:\n  sudo penguindome-client setup --bundle bundle.json\n"
        "  sudo penguindome-client setup --bundle bundle.json --token-file - < token"
    )


def run(client: Client, options: argparse.Namespace) -> int:
    """Set up, and say what to do next."""
    from penguindome.client.installation import read_bundle, set_up, with_token

    bundle = read_bundle(options.bundle)
    if options.token_file is not None:
        bundle = with_token(bundle, options.token_file, beside=options.bundle)
    done = set_up(client, bundle, force=options.force)
    print(f"server:       {done.server_url}")
    print(f"server key:   {done.server_fingerprint}")
    print(f"this machine: {done.client_id}" + (" (a new key)" if done.made_key else ""))
    if done.overridden:
        print(f"note: {done.overridden}, and has the last word")
    if done.enrolled:
        print("This machine is enrolled already; there is nothing more to do.")
    else:
        print("next: sudo penguindome-client enroll")
    return 0
