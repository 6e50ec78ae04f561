"""What root publishes for this process to hand out: read from `releases/`, and again whenever root replaces a file.

Looked at by each process for itself, at most twice a second, so that a rotation of keys needs no restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from penguindome import json
from penguindome.errors import InvalidData, PenguinDomeError, SettingsError
from penguindome.files import read_limited
from penguindome.logging import get_logger
from penguindome.openpgp import Certificate

log = get_logger(__name__)

T = TypeVar("T")

CERTIFICATE_BYTES = 1 << 20
STATEMENTS_BYTES = 16 << 20
LOOK_SECONDS = 0.5


class PublishedFile(Generic[T]):
    """One file, parsed by `parse`, whose value is that of the newest contents that could be parsed."""

    def __init__(self, path: Path, parse: Callable[[Path], T]) -> None:
        """Read it now. Raises SettingsError when it cannot be used."""
        self._path = path
        self._parse = parse
        self._lock = threading.Lock()
        self._look_again = 0.0
        self._seen = stamp(path)
        self._value = parse(path)

    @property
    def current(self) -> T:
        """The value. A file that is gone or damaged leaves the one before it, and is logged once."""
        now = time.monotonic()
        if now >= self._look_again:
            with self._lock:
                seen = stamp(self._path)
                if seen != self._seen:
                    self._read_again()
                    self._seen = seen
                self._look_again = now + LOOK_SECONDS
        return self._value

    def _read_again(self) -> None:
        try:
            self._value = self._parse(self._path)
        except PenguinDomeError as error:
            log.error("{}; what was read before stays in force", error)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells whether a file was replaced; None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def certificate(path: Path) -> Certificate:
    """The certificate in a file. Raises SettingsError."""
    try:
        return Certificate.from_text(read_limited(path, CERTIFICATE_BYTES))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", hint="run: penguindome setup") from error
    except PenguinDomeError as error:
        raise SettingsError(f"{path}: {error}", hint="run: penguindome setup") from error


def statements(path: Path) -> list[dict[str, str]]:
    """All statements of rotations (see `penguindome.rotation`), oldest first; none without the file.

    They are handed out as they are: clients verify them. Raises SettingsError.
    """
    try:
        document: Any = json.loads_plain(read_limited(path, STATEMENTS_BYTES))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except InvalidData as error:
        raise SettingsError(f"{path}: {error}", hint="restore it from a backup") from error
    found = document.get("statements") if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(_is_statement(each) for each in found):
        raise SettingsError(f"{path} does not hold statements of rotations", hint="restore it from a backup")
    return found


def _is_statement(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("text", "signature"))
