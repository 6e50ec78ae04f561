"""`penguindome-client run`: what the timer starts every minute."""

from __future__ import annotations

import argparse
import sys

from penguindome.client.context import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--spread", metavar="SECONDS", type=_seconds, default=0.0,
        help="wait first, up to so many seconds, always the same on this machine (for cron; systemd spreads by itself)",
    )  # fmt: skip
    parser.add_argument("--now", action="store_true", help="collect and submit whatever schedule and back-off say")


def run(client: Client, options: argparse.Namespace) -> int:
    """Do the minute's work, unless another process is at it already.

    A machine that is not set up waits in silence, but for a person who looks: the timer would say it every minute.
    """
    from penguindome.client.errors import NotSetUp
    from penguindome.client.minute import Minute
    from penguindome.files import AlreadyRunning
    from penguindome.logging import get_logger

    log = get_logger(__name__)
    try:
        if options.spread:
            _wait(client, options.spread)
        _meet_server(client)
        with client.locked():
            Minute(client, now=options.now).run()
    except AlreadyRunning as error:
        log.debug(error.message)
        _go_on_with_update(client)
    except NotSetUp as error:
        if sys.stderr.isatty():
            raise
        log.debug(error.message)
    return 0


def _meet_server(client: Client) -> None:
    if client.identity.awaited_fingerprint is None:
        return
    from penguindome.client.errors import ServerError
    from penguindome.client.introduction import conclude
    from penguindome.logging import get_logger

    try:
        conclude(client)
    except ServerError as error:
        get_logger(__name__).warning("the server cannot be met yet: {}", error.message)


def _go_on_with_update(client: Client) -> None:
    """While an update installs the minute has nothing to do, but to start a watcher that died."""
    if (client.paths.client_state / "update.json").exists():
        from penguindome.client import update_record, updating

        record = update_record.load(client.paths)
        if record is not None and record.phase in update_record.INSTALLING:
            updating.go_on(client)


def _wait(client: Client, seconds: float) -> None:
    import time

    from penguindome.client.backoff import spread

    client.require_setup()
    time.sleep(spread(client.identity.client_id, seconds))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError("from 0 to 3600 seconds")
    return value
