"""What plugins keep from one run to the next: `from penguindome import cached_data, var_dir`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData
from penguindome.files import ensure_directory, read_limited, write_atomically
from penguindome.logging import get_logger
from penguindome.paths import Paths
from penguindome.times import parse_duration, utc_now

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_LARGEST = 8 * 1024 * 1024


def cached_data(name: str, data: Any, *, max_age: timedelta | str | int | None = None) -> Any:
    """Remember `data` under `name` and return it; or, when `data` is None, return what was remembered last.

    For a plugin that cannot look just now (nobody is logged in, the network is away) and would rather report what was
    true last. `name` is best the plugin's own. Returns None when nothing is remembered, or it is older than `max_age`
    (a timedelta, seconds, or `3d`). Data is anything that `penguindome.json` can write, or an aware datetime. A cache
    that cannot be written or read costs the memory, not the report.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a cache: letters, digits and _ . + - only")
    path = Paths.from_environment().client_state / "cache" / f"{name}.json"
    if data is None:
        return _recall(path, max_age)
    # A bare datetime needs a key of its own to be one again.
    text = json.dumps({"cached_at": utc_now(), "data_at" if isinstance(data, datetime) else "data": data})
    try:
        ensure_directory(path.parent, 0o700)
        write_atomically(path, text)
    except OSError as error:
        get_logger(__name__).warning("cannot write the cache {}: {}", path, error.strerror)
    return data


def _recall(path: Path, max_age: timedelta | str | int | None) -> Any:
    try:
        content = json.loads(read_limited(path, _LARGEST))
        age = utc_now() - content["cached_at"]
        data = content["data_at"] if "data_at" in content else content["data"]
    except FileNotFoundError:
        return None
    except (OSError, InvalidData, KeyError, TypeError) as error:
        get_logger(__name__).warning("cannot read the cache {}: {}", path, error)
        return None
    if max_age is not None:
        limit = max_age if isinstance(max_age, timedelta) else parse_duration(max_age)
        # A time in the future means that a clock was wrong: such data has no age to speak of.
        if age > limit or age < -limit:
            return None
    return data


def _var_dir() -> str:
    path = Paths.from_environment().client_state / "plugins"
    try:
        ensure_directory(path, 0o700)
    except OSError as error:
        get_logger(__name__).debug("cannot make {}: {}", path, error.strerror)
    return str(path)


def __getattr__(name: str) -> Any:
    """`var_dir`: the full path (text) of a directory in which plugins may keep files, named so that it is clear whose
    they are.
    """
    if name == "var_dir":
        return _var_dir()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
