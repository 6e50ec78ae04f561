"""The settings that commands write, in a fragment of their own: one change after another, what else is in it kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penguindome.errors import PenguinDomeError
from penguindome.files import FileLock
from penguindome.paths import Paths
from penguindome.settings import Origin, Settings, read_fragment, write_fragment
from penguindome_server.access_settings import require_known_users
from penguindome_server.settings import read_server_settings
from penguindome_tools.installation import service_user_ids

FRAGMENT = "server.d/50-managed.yml"

Change = Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Written:
    """What came of a change.

    `before` and `settings` are what was and is in force. `overridden_by` is the origin of what is in force in place of
    what was written; `taken_over` is the origin of values that the fragment overrides now, and to which it therefore
    holds on.
    """

    before: Settings
    settings: Settings
    overridden_by: Origin | None
    taken_over: Origin | None


def change_map(paths: Paths, name: str, change: Change) -> Written:
    """Change the value of the setting `name`, a map, in the fragment. Raises SettingsError for what would not fit
    together then, and PenguinDomeError when it cannot be written; nothing is changed then.
    """
    fragment = paths.settings / FRAGMENT
    try:
        _make_directory(fragment.parent)
        with FileLock(fragment.with_name(".50-managed.lock")):
            return _change_map(paths, fragment, name, change)
    except PermissionError as error:
        raise PenguinDomeError(f"{error.filename or fragment}: {error.strerror}", hint="run it with sudo") from error
    except OSError as error:
        raise PenguinDomeError(f"{error.filename or fragment}: {error.strerror}") from error


def _change_map(paths: Paths, fragment: Path, name: str, change: Change) -> Written:
    before = read_server_settings(paths)
    values = read_fragment(fragment, before.schema)
    origin = before.origin(name)
    below = origin.file is not None and origin.file.parent == fragment.parent and origin.file.name < fragment.name
    taken_over = origin if below and before[name] else None
    present = before[name] if taken_over is not None else values.get(name)
    values[name] = dict(change(dict(present or {})))
    Settings.of(before.schema, {name: values[name]})
    overridden_by = origin if not below and origin.file not in (None, fragment) else None
    if overridden_by is None:
        _require_fitting(before, name, values[name])
    owner = service_user_ids()
    write_fragment(fragment, values, mode=0o640 if owner else 0o600, owner=(0, owner[1]) if owner else None)
    return Written(before, read_server_settings(paths), overridden_by, taken_over)


def _require_fitting(before: Settings, name: str, value: Mapping[str, Any]) -> None:
    """Raise SettingsError if what fits together now would not any more."""
    try:
        require_known_users(before)
    except PenguinDomeError:
        return  # it did not before; one change may not put all of it right
    values = {each: before[each] for each in before} | {name: value}
    require_known_users(Settings(before.schema, values, {each: before.origin(each) for each in before}))


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    directory.mkdir(0o750)
    owner = service_user_ids()
    if owner is not None:
        os.chown(directory, 0, owner[1], follow_symlinks=False)
