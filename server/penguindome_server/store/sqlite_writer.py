"""The one writer of a process: works of several threads share a commit, and processes take turns.

A thread that finds nobody writing leads: it takes the lock between processes, begins a transaction, does its own work,
then, each in a savepoint, the works that other threads have queued meanwhile, commits, and wakes them. So a work may be
done by another thread than the one that asked for it; it must not wait for a lock or use anything that belongs to a
thread. Handing over works instead of the transaction spares a switch of threads for each.

Nobody is told an outcome before the commit that it rests on: also a refusal (a duplicate key, say) may rest on what a
neighbour in the group has just written. When the commit fails, all of the group get StoreUnavailable.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any, Generic, TypeVar

from penguindome_server.store import StoreError, StoreUnavailable
from penguindome_server.store.sqlite_connections import connect, errors_of, translated

GROUP_SIZE = 32
GROUP_SECONDS = 0.05
WAL_BYTES = 64 << 20
WAL_LOOK_COMMITS = 16
_WAL_RETRY_SECONDS = 5.0

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class _Job(Generic[T]):
    """One work, and where its outcome is put."""

    def __init__(self, work: Work[T], *, atomic: bool, context: Context | None, until: float) -> None:
        self.work = work
        self.until = until
        self.atomic = atomic
        self.context = context
        self.settled = threading.Event()
        self.leads = False
        self.result: T
        self.error: BaseException | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        self.result = self.context.run(self.work, connection) if self.context else self.work(connection)

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result


class Writer:
    """Runs works on the one writing connection of this process. `commits` and `works` count what was done."""

    def __init__(self, path: Path, *, wait: float) -> None:
        self._path = path
        self._log = Path(f"{path}-wal")
        self._wait = wait
        self._process = os.getpid()
        self._turn = _Turn(path)
        self._mutex = threading.Lock()
        self._idle = threading.Condition(self._mutex)
        self._busy = False
        self._closed = False
        self._queue: deque[_Job[Any]] = deque()
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._wal_checked = 0.0
        self._local = threading.local()
        self.commits = 0
        self.works = 0

    @property
    def joined(self) -> sqlite3.Connection | None:
        """The writing connection, while this thread is inside a work."""
        return getattr(self._local, "connection", None)

    def run(self, work: Work[T], *, atomic: bool) -> T:
        """Do `work` in a transaction and return its result once that is on disk; whatever it raises undoes it alone.

        `atomic` says that it is a single statement, which SQLite undoes by itself. Inside a work it is done at once, as
        part of that. Raises StoreUnavailable when its turn does not come within the time to wait.
        """
        connection = self.joined
        if connection is not None:
            with _savepoint(connection, needed=not atomic), errors_of(self._path):
                return work(connection)
        context = None if atomic else copy_context()
        job = _Job(work, atomic=atomic, context=context, until=time.monotonic() + self._wait)
        if not self._lead_or_wait(job):
            return job.outcome()
        try:
            self._lead(job)
        finally:
            self._hand_over()
        return job.outcome()

    def close(self) -> None:
        """Refuse further works, wait for those under way, and close the connection."""
        with self._mutex:
            self._closed = True
            self._idle.wait_for(lambda: not self._busy, self._wait)
        self._drop_connection()
        self._turn.close()

    def _lead_or_wait(self, job: _Job[Any]) -> bool:
        """Whether this thread leads now; otherwise its job is settled."""
        if os.getpid() != self._process:
            raise StoreError(f"the store {self._path} was opened by another process: it must be opened after a fork")
        with self._mutex:
            if self._closed:
                raise StoreError(f"the store {self._path} is closed")
            if not self._busy:
                self._busy = True
                return True
            self._queue.append(job)
        try:
            if not job.settled.wait(self._wait):
                if self._withdraw(job):
                    raise StoreUnavailable(f"the store {self._path} is busy: no turn within {self._wait:g} s")
                job.settled.wait()
        except BaseException:
            # An interrupted thread must not stay in line: it would be given the lead, and nobody would take it.
            if not self._withdraw(job) and job.leads:
                self._hand_over()
            raise
        return job.leads

    def _withdraw(self, job: _Job[Any]) -> bool:
        """Take a job out of the line; False when it is not there: done, being done, or given the lead."""
        with self._mutex:
            if job in self._queue:
                self._queue.remove(job)
                return True
        return False

    def _hand_over(self) -> None:
        with self._mutex:
            if self._queue:
                successor = self._queue.popleft()
                successor.leads = True
                successor.settled.set()
            else:
                self._busy = False
                self._idle.notify_all()

    def _lead(self, own: _Job[Any]) -> None:
        group = [own]
        try:
            with self._turn.taken(own.until):
                connection = self._begin(own.until)
                self._fill(connection, group)
                self._commit(connection)
                self._bound_wal(connection)
        except StoreError as error:
            self._fail(group, error)
        except BaseException:
            self._fail(group, StoreUnavailable(f"writing to the store {self._path} was interrupted"))
            raise
        finally:
            for job in group[1:]:
                job.settled.set()

    def _fill(self, connection: sqlite3.Connection, group: list[_Job[Any]]) -> None:
        self._do(connection, group[0], alone=True)
        until = time.monotonic() + GROUP_SECONDS
        while len(group) < GROUP_SIZE and time.monotonic() < until:
            with self._mutex:
                if not self._queue:
                    return
                job = self._queue.popleft()
            group.append(job)
            self._do(connection, job, alone=False)

    def _do(self, connection: sqlite3.Connection, job: _Job[Any], *, alone: bool) -> None:
        """Run one job; its error is its own, unless the transaction is lost with it."""
        self.works += 1
        self._local.connection = connection
        try:
            with errors_of(self._path), _savepoint(connection, needed=not (alone or job.atomic)):
                job.run(connection)
        except Exception as error:
            job.error = error
        finally:
            self._local.connection = None
        if alone and job.error is not None and not job.atomic and connection.in_transaction:
            with errors_of(self._path):
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
        if not connection.in_transaction:
            if isinstance(job.error, StoreError):
                raise StoreUnavailable(job.error.message, hint=job.error.hint) from job.error
            raise StoreUnavailable(f"the store {self._path} lost a transaction") from job.error

    def _begin(self, until: float) -> sqlite3.Connection:
        self.refuse_another_file()
        if self._connection is None:
            self._connection = connect(self._path, wait=self._wait)
            status = self._path.stat()
            self._inode = status.st_dev, status.st_ino
        try:
            with _busy_timeout(self._connection, until - time.monotonic(), usually=self._wait):
                self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._drop_connection()
            raise translated(error, self._path) from error
        return self._connection

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        self.commits += 1

    def _fail(self, group: list[_Job[Any]], error: StoreError) -> None:
        """Nothing of the group was kept: tell each, but leave a work's own mistake to its owner."""
        self._drop_connection()
        for job in group:
            if job.error is None or isinstance(job.error, StoreError):
                job.error = type(error)(error.message, hint=error.hint)
                job.error.__cause__ = error.__cause__ or error

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def refuse_another_file(self) -> None:
        """Raise StoreUnavailable when the file was moved away or replaced: nobody would find what is written to it."""
        if self._inode is None:
            return
        try:
            status = self._path.stat()
            if (status.st_dev, status.st_ino) == self._inode:
                return
            reason = "was replaced"
        except OSError as error:
            reason = f"is gone ({error.strerror})"
        raise StoreUnavailable(f"the store {self._path} {reason} while it was in use", hint="restart the server")

    def _bound_wal(self, connection: sqlite3.Connection) -> None:
        """Readers that overlap for ever keep SQLite from starting the log over: then wait for them, briefly."""
        if self.commits % WAL_LOOK_COMMITS:
            return
        try:
            if self._log.stat().st_size < WAL_BYTES:
                return
        except OSError:
            return
        now = time.monotonic()
        if now - self._wal_checked > _WAL_RETRY_SECONDS:
            self._wal_checked = now
            try:
                with _busy_timeout(connection, 0.2, usually=self._wait):
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error:
                return  # what was to be kept is committed; the log is only longer than it need be


@contextmanager
def _busy_timeout(connection: sqlite3.Connection, seconds: float, *, usually: float) -> Iterator[None]:
    """Let SQLite wait for others no longer than this, if that is much less than it usually waits."""
    if seconds > usually * 0.9:
        yield
        return
    connection.execute(f"PRAGMA busy_timeout = {max(1, int(seconds * 1000))}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(usually * 1000)}")


@contextmanager
def _savepoint(connection: sqlite3.Connection, *, needed: bool) -> Iterator[None]:
    if not needed:
        yield
        return
    connection.execute("SAVEPOINT work")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO work")
            connection.execute("RELEASE work")
        raise
    connection.execute("RELEASE work")


class _Turn:
    """Processes take turns in the order in which they came, and none waits longer than it is told to.

    SQLite's own lock would do, but it is waited for by sleeping longer and longer, so that a busy process starves the
    others. Here who waits holds the place behind the one who writes (`-queue`) and looks often. The kernel lets go of
    both locks when a process dies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptors: list[int] = []
        try:
            for suffix in ("-queue", ".lock"):
                name = f"{path}{suffix}"
                self._descriptors.append(os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError as error:
            self.close()
            hint = "look at the owner and mode of the file and its directory"
            raise StoreUnavailable(f"the store {path} cannot be locked: {error}", hint=hint) from error

    @contextmanager
    def taken(self, until: float) -> Iterator[None]:
        """Hold the turn. Raises StoreUnavailable when it does not come until that moment (of `time.monotonic`)."""
        queue, lock = self._descriptors
        self._take(queue, until)
        try:
            self._take(lock, until)
        finally:
            fcntl.flock(queue, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def _take(self, descriptor: int, until: float) -> None:
        pause = 0.0001
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreUnavailable(f"another process keeps the store {self._path} locked") from None
            time.sleep(pause)
            pause = min(pause * 2, 0.001)

    def close(self) -> None:
        """Let go of the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())
