"""`penguindome-client setup`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from penguindome.client.context import Client

if TYPE_CHECKING:
    from penguindome.client.installation import SetUp

TIMER = "penguindome-client.timer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--bundle", metavar="FILE",
        help="the file that `penguindome enrolment export` wrote; - reads standard input",
    )  # fmt: skip
    parser.add_argument("--url", help="without a bundle: the URL of the server")
    parser.add_argument("--fingerprint", help="with --url: the full fingerprint of the server key")
    parser.add_argument("--ca-certificate", metavar="FILE", help="with --url: the authority to trust for TLS (PEM)")
    parser.add_argument(
        "--token-file", metavar="FILE",
        help="a one-time token of `penguindome enrolment token`, beside --url or a bundle; - reads standard input",
    )  # fmt: skip
    parser.add_argument(
        "--answers", metavar="FILE", help="take answers from a file of question=answer lines; - reads standard input"
    )
    parser.add_argument("--print", action="store_true", help="print the questions with the answers in force, and stop")
    parser.add_argument("--start", action="store_true", help="start the timer now and at each boot (with systemd)")
    parser.add_argument("--check", metavar="QUESTION", help=argparse.SUPPRESS)
    parser.add_argument(
        "--force", action="store_true", help="leave the server that this machine trusts now for another"
    )
    parser.epilog = (
        "Without options, at a terminal, it asks.\n\nexamples:\n  sudo penguindome-client setup --bundle bundle.json\n"
        "  sudo penguindome-client setup --bundle bundle.json --token-file - < token\n"
        "  sudo penguindome-client setup --url https://penguindome.example.org:8443 \\\n"
        "      --fingerprint '49EE EE9A ...' --token-file token"
    )


def run(client: Client, options: argparse.Namespace) -> int:
    """Set up, and say what to do next."""
    from penguindome.client import answers

    if options.print:
        sys.stdout.write(answers.printed(client))
        return 0
    if options.check is not None:
        answers.check(client, options.check, options.answers or "-")
        return 0
    if options.answers is not None:
        done = answers.from_file(client, options.answers, force=options.force)
    elif options.bundle is not None or options.url is not None:
        done = answers.from_options(client, options)
    elif sys.stdin.isatty():
        done = answers.from_terminal(client, force=options.force)
    else:
        from penguindome.errors import UsageError

        raise UsageError("nothing says which server is this machine's", hint="add --bundle FILE")
    _tell(client, done, by_itself=options.answers is not None or options.start)
    if options.start or (done and options.bundle is options.answers is options.url is None and _wants_start(client)):
        from penguindome import systemd

        systemd.start(TIMER)
    return 0


def _tell(client: Client, done: SetUp | None, *, by_itself: bool) -> None:
    if done is None:
        server = client.settings["server.url"]
        print(f"server:       {server}" if server else "This machine waits for: penguindome-client setup --bundle FILE")
        return
    print(f"server:       {done.server_url}")
    print(f"server key:   {done.server_fingerprint}")
    print(f"this machine: {done.client_id}" + (" (a new key)" if done.made_key else ""))
    if done.overridden:
        print(f"note: {done.overridden}, and has the last word")
    if done.waits_because:
        print(f"note: {done.waits_because}; it is tried every minute")
    if done.enrolled:
        print("This machine is enrolled already; there is nothing more to do.")
    elif by_itself:
        print("The timer asks the server within two minutes to take this machine; see: penguindome-client status")
    else:
        print("next: sudo penguindome-client enroll")


def _wants_start(client: Client) -> bool:
    from penguindome import systemd

    if not systemd.has_unit(client.paths, TIMER):
        return False
    return input("Start the timer, now and at each boot? [yes] ").strip().lower() in ("", "y", "yes")
