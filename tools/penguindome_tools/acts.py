"""Administrative acts: which commands are acts, and what is told of each.

    @command.command()
    @click.argument("client")
    @pass_context
    @administrative("clients revoke")
    def revoke(context, *, client): ...
        context.acts_on(document["hostname"], client_id=document["_id"])

Every act is told in the administrative log, whether it succeeded or not: who, when, what, on whom, outcome. What was
asked wrongly, or called off before it was on anybody, is no act. So a command calls `acts_on` before it changes
anything, with what may be read by everybody who may read the log: no secrets.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any

import click

from penguindome import logging
from penguindome.errors import PenguinDomeError

if TYPE_CHECKING:
    from penguindome_server.admin_log_acts import ActFile
    from penguindome_tools.context import Context

log = logging.get_logger(__name__)

LONGEST_OUTCOME = 300
ASKED_WRONGLY = 2
"""The exit status of a command that was asked wrongly."""
_LONGEST_NAME = 100
_UNSET_USER_ID = 2**32 - 1

Afterwards = Callable[[], None]


class ActInterrupted(KeyboardInterrupt):
    """An act was interrupted when it had said what it is on: what it changes may be changed in part."""

    def __init__(self, act: str) -> None:
        super().__init__(act)
        self.act = act


def administrative(
    act: str, *, unless: Sequence[str] = ()
) -> Callable[[Callable[..., Afterwards | None]], Callable[..., None]]:
    """Mark the function of a command (whose first argument is the Context) as the administrative act `act`: the words
    that are typed. With one of the options `unless` it changes nothing, and is none.

    What the function returns, if anything, is called once the act has been told: how that goes is no outcome of it.
    """

    def mark(function: Callable[..., Afterwards | None]) -> Callable[..., None]:
        @wraps(function)
        def acting(context: Context, *arguments: Any, **options: Any) -> None:
            if any(options.get(name) for name in unless):
                afterwards = function(context, *arguments, **options)
            else:
                with context.acting(act):
                    afterwards = function(context, *arguments, **options)
            if afterwards is not None:
                afterwards()

        # Decorators that are put over this one copy it, as functools.wraps does.
        acting.administrative_act = act  # type: ignore[attr-defined]  # functions have no such field
        return acting

    return mark


def act_of(command: click.Command) -> str | None:
    """The act that a command was marked as; None when it is none."""
    act: str | None = getattr(command.callback, "administrative_act", None)
    return act


class Telling:
    """One act under way, from its beginning to what is told of it."""

    def __init__(self, context: Context, act: str) -> None:
        self._context = context
        self._act = act
        self._file: ActFile | None = None
        self._begun_at = context.clock()
        self._trouble: Exception | None = None
        self.targets: dict[str, None] = {}
        self.details: dict[str, Any] = {}

    @property
    def is_on_something(self) -> bool:
        """Whether the act has said what it is on."""
        return bool(self.targets or self.details)

    def begin(self) -> None:
        """Make the act's file, where there is a place for it yet: a first setup makes that."""

        def make_file() -> None:
            if self._context.paths.keys.is_dir():
                self._make_file()

        self._try(make_file)

    def note(self, targets: Sequence[str], details: Mapping[str, Any]) -> None:
        """Note on whom the act is, before anything is done to them."""
        new = [target for target in dict.fromkeys(targets) if target not in self.targets]
        self.targets.update(dict.fromkeys(new))
        self.details.update(details)
        if file := self._file:
            self._try(lambda: file.note(new, details))

    def end(self, outcome: str | None) -> None:
        """Tell how the act went; None: there is nothing to tell. Never raises: the act's own result stands."""
        if outcome is None:
            if file := self._file:
                self._try(lambda: self._forget(file))
            return
        log.info("{}: {}: {}", self._context.who, self._act, outcome)
        self._try(lambda: self._write(outcome))
        if self._trouble is not None:
            click.echo(f"warning: the administrative log: {_said(self._trouble)}", err=True)

    def _forget(self, file: ActFile) -> None:
        with self._context.as_root():
            file.discard()

    def _write(self, outcome: str) -> None:
        from penguindome_server.admin_log_keeper import LogKeeper
        from penguindome_server.store import StoreUnavailable

        context = self._context
        with context.as_root():
            file = self._file
            if file is None:
                file = self._make_file()
                file.note(list(self.targets), self.details)
                self._trouble = None
            file.end(outcome, at=context.clock())
            can_sign = (context.paths.keys / "server.fingerprint").exists()
        # An act that did not need the store waits for one that does, and so does one before the first setup.
        if not can_sign or (store := context.open_store) is None:
            return
        try:
            repairs = LogKeeper(context.paths, store, as_root=context.as_root, clock=context.clock).settle()
        except StoreUnavailable as error:
            log.info("the act waits to be written into the administrative log: {}", error.message)
            return
        for repair in repairs:
            click.echo(f"warning: the administrative log: {_said(PenguinDomeError(repair))}", err=True)

    def _make_file(self) -> ActFile:
        from penguindome_server.admin_log_acts import ActFile, Beginning
        from penguindome_server.admin_log_keeper import acts_directory

        context = self._context
        beginning = Beginning(self._act, context.who, login_name(), gethostname(), self._begun_at)
        with context.as_root():
            self._file = ActFile.begin(acts_directory(context.paths), beginning)
        return self._file

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            # Whatever is wrong with the log: what the act did is done, and its own result stands.
            log.info("the act could not be told: {}: {}", type(error).__name__, error)
            self._trouble = error


@contextmanager
def telling(context: Context, act: str) -> Iterator[Telling]:
    """Carry out an act, and tell how it went. Raises ActInterrupted for a KeyboardInterrupt once it is on something."""
    told = Telling(context, act)
    told.begin()
    try:
        yield told
    except BaseException as error:
        told.end(outcome_of(error, on_something=told.is_on_something))
        if isinstance(error, KeyboardInterrupt) and told.is_on_something:
            raise ActInterrupted(act) from error
        raise
    told.end("done")


def outcome_of(error: BaseException, *, on_something: bool) -> str | None:
    """What is told of an act that ended with this; None when it is none: asked wrongly, or called off at once."""
    if isinstance(error, click.Abort):
        return "aborted" if on_something else None
    if isinstance(error, click.exceptions.Exit):
        return _outcome_of_status(error.exit_code)
    if isinstance(error, SystemExit):
        return _outcome_of_status(error.code)
    if isinstance(error, click.ClickException):
        wrong, message = error.exit_code == ASKED_WRONGLY, error.format_message()
    elif isinstance(error, PenguinDomeError):
        wrong, message = error.exit_status == ASKED_WRONGLY, error.message
    elif isinstance(error, BrokenPipeError):
        wrong, message = False, "nobody read its output to the end"
    elif isinstance(error, Exception):
        wrong, message = False, f"internal error: {type(error).__name__}: {error}"
    else:
        return "interrupted"
    return None if wrong and not on_something else _outcome("failed", message)


def _outcome_of_status(status: object) -> str:
    if status in (None, 0):
        return "done"
    return _outcome("failed", f"exit status {status}" if isinstance(status, int) else str(status))


def _outcome(how: str, message: str) -> str:
    from penguindome_tools.output import safe

    text = f"{how}: {safe(message)}"
    return text if len(text) <= LONGEST_OUTCOME else text[: LONGEST_OUTCOME - 3] + "..."


def _said(error: Exception) -> str:
    from penguindome_tools.output import safe

    if isinstance(error, PenguinDomeError):
        return safe(error.message)[:LONGEST_OUTCOME] + (f"; {error.hint}" if error.hint else "")
    reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
    return f"this act could not be written into it: {safe(reason)[:LONGEST_OUTCOME]}"


def acting_user(environment: Mapping[str, str] = os.environ) -> str:
    """Who gives a command. To root, what sudo, pkexec, doas or dpkg say of who is behind them; the name under which
    the person logged in, as the kernel keeps it; else the user of the process.
    """
    if os.getuid() == 0:
        if package := environment.get("DPKG_MAINTSCRIPT_PACKAGE"):
            return _name(f"dpkg:{package}")
        by_number = environment.get("PKEXEC_UID", "")
        behind = (
            environment.get("SUDO_USER"),
            user_name(int(by_number)) if by_number.isascii() and by_number.isdigit() else None,
            environment.get("DOAS_USER"),
        )
        for name in behind:
            if name and name != "root":
                return _name(name)
    return login_name() or user_name(os.getuid())


def login_name() -> str | None:
    """The name under which the person logged in who started this, whatever he became since; None when the kernel does
    not know: a timer or a machine's boot started it, or the kernel keeps no such record.
    """
    try:
        number = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        return None
    return None if number == _UNSET_USER_ID else user_name(number)


def user_name(number: int) -> str:
    """The name of a user, or what can be said without one."""
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return f"uid {number}"


def _name(name: str) -> str:
    from penguindome_tools.output import safe

    return safe(name)[:_LONGEST_NAME]
