"""`python -m penguindome_server`: the server, in the foreground, until SIGTERM."""

from __future__ import annotations

import argparse
import sys

from penguindome.errors import PenguinDomeError
from penguindome.paths import Paths


def main() -> int:
    """Run the server. Exit status 2 for settings that do not fit, 1 when it could not run."""
    parser = argparse.ArgumentParser(
        prog="penguindome-server",
        description="Serve the clients of PenguinDome, with the settings in /etc/penguindome/server.yml.",
        epilog="SIGHUP reads the settings again; SIGTERM ends it after the requests that are being answered.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only read settings, checks and certificates, and say what is wrong with them",
    )
    arguments = parser.parse_args()
    try:
        # Imported here, so that --help and a misspelt word need no Flask.
        from penguindome_server.gunicorn_runner import check, serve

        (check if arguments.check else serve)(Paths.from_environment())
    except PenguinDomeError as error:
        print(f"penguindome-server: {error.message}" + (f"; {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
