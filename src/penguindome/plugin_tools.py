"""Tools for plugins: run programs, print the result, and find and enter the sessions of logged-in users.

A plugin is an executable file that prints one JSON value. This is all of one:

    from penguindome.plugin_tools import output, run, unknown

    kernel = run(["uname", "-r"])
    output({"kernel": unknown if kernel is None else kernel.strip()})
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penguindome import json, processes
from penguindome.processes import ProgramMissing

if TYPE_CHECKING:
    from penguindome.cache import cached_data as cached_data  # noqa: PLC0414  # handed on to plugins

    var_dir: str

unknown = "unknown"
"""What a plugin prints, as a whole or for a field, that cannot tell."""

_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_DISPLAY = re.compile(r":[0-9]+(?:\.[0-9]+)?")


def output(value: Any) -> None:
    """Print the result of the plugin; keys ending in `_at` may hold aware datetimes."""
    sys.stdout.write(json.dumps(value) + "\n")


def run(command: Sequence[str], timeout: float = 30, ok_codes: Sequence[int] = (0,)) -> str | None:
    """The output of a program, in the locale C; None if the program is missing.

    Raises ProcessError when it ends with a status that is not in `ok_codes`, or does not end in time (seconds).
    """
    try:
        return processes.run(command, timeout=timeout, env=_environment(os.environ), ok_codes=ok_codes).text
    except ProgramMissing:
        return None


def find_who_x_users() -> list[tuple[str, str]]:
    """(user, $DISPLAY) of those who `who` says are logged into X. A user may have several displays."""
    text = run(["who"]) or ""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3:
            place = words[-1].removeprefix("(").removesuffix(")") if words[-1].startswith("(") else words[1]
            display = place if _DISPLAY.fullmatch(place) else words[1]
            if _DISPLAY.fullmatch(display):
                found.append((words[0], display))
    return list(dict.fromkeys(found))


def find_xinit_users() -> list[tuple[str, str]]:
    """(user, $DISPLAY) of those who started X by `xinit` or `startx`, as the list of processes says."""
    text = run(["ps", "-e", "-ww", "-o", "user:64=", "-o", "args="]) or ""
    found = []
    for line in text.splitlines():
        user, _, arguments = line.partition(" ")
        words = arguments.split()
        if words and Path(words[0]).name == "xinit":
            server = words[words.index("--") + 1 :] if "--" in words else []
            displays = [word for word in server if _DISPLAY.fullmatch(word)]
            found.append((user, displays[0] if displays else ":0"))
    return list(dict.fromkeys(found))


def find_x_users() -> list[tuple[str, str]]:
    """`find_who_x_users` and `find_xinit_users` together, each pair once."""
    return list(dict.fromkeys([*find_who_x_users(), *find_xinit_users()]))


class DBusUser:
    """Runs programs as a logged-in user, inside his running D-Bus session, as in
    `DBusUser("alice").run(["gsettings", "get", "org.gnome.desktop.screensaver", "lock-enabled"])`.

    `display` becomes $DISPLAY. A user that does not exist is a KeyError. `address` is that of the session bus, or None
    if the user has none. Root gives its rights up before the program starts; another user can only run as himself.
    """

    def __init__(self, user: str, display: str | None = None) -> None:
        self.account = pwd.getpwnam(user)
        self.display = display
        self.address = self._find_address()

    def run(self, command: Sequence[str], timeout: float = 30, ok_codes: Sequence[int] = (0,)) -> str | None:
        """The output of a program that runs in the session; None if there is no session, or the program is missing.

        Raises ProcessError as `plugin_tools.run` does.
        """
        if self.address is None:
            return None
        from shutil import which

        environment = self.environment()
        program = which(command[0], path=environment["PATH"])
        if program is None:
            return None
        words = [*self._become(), program, *command[1:]]
        return processes.run(words, timeout=timeout, env=environment, ok_codes=ok_codes, cwd="/").text

    def environment(self) -> dict[str, str]:
        """The variables that a program in the session gets: these and nothing of ours."""
        account = self.account
        return {
            **_environment({}),
            "HOME": account.pw_dir,
            "LOGNAME": account.pw_name,
            "USER": account.pw_name,
            "XDG_RUNTIME_DIR": f"/run/user/{account.pw_uid}",
            "DBUS_SESSION_BUS_ADDRESS": self.address or "",
            **({"DISPLAY": self.display} if self.display else {}),
        }

    def _become(self) -> list[str]:
        account = self.account
        if os.geteuid() == account.pw_uid:
            return []
        identity = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
        return ["setpriv", *identity, "--inh-caps=-all", "--no-new-privs", "--"]

    def _find_address(self) -> str | None:
        user = self.account.pw_uid
        socket = Path(f"/run/user/{user}/bus")
        if socket.is_socket() and socket.stat().st_uid == user:
            return f"unix:path={socket}"
        for process in Path("/proc").glob("[0-9]*"):
            address = self._address_of(process, user)
            if address is not None:
                return address
        return None

    def _address_of(self, process: Path, user: int) -> str | None:
        try:
            if process.stat().st_uid != user:
                return None
            variables = (process / "environ").read_bytes()[: 1024 * 1024].split(b"\0")
        except OSError:
            return None
        for variable in variables:
            name, _, value = variable.partition(b"=")
            if name == b"DBUS_SESSION_BUS_ADDRESS" and value:
                return value.decode("utf-8", "surrogateescape")
        return None


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    directories = [part for part in base.get("PATH", "").split(":") if part]
    # cron hands out a PATH without the directories of system programs.
    directories += [part for part in _DIRECTORIES if part not in directories]
    unwanted = ("LANG", "LANGUAGE")
    kept = {name: value for name, value in base.items() if name not in unwanted and not name.startswith("LC_")}
    return {**kept, "PATH": ":".join(directories), "LC_ALL": "C"}


def __getattr__(name: str) -> Any:
    if name in ("cached_data", "var_dir"):
        from penguindome import cache

        return getattr(cache, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
