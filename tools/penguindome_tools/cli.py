"""The command `penguindome`: finds the module of a verb, runs it, and turns errors into one line and an exit status."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import click

from penguindome import logging
from penguindome.errors import PenguinDomeError
from penguindome.paths import Paths
from penguindome.settings import Schema, Settings
from penguindome_server.settings import load_server_settings
from penguindome_tools.acts import ActInterrupted
from penguindome_tools.context import Context
from penguindome_tools.output import safe

log = logging.get_logger(__name__)

INTERRUPTED = 130
COMMANDS = (
    *("audit-trail", "backup", "certificate", "checks", "clients", "command", "enrolment", "issues", "keys", "log"),
    *("password", "patch", "release", "restore", "settings", "setup", "store", "wipe"),
)


class CommandGroup(click.Group):
    """Imports the module of a command only when that command is asked for, and suggests a name for a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"penguindome_tools.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begin with; a misspelt one is an error that names the nearest."""
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(version("penguindome"), prog_name="penguindome")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.pass_context
def penguindome(ctx: click.Context, *, debug: bool) -> None:
    """Watch over a fleet of Linux laptops.

    It is for root: sudo penguindome COMMAND.

    \b
    Begin here:
      penguindome setup                     make keys, directories and settings
      penguindome enrolment export FILE     the bundle that a laptop enrols with
      penguindome clients list              who is there, who waits for approval
      penguindome issues list               what is wrong, and on which laptop
      penguindome release create            publish what laptops run
    """
    context = Context(Paths.from_environment(), debug=debug)
    ctx.obj = context
    ctx.call_on_close(context.close)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed or found something, 2 asked wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # A SystemExit by a command (ctx.exit) is returned as a status because of standalone_mode=False.
        status: Any = penguindome.main(words, prog_name="penguindome", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        click.echo(_said_of_end(error.__cause__), err=True)
        return INTERRUPTED
    except PenguinDomeError as error:
        if "--debug" in words:
            traceback.print_exc()
        click.echo(f"penguindome: {safe(error.message)}{_hint(error.hint or _way_to_root(error.__cause__))}", err=True)
        return error.exit_status
    except BrokenPipeError:
        # The reader of a pipe has seen enough (`| head`); Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # The top of the process: what nobody expected gets one line here and its traceback in the log.
        if "--debug" in words:
            raise
        _prepare_log()
        log.error("the command {} failed", " ".join(words), exc_info=error)
        if isinstance(error, OSError) and error.strerror:
            click.echo(f"penguindome: {safe(_said_of_system(error))}", err=True)
            return 1
        click.echo(
            f"penguindome: internal error: {type(error).__name__}: {safe(str(error))}; repeat it with --debug", err=True
        )
        return 70


def _said_of_end(cause: BaseException | None) -> str:
    """What is said of a command that was ended from outside. At a question, nothing was done yet."""
    if isinstance(cause, ActInterrupted):
        return f"penguindome: {cause.act} was interrupted and may be half done; to finish it, give the command again"
    if isinstance(cause, KeyboardInterrupt):
        return "penguindome: interrupted"
    return "Aborted: nothing was changed."


def _said_of_system(error: OSError) -> str:
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror}{_hint(_way_to_root(error))}"


def _way_to_root(cause: BaseException | None) -> str | None:
    return "run this with sudo" if isinstance(cause, PermissionError) and os.getuid() != 0 else None


def _hint(text: str | None) -> str:
    return f"; {text}" if text else ""


def _prepare_log() -> None:
    """Let what is logged go where the settings say, and not to the terminal."""
    paths = Paths.from_environment()
    try:
        settings = load_server_settings(paths)
    except (PenguinDomeError, OSError):
        settings = Settings(Schema(logging.LOGGING_SETTINGS))
    # The log is root's, and the command may have become the service user.
    os.seteuid(os.getuid())
    os.setegid(os.getgid())
    logging.configure(settings, component="admin", paths=paths, stderr_level="critical")


if __name__ == "__main__":
    sys.exit(main())
