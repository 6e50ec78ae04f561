"""`penguindome password`: passwords of the users that the server's endpoints ask for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from penguindome import systemd
from penguindome.errors import PenguinDomeError, SettingsError, UsageError
from penguindome.settings import Settings
from penguindome_server.access_settings import ENDPOINTS, check_user_name, require_known_users
from penguindome_server.passwords import password_context
from penguindome_tools import units
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.managed_settings import FRAGMENT, Written, change_map
from penguindome_tools.output import json_option, print_table, safe

LONGEST = 512  # bytes


@click.command()
@click.argument("user", required=False)
@click.option("--endpoint", type=click.Choice(ENDPOINTS), help="For this endpoint alone, instead of server-wide.")
@click.option("--remove", is_flag=True, help="Remove the user.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password from one line of standard input.")
@click.option("--list", "as_list", is_flag=True, help="List the users, and what each may do.")
@json_option
@pass_context
@administrative("password", unless=("as_list",))
def command(
    context: Context, *, user: str | None, endpoint: str | None, remove: bool, from_stdin: bool, as_list: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Set the password of USER, for downloading releases or beginning remote shells.

    It is asked for twice, and stored as a hash. A server-wide user may do what the settings server_auth.ENDPOINT.users
    and .groups say; with --endpoint the password is good for that endpoint, and the user needs no other setting.

    \b
    Examples:
      penguindome password fred
      penguindome password installer --endpoint download_release
      pwgen 20 1 | tee /dev/tty | penguindome password installer --endpoint download_release --stdin
      penguindome password fred --remove
      penguindome password --list
    """
    if as_list:
        if user or endpoint or remove or from_stdin:
            raise UsageError("--list goes with nothing but --json")
        _list(context.settings, as_json=as_json)
        return
    if user is None:
        raise UsageError("whose password?", hint="penguindome password USER, or: penguindome password --list")
    if remove and from_stdin:
        raise UsageError("--remove needs no password")
    try:
        check_user_name(user)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _change(context, user=user, endpoint=endpoint, remove=remove, from_stdin=from_stdin)


def _change(context: Context, *, user: str, endpoint: str | None, remove: bool, from_stdin: bool) -> None:
    name = "users" if endpoint is None else f"server_auth.{endpoint}.passwords"
    context.acts_on(user, setting=name, removed=remove)
    hashed = None if remove else password_context().hash(_read_line() if from_stdin else _ask(user))

    def change(users: dict[str, Any]) -> Mapping[str, Any]:
        if hashed is not None:
            return {**users, user: hashed}
        if user not in users:
            raise UsageError(
                f"{safe(user)!r} is not among the users of {FRAGMENT}", hint=_found_at(context, name, user)
            )
        return {each: stored for each, stored in users.items() if each != user}

    try:
        with context.as_root():
            written = change_map(context.paths, name, change)
    except SettingsError as error:
        if not remove:
            raise
        raise UsageError(f"{safe(user)} stays: {error.message}", hint="take the name out there first") from error
    click.echo(f"{safe(user)}: {'removed' if remove else 'saved'} ({name})")
    _tell(written, name, user, endpoint, remove=remove)
    _put_into_force(context, written)


def _ask(user: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the password at", hint="give it with --stdin")
    password: str = click.prompt(
        f"Password of {safe(user)}", hide_input=True, confirmation_prompt="The same again", err=True
    )
    return _good(password)


def _read_line() -> str:
    line = sys.stdin.buffer.readline(LONGEST + 3)
    try:
        return _good(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise UsageError("the password is not UTF-8") from error


def _good(password: str) -> str:
    if not password:
        raise UsageError("the password is empty")
    if len(password.encode()) > LONGEST:
        raise UsageError(f"the password is longer than {LONGEST} bytes")
    if not password.isprintable():
        raise UsageError("the password has control characters in it")
    return password


def _found_at(context: Context, name: str, user: str) -> str | None:
    """Where a user that the fragment does not hold is set, if anywhere."""
    settings = context.settings
    return f"remove it at {settings.origin(name)}" if user in settings[name] else None


def _tell(written: Written, name: str, user: str, endpoint: str | None, *, remove: bool) -> None:
    """What the administrator may not expect of it."""
    settings = written.settings
    if written.overridden_by is not None:
        click.echo(f"warning: it is not in force: {name} is set at {written.overridden_by}, which overrides", err=True)
        return
    if written.taken_over is not None:
        click.echo(f"note: the users set at {written.taken_over} were copied to {FRAGMENT}, which overrides", err=True)
    if endpoint is None and not remove and not _may(settings, user):
        click.echo(f"note: {safe(user)} may do nothing yet: name the user in server_auth.*.users or a group", err=True)
    if remove and endpoint is not None and _is_open(settings, endpoint) and not _is_open(written.before, endpoint):
        click.echo(f"warning: nothing is configured for {endpoint} any more", err=True)


def _put_into_force(context: Context, written: Written) -> None:
    try:
        require_known_users(written.settings)
    except SettingsError as error:
        hint = f"; {error.hint}" if error.hint else ""
        click.echo(f"warning: the server does not take the settings as they are: {error.message}{hint}", err=True)
        return
    with context.as_root():
        try:
            taken = systemd.has_unit(context.paths, units.SERVER) and systemd.reload(units.SERVER)
        except PenguinDomeError as error:
            click.echo(f"warning: the server has not read it: {error.message}", err=True)
            return
    click.echo(
        "the server has read it" if taken else "a server that runs reads it with: systemctl reload penguindome-server"
    )


def _is_open(settings: Settings, endpoint: str) -> bool:
    return not any(settings.section(f"server_auth.{endpoint}").values())


def _may(settings: Settings, user: str) -> list[str]:
    """The endpoints that a server-wide user may use."""
    groups = {group for group, members in settings["groups"].items() if user in members}
    return [
        endpoint
        for endpoint in ENDPOINTS
        if user in settings[f"server_auth.{endpoint}.users"] or groups & set(settings[f"server_auth.{endpoint}.groups"])
    ]


def _list(settings: Settings, *, as_json: bool) -> None:
    rows = [
        {
            "user": user,
            "known": "server-wide",
            "may": ", ".join(_may(settings, user)),
            "origin": str(settings.origin("users")),
        }
        for user in settings["users"]
    ]
    for endpoint in ENDPOINTS:
        name = f"server_auth.{endpoint}.passwords"
        rows += [
            {"user": user, "known": "there alone", "may": endpoint, "origin": str(settings.origin(name))}
            for user in settings[name]
        ]
    print_table(rows, ["user", "known", "may", "origin"], as_json=as_json, empty="no passwords are set")
