"""Connections to the file of the embedded store: how they are opened and shared, and what their errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from penguindome_server.store import DuplicateKey, StoreError, StoreUnavailable

PAGE_SIZE = 8192
CHECKPOINT_PAGES = 1000
_CACHED_STATEMENTS = 256
_MINIMUM_VERSION = (3, 38, 0)
_CONFLICTS = frozenset(("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"))
_DAMAGED = frozenset(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
_REASONS = {
    "SQLITE_FULL": ("the disk is full", "free some space"),
    "SQLITE_BUSY": ("another program keeps it locked", None),
    "SQLITE_LOCKED": ("another program keeps it locked", None),
    "SQLITE_READONLY": ("it may not be written", "look at the owner and mode of the file and its directory"),
    "SQLITE_PERM": ("it may not be opened", "look at the owner and mode of the file and its directory"),
    "SQLITE_CANTOPEN": ("it cannot be opened", "look at the owner and mode of the file and its directory"),
}


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """Our error for one of sqlite3's."""
    name = getattr(error, "sqlite_errorname", None) or ""
    if name in _CONFLICTS:
        columns = str(error).partition(": ")[2]
        return DuplicateKey(f"there is a document with the same {columns or 'key'} already")
    family = "_".join(name.split("_")[:2])
    if family in _DAMAGED:
        hint = "restore it from a backup; `penguindome store check` says what is damaged"
        return StoreError(f"{path} is damaged or no SQLite database: {error}", hint=hint)
    if family in _REASONS:
        reason, advice = _REASONS[family]
        return StoreUnavailable(f"the store {path} is unavailable: {reason} ({error})", hint=advice)
    if isinstance(error, sqlite3.OperationalError) and family in ("SQLITE_IOERR", "SQLITE_NOMEM", "SQLITE_PROTOCOL"):
        return StoreUnavailable(f"the store {path} is unavailable: {error} ({name})")
    return StoreError(f"the store {path} failed: {error}")


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Within this block sqlite3's errors become ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, path) from error


def create_file(path: Path) -> None:
    """Make an empty file, readable by its owner alone, unless it is there. Raises StoreUnavailable with the reason.

    One that is there is left to SQLite: closing any descriptor of it would take away the locks of all connections that
    this process has, and another process would believe that nobody uses the log of what was written.
    """
    hint: str | None = "look at the owner and mode of the file and its directory"
    try:
        if path.is_dir():
            raise StoreUnavailable(f"the store {path} is a directory", hint="database.uri must name a file")
        if path.exists():
            return
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileNotFoundError as error:
        hint = f"make it: install -d -m 0700 -o penguindome {path.parent}"
        raise StoreUnavailable(f"the directory of the store, {path.parent}, does not exist", hint=hint) from error
    except OSError as error:
        raise StoreUnavailable(f"the store {path} cannot be opened: {error.strerror}", hint=hint) from error


def connect(path: Path, *, wait: float, read_only: bool = False) -> sqlite3.Connection:
    """A connection to an existing file: WAL, a commit is on disk when it returns. Raises our errors."""
    if sqlite3.sqlite_version_info < _MINIMUM_VERSION:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: the store needs 3.38 or newer")
    with errors_of(path):
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=wait,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_CACHED_STATEMENTS,
        )
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            connection.execute("PRAGMA synchronous = FULL")
            if not read_only:
                _begin_wal(connection, wait)
                connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cache_size = -4000")
            connection.execute(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
        except BaseException:
            connection.close()
            raise
    return connection


def _begin_wal(connection: sqlite3.Connection, wait: float) -> None:
    """Switch to WAL; SQLite does not wait by itself when two processes make a new file at the same moment."""
    until = time.monotonic() + wait
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.005)


def copy_into(connection: sqlite3.Connection, path: Path) -> None:
    """Copy the database into the empty file `path`, as of one moment; writers of the database are not held up. The copy
    is on disk, and needs no log beside it, when this returns. Raises sqlite3's errors, or ours for the copy's.
    """
    with errors_of(path), closing(sqlite3.connect(path, isolation_level=None)) as target:
        # All in one step: what others commit meanwhile would make it begin again.
        connection.backup(target, pages=-1)
        target.execute("PRAGMA journal_mode = DELETE")


class Readers:
    """Read-only connections, each lent to one thread at a time; as many are open as threads ever read at once."""

    def __init__(self, path: Path, *, wait: float) -> None:
        self._path = path
        self._wait = wait
        self._process = os.getpid()
        self._idle: deque[sqlite3.Connection] = deque()
        self.closed = False

    @contextmanager
    def lent(self) -> Iterator[sqlite3.Connection]:
        """A connection for the time of the block, in which sqlite3's errors become ours."""
        if self.closed:
            raise StoreError(f"the store {self._path} is closed")
        if os.getpid() != self._process:
            raise StoreError(f"the store {self._path} was opened by another process: it must be opened after a fork")
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connect(self._path, wait=self._wait, read_only=True)
        try:
            yield connection
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise translated(error, self._path) from error
            raise
        self._idle.append(connection)
        self._tidy()

    def close(self) -> None:
        """Close all; one that is lent is closed when it comes back."""
        self.closed = True
        self._tidy()

    def _tidy(self) -> None:
        """Once closed, keep nothing."""
        while self.closed:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            connection.close()
