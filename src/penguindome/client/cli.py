"""`penguindome-client`: parses, calls the verb's module, and turns errors into one line and an exit status.

Only the module of the verb that was typed is imported: an idle minute pays for nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, ClassVar, NoReturn

from penguindome.errors import PenguinDomeError
from penguindome.paths import Paths

PROGRAM = "penguindome-client"

VERBS = {
    "setup": "make this machine a client, with the bundle that the administrator gave you",
    "enroll": "ask the server to take this machine, or whether it has",
    "run": "do what the timer does every minute: update, verify, collect, submit",
    "collect": "run the plugins now and keep what they report until it is submitted",
    "submit": "send all reports that wait",
    "update": "ask the server for news, take what is signed, and begin to move to a new release",
    "verify": "compare the installed files with the signed manifest (exit status 1: they differ)",
    "status": "say in plain words how this machine stands with its server",
    "show": "show what would be sent about this machine, or what was sent last",
}

HIDDEN = ("act", "prove", "repository", "watch")
"""Verbs that the client itself starts, and no person needs."""

_EPILOG = """\
examples:
  sudo penguindome-client setup --bundle bundle.json
  sudo penguindome-client status
  sudo penguindome-client show
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors say what to do next."""

    made: ClassVar[list[_Parser]] = []

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.made.append(self)

    def error(self, message: str) -> NoReturn:
        """One line about the error, one about help; exit status 2."""
        self.exit(2, f"{self.prog}: {message}{self._guess(message)}; see: {self.prog} --help\n")

    def _guess(self, message: str) -> str:
        from difflib import get_close_matches

        words = message.partition(": ")[2].split() if message.startswith("unrecognized") else message.split("'")[1:2]
        for word in words:
            known = _options() if word.startswith("-") else list(VERBS)
            close = get_close_matches(word.split("=")[0], known, 1, 0.6)
            if close:
                return f" (did you mean {close[0]}?)"
        return ""


def _options() -> list[str]:
    """Every long option of the verb that was typed, as the usage lines show them."""
    return [word.strip("[]") for parser in _Parser.made for word in parser.format_usage().split() if "--" in word]


def build_parser(*verbs: str) -> argparse.ArgumentParser:
    """The parser; the options of `verbs` only (none given: of all)."""
    shared = _Parser(add_help=False)
    shared.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="log everything to stderr, and show tracebacks"
    )
    parser = _Parser(
        prog=PROGRAM, description="The PenguinDome client.", epilog=_EPILOG, parents=[shared], allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for verb, description in VERBS.items():
        sub = commands.add_parser(
            verb, help=description, description=description[0].upper() + description[1:] + ".", parents=[shared],
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        if not verbs or verb in verbs:
            _module(verb).add_arguments(sub)
    for verb in HIDDEN:
        if verb in verbs:
            _module(verb).add_arguments(commands.add_parser(verb, parents=[shared], allow_abbrev=False))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 failed or found problems, 2 asked wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    typed = [word for word in words if word in VERBS or word in HIDDEN][:1]
    parser = build_parser(*(typed or ("none",)))
    options = parser.parse_args(words)
    if options.version:
        from penguindome.client.version import package_version

        print(f"{PROGRAM} {package_version()}")
        return 0
    if options.verb is None:
        parser.error("what should be done? name a verb")
    options.debug = getattr(options, "debug", False)
    # A process that is told to end does so through its `finally` clauses, which kill what it started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        return _run(options)
    except Exception as error:
        if options.debug:
            raise
        return _report(error)
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    from penguindome import logging
    from penguindome.client.context import Client

    client = Client(Paths.from_environment())
    settings = client.settings
    stderr_level = "debug" if options.debug else None
    logging.configure(settings, component="client", paths=client.paths, stderr_level=stderr_level)
    for warning in settings.warnings:
        logging.get_logger(__name__).warning("{}", warning)
    status: int = _module(options.verb).run(client, options)
    sys.stdout.flush()
    return status


def _module(verb: str) -> Any:
    return importlib.import_module(f"penguindome.client.verbs.{verb}")


def _report(error: Exception) -> int:
    """One line on stderr, and the exit status."""
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has seen enough. Python would complain again when it flushes at exit.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, PenguinDomeError):
        if isinstance(error.__cause__, PermissionError):
            error.hint = error.hint or "run this with sudo"
        hint = f"; {error.hint}" if error.hint else ""
        print(f"{PROGRAM}: {error.message}{hint}", file=sys.stderr)
        return error.exit_status
    if isinstance(error, PermissionError):
        print(f"{PROGRAM}: {error.filename}: permission denied; run this with sudo", file=sys.stderr)
        return 1
    from penguindome.logging import get_logger

    get_logger(__name__).debug("unexpected: {}", error, exc_info=True)
    print(f"{PROGRAM}: {type(error).__name__}: {error}; run it again with --debug to see where", file=sys.stderr)
    return 1


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
