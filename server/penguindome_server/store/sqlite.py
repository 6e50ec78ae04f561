"""The embedded engine: one SQLite file, in WAL mode, shared by the threads and processes of one machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from penguindome_server.store import StoreError, StoreUnavailable
from penguindome_server.store.schema import SCHEMA, CollectionSchema
from penguindome_server.store.sqlite_collection import SqliteCollection
from penguindome_server.store.sqlite_connections import Readers, copy_into, create_file, errors_of
from penguindome_server.store.sqlite_schema import bring_up_to_date, is_current, problems_of_schema
from penguindome_server.store.sqlite_writer import Work, Writer

WAIT_SECONDS = 20.0

T = TypeVar("T")


class SqliteStore:
    """A store in one file. `wait` is how many seconds a write waits for its turn before it is StoreUnavailable."""

    atomic = True

    def __init__(
        self, uri: str, *, wait: float = WAIT_SECONDS, schema: Mapping[str, CollectionSchema] = SCHEMA
    ) -> None:
        self.path = _path_of(uri)
        self.uri = f"sqlite://{self.path}"
        self._schema = schema
        create_file(self.path)
        self._readers = Readers(self.path, wait=wait)
        self.writer = Writer(self.path, wait=wait)
        self._collections = {
            name: SqliteCollection(self.read, self.writer, collection) for name, collection in schema.items()
        }
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self.write(lambda connection: connection.execute("SELECT 1"), atomic=True)  # the first connection makes the log
        if not self.read(lambda connection: is_current(connection, self._schema)):
            self.write(lambda connection: bring_up_to_date(connection, self._schema))

    def collection(self, name: str) -> SqliteCollection:
        """A collection of the schema; another name is a `StoreError`."""
        try:
            return self._collections[name]
        except KeyError as error:
            raise StoreError(f"the store has no collection {name!r}") from error

    def together(self, work: Callable[[], T]) -> T:
        """Run `work` in one transaction: all of its writes or, when it raises, none."""
        return self.writer.run(lambda _connection: work(), atomic=False)

    def read(self, work: Work[T]) -> T:
        """Run `work` on a connection: inside `together` the writing one, so that it sees what was written there."""
        connection = self.writer.joined
        if connection is not None:
            with errors_of(self.path):
                return work(connection)
        with self._readers.lent() as reader:
            return work(reader)

    def write(self, work: Work[T], *, atomic: bool = False) -> T:
        """Run `work` in a transaction; see `Writer.run`."""
        return self.writer.run(work, atomic=atomic)

    def check(self) -> list[str]:
        """Problems found in structure and contents."""
        try:
            problems = self.read(lambda connection: [row[0] for row in connection.execute("PRAGMA integrity_check")])
            problems = [problem for problem in problems if problem != "ok"]
            problems += self.read(lambda connection: list(problems_of_schema(connection, self._schema)))
            for collection in self._collections.values():
                problems.extend(collection.problems())
        except StoreUnavailable:
            raise
        except StoreError as error:
            return [error.message]
        return problems

    def snapshot(self, path: Path) -> bool:
        """Write a copy as of one moment."""
        create_file(path)
        self.read(lambda connection: copy_into(connection, path))
        return True

    def ping(self) -> None:
        """Raise `StoreUnavailable` when the store cannot serve reads now."""
        self.writer.refuse_another_file()
        self.read(lambda connection: connection.execute("SELECT count(*) FROM sqlite_master").fetchone())

    def close(self) -> None:
        """Close all connections, once the writes under way have ended."""
        self._readers.close()
        self.writer.close()


def _path_of(uri: str) -> Path:
    prefix, _, path = uri.partition("://")
    if prefix != "sqlite" or not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise StoreError(f"database.uri: {uri!r} names no file", hint="use sqlite:///absolute/path/to/store.sqlite")
    return Path(path)
