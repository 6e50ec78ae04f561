"""What a site lays over the client's packages: plugins, one-time commands and settings, read from /etc/penguindome.

`plugins.d/`: an executable file adds the plugin of its name (without extension), or takes the place of the shipped one;
a file `NAME.disabled`, whatever it holds, leaves the shipped plugin NAME out. `commands.d/`: an executable file is a
one-time command. `client-release.d/*.yml`: settings of clients, each checked as the client would.

Root signs what it finds there, so nobody else may be able to write it. Names that begin with a dot are editors' and are
left alone; anything else that is not as it must be is refused, because a plugin that is silently left out watches
nothing. So are the copies that editors and package managers leave: that of a plugin which was deleted would bring it
back.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from penguindome.client.collector import OWN_NAME
from penguindome.client.settings import CLIENT_SETTINGS
from penguindome.errors import InvalidData, ManifestError, PenguinDomeError
from penguindome.files import read_limited
from penguindome.manifest import check_name
from penguindome.paths import Paths
from penguindome.settings import Settings, load

PLUGINS, COMMANDS, SETTINGS = "plugins.d", "commands.d", "client-release.d"
DISABLED = ".disabled"
LARGEST_FILE = 4 * 1024 * 1024
_LEFT_OVER = re.compile(r".*(~|\.(bak|orig|rej|sw[a-p]|(dpkg|rpm|ucf)-?[a-z]+|pac(new|save|orig)))|#.*#", re.DOTALL)


class SiteFileRefused(PenguinDomeError):
    """A file that a site lays over the client cannot be part of a release."""

    code: ClassVar[str] = "site-file"
    exit_status: ClassVar[int] = 2


@dataclass(frozen=True)
class SiteFiles:
    """Contents by file name, names of plugins to leave out, and what should be told of the settings."""

    plugins: Mapping[str, bytes] = field(default_factory=dict)
    left_out: Mapping[str, Path] = field(default_factory=dict)
    """Name of a plugin -> the file that says so."""
    commands: Mapping[str, bytes] = field(default_factory=dict)
    settings: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_site_files(paths: Paths) -> SiteFiles:
    """Read and check them. Raises SiteFileRefused, which says what to do, or SettingsError with file and line."""
    plugins, left_out = _plugins(paths.settings / PLUGINS)
    settings = load_release_settings(paths)
    return SiteFiles(
        plugins,
        left_out,
        _programs(paths.settings / COMMANDS),
        {path.name: _read(path) for path in _entries(paths.settings / SETTINGS, _is_settings_file)},
        tuple(settings.warnings),
    )


def load_release_settings(paths: Paths) -> Settings:
    """What the files of `client-release.d` set. Raises SettingsError with file and line."""
    return load(CLIENT_SETTINGS, paths.settings / SETTINGS / ".none", paths.settings / SETTINGS)


def plugin_name(file_name: str) -> str:
    """The name under which a client reports what a program printed: that of its file without extension."""
    return file_name.partition(".")[0]


def require_program_name(name: str, where: object) -> None:
    """Raise SiteFileRefused unless clients would run a program whose file has this name; it is called `where`."""
    _require_no_copy(name, where)
    if name[0] in "._":
        raise SiteFileRefused(f"{where}: clients do not run files whose names begin with {name[0]}", hint="rename it")
    if plugin_name(name) == OWN_NAME:
        raise SiteFileRefused(
            f"{where} reports under the name {OWN_NAME!r}, as the client itself does", hint="rename it"
        )


def _require_no_copy(name: str, where: object) -> None:
    if _LEFT_OVER.fullmatch(name):
        raise SiteFileRefused(
            f"{where} is a copy that an editor or a package manager left", hint="remove it, or give it another name"
        )


def _plugins(directory: Path) -> tuple[dict[str, bytes], dict[str, Path]]:
    programs = _programs(directory, lambda name: not name.endswith(DISABLED))
    left_out = {plugin_name(path.name): path for path in _entries(directory, lambda name: name.endswith(DISABLED))}
    for file_name in programs:
        name = plugin_name(file_name)
        if name in left_out:
            raise SiteFileRefused(
                f"{directory / file_name} adds a plugin that {left_out[name]} leaves out", hint="remove one of them"
            )
    return programs, left_out


def _programs(directory: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    taken: dict[str, Path] = {}
    for path in _entries(directory, wanted):
        name = plugin_name(path.name)
        require_program_name(path.name, path)
        if name in taken:
            raise SiteFileRefused(f"{path} reports under the name {name!r}, as {taken[name]} does", hint="rename one")
        if not path.stat().st_mode & stat.S_IXUSR:
            raise SiteFileRefused(f"{path} is not executable", hint=f"run: chmod 755 {path}; or move it elsewhere")
        taken[name] = path
        found[path.name] = _read(path)
        if not found[path.name]:
            raise SiteFileRefused(
                f"{path} is empty", hint=f"to leave a shipped plugin out, name the file {name}{DISABLED}"
            )
    return found


def _entries(directory: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """The regular files of a directory, in the order of their names; raises for anything else."""
    try:
        found = sorted(directory.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise SiteFileRefused(f"{directory}: {error.strerror}", hint="run this as root") from error
    _require_safe(directory, directory.stat())
    for path in found:
        if path.name.startswith(".") or path.name == "__pycache__" or not wanted(path.name):
            continue
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            what = "a link" if stat.S_ISLNK(status.st_mode) else "a directory" if path.is_dir() else "no file"
            raise SiteFileRefused(
                f"{path} is {what}, and a release takes files alone", hint="put the file itself there"
            )
        _require_safe(path, status)
        _require_no_copy(path.name, path)
        try:
            check_name(path.name)
        except ManifestError as error:
            raise SiteFileRefused(f"{str(path)!a} has a name that no release can have", hint="rename it") from error
        yield path


def _require_safe(path: Path, status: os.stat_result) -> None:
    """What root signs must be root's (or of the user who runs this in a tree of his own), and writable by no other."""
    if status.st_uid not in (0, os.getuid()):
        raise SiteFileRefused(f"{path} belongs to another user than root, who could change it", hint=f"chown 0 {path}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SiteFileRefused(f"{path} can be changed by others than root", hint=f"run: chmod go-w {path}")


def _is_settings_file(name: str) -> bool:
    return name.endswith(".yml")


def _read(path: Path) -> bytes:
    try:
        return read_limited(path, LARGEST_FILE)
    except InvalidData as error:
        raise SiteFileRefused(error.message, hint="a release takes small files alone") from error
    except OSError as error:
        raise SiteFileRefused(f"{path}: {error.strerror}", hint="run this as root") from error
