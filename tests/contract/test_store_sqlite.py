"""What only the embedded engine has: one file, group commits, locks between processes, a disk that may be full."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from needs import require
from penguindome_server.store import DuplicateKey, StoreError, StoreUnavailable, open_store, sqlite_writer
from penguindome_server.store.schema import SCHEMA, CollectionSchema, Index
from penguindome_server.store.sqlite import SqliteStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def impatient(file: Path) -> Iterator[SqliteStore]:
    """A store that waits 0.3 s for its turn."""
    with closing(SqliteStore(f"sqlite://{file}", wait=0.3)) as opened:
        yield opened


@pytest.fixture
def embedded(file: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(f"sqlite://{file}")) as opened:
        yield opened


def _wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def _in_one_group(store: SqliteStore, works: list[Callable[[], Any]]) -> list[Any]:
    """Let all works queue while a first one leads, so that they share its commit; results or exceptions."""
    begun, queued = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        queued.wait(30)

    everything = [*works, lambda: store.together(wait)]
    results: list[Any] = [None] * len(everything)

    def run(number: int) -> None:
        try:
            results[number] = everything[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(len(works),))]
    threads[0].start()
    begun.wait(30)
    for number in range(len(works)):
        threads.append(threading.Thread(target=run, args=(number,)))
        threads[-1].start()
        _wait_until(lambda expected=number + 1: len(store.writer._queue) == expected)
    queued.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return results[:-1]


def test_an_acknowledged_write_was_synchronised_to_disk(embedded: SqliteStore) -> None:
    def pragma(name: str) -> Any:
        return embedded.write(lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0])

    assert pragma("journal_mode") == "wal"
    assert pragma("synchronous") == 2
    assert pragma("page_size") == 8192


def test_works_that_wait_share_a_commit(embedded: SqliteStore) -> None:
    clients = embedded.collection("clients")
    commits = embedded.writer.commits
    works = [lambda number=number: clients.insert({"_id": f"{number}"}) for number in range(20)]
    assert _in_one_group(embedded, works) == [None] * 20
    assert embedded.writer.commits == commits + 1
    assert clients.count() == 20


def test_a_group_has_an_end(embedded: SqliteStore) -> None:
    clients = embedded.collection("clients")
    commits = embedded.writer.commits
    works = [lambda number=number: clients.insert({"_id": f"{number}"}) for number in range(40)]
    _in_one_group(embedded, works)
    assert embedded.writer.commits == commits + 2
    assert clients.count() == 40


def test_a_work_that_fails_undoes_itself_and_harms_no_neighbour(embedded: SqliteStore) -> None:
    clients = embedded.collection("clients")

    def fail() -> None:
        clients.insert({"_id": "undone"})
        raise ValueError("on purpose")

    def insert_twice() -> None:
        clients.insert({"_id": "once"})
        clients.insert({"_id": "once"})

    works = [
        lambda: embedded.together(lambda: clients.insert({"_id": "a"})),
        lambda: embedded.together(fail),
        lambda: clients.insert({"_id": "b"}),
        lambda: clients.insert({"_id": "a"}),
        lambda: embedded.together(insert_twice),
        lambda: clients.insert({"_id": "c"}),
    ]
    results = _in_one_group(embedded, works)
    assert [type(result) for result in results] == [
        type(None),
        ValueError,
        type(None),
        DuplicateKey,
        DuplicateKey,
        type(None),
    ]
    assert [document["_id"] for document in clients.find()] == ["a", "b", "c"]


def test_the_leader_s_own_failure_harms_no_neighbour(embedded: SqliteStore) -> None:
    clients = embedded.collection("clients")
    begun, queued = threading.Event(), threading.Event()

    def lead() -> None:
        clients.insert({"_id": "undone"})
        begun.set()
        queued.wait(30)
        raise ValueError("on purpose")

    def led() -> None:
        with pytest.raises(ValueError, match="on purpose"):
            embedded.together(lead)

    threads = [threading.Thread(target=led), threading.Thread(target=clients.insert, args=({"_id": "kept"},))]
    threads[0].start()
    begun.wait(30)
    threads[1].start()
    _wait_until(lambda: len(embedded.writer._queue) == 1)
    queued.set()
    for thread in threads:
        thread.join(30)
    assert [document["_id"] for document in clients.find()] == ["kept"]


def test_when_a_commit_fails_nobody_in_the_group_is_told_otherwise(embedded: SqliteStore) -> None:
    clients = embedded.collection("clients")
    connection = embedded.writer._connection
    assert connection is not None
    connection.execute("CREATE TABLE parent (key PRIMARY KEY)")
    connection.execute("CREATE TABLE child (key REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    connection.execute("PRAGMA foreign_keys = ON")

    def fail() -> None:
        raise ValueError("on purpose")

    works: list[Callable[[], Any]] = [
        lambda: clients.insert({"_id": "a"}),
        lambda: clients.insert({"_id": "a"}),  # a duplicate only of what is not to be
        lambda: embedded.write(lambda connection: connection.execute("INSERT INTO child VALUES (1)")),
        lambda: embedded.together(fail),
    ]
    results = _in_one_group(embedded, works)
    assert all(isinstance(result, StoreError) and "FOREIGN KEY" in result.message for result in results[:3])
    assert isinstance(results[3], ValueError)
    assert clients.count() == 0
    clients.insert({"_id": "a"})
    assert clients.count() == 1


def test_what_together_raised_leaves_nothing_behind(embedded: SqliteStore) -> None:
    clients, trail = embedded.collection("clients"), embedded.collection("audit_trail")

    def work() -> None:
        clients.insert({"_id": "A"})
        trail.insert_new([{"_id": f"{number}"} for number in range(40)])
        raise KeyError("on purpose")

    with pytest.raises(KeyError):
        embedded.together(work)
    assert (clients.count(), trail.count()) == (0, 0)


def test_an_inner_together_that_fails_is_undone_alone(embedded: SqliteStore) -> None:
    clients = embedded.collection("clients")

    def inner() -> None:
        clients.insert({"_id": "inner"})
        raise KeyError("on purpose")

    def outer() -> None:
        clients.insert({"_id": "outer"})
        with pytest.raises(KeyError):
            embedded.together(inner)

    embedded.together(outer)
    assert [document["_id"] for document in clients.find()] == ["outer"]


def test_an_interrupted_work_leaves_a_store_that_works(embedded: SqliteStore) -> None:
    clients = embedded.collection("clients")

    def work() -> None:
        clients.insert({"_id": "A"})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedded.together(work)
    clients.insert({"_id": "B"})
    assert [document["_id"] for document in clients.find()] == ["B"]


def test_others_see_nothing_of_a_transaction_that_is_not_over(embedded: SqliteStore) -> None:
    clients = embedded.collection("clients")
    seen: list[int] = []

    def work() -> None:
        clients.insert({"_id": "A"})
        other = threading.Thread(target=lambda: seen.append(clients.count()))
        other.start()
        other.join(30)
        seen.append(clients.count())

    embedded.together(work)
    assert seen == [0, 1]


def test_a_store_locked_by_another_program_is_unavailable_after_the_wait(impatient: SqliteStore, file: Path) -> None:
    clients = impatient.collection("clients")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked"):
            clients.insert({"_id": "A"})
        assert 0.2 < time.monotonic() - started < 5
        assert clients.count() == 0
    clients.insert({"_id": "A"})


def test_all_threads_are_told_when_another_process_keeps_the_lock(impatient: SqliteStore, file: Path) -> None:
    clients = impatient.collection("clients")
    results: list[Exception | None] = []

    def write(number: int) -> None:
        try:
            clients.insert({"_id": f"{number}"})
            results.append(None)
        except StoreUnavailable as error:
            results.append(error)

    with Path(f"{file}.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threads = [threading.Thread(target=write, args=(number,)) for number in range(5)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert time.monotonic() - started < 10
    assert len(results) == 5
    assert all(isinstance(result, StoreUnavailable) for result in results)
    clients.insert({"_id": "A"})


def test_a_thread_whose_turn_does_not_come_is_told_and_leaves_the_line(impatient: SqliteStore) -> None:
    clients = impatient.collection("clients")
    begun, ended = threading.Event(), threading.Event()

    def dawdle() -> None:
        begun.set()
        ended.wait(30)

    leader = threading.Thread(target=impatient.together, args=(dawdle,))
    leader.start()
    begun.wait(30)
    with pytest.raises(StoreUnavailable, match="no turn within"):
        clients.insert({"_id": "A"})
    ended.set()
    leader.join(30)
    assert clients.count() == 0
    clients.insert({"_id": "B"})


@contextmanager
def _small_disk(mount_point: Path, megabytes: int) -> Iterator[Path]:
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(mount_point)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    require(mounted, "a file system of a test's own: root, and leave to mount")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


def _fill(store: SqliteStore, size: int) -> tuple[list[str], StoreUnavailable]:
    """Insert until the disk is full: what was acknowledged, and the error."""
    clients = store.collection("clients")
    kept: list[str] = []
    while True:
        key = f"{size}-{len(kept):05}"
        try:
            clients.insert({"_id": key, "text": "x" * size})
        except StoreUnavailable as error:
            return kept, error
        kept.append(key)


def test_a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_space(tmp_path: Path) -> None:
    with _small_disk(tmp_path / "small", 8) as disk:
        ballast = disk / "ballast"
        with closing(SqliteStore(f"sqlite://{disk / 'store.sqlite'}")) as store:
            ballast.write_bytes(b"x" * (2 << 20))
            kept, error = _fill(store, 50_000)
            assert "disk is full" in error.message
            assert kept
            clients = store.collection("clients")
            assert [document["_id"] for document in clients.find()] == kept
            assert store.check() == []
            ballast.unlink()
            clients.insert({"_id": "later", "text": "x" * 50_000})
            assert [document["_id"] for document in clients.find()] == [*kept, "later"]
            assert store.check() == []
        with closing(open_store(f"sqlite://{disk / 'store.sqlite'}")) as again:
            assert again.collection("clients").count() == len(kept) + 1


def test_a_limit_on_file_sizes_loses_nothing(file: Path) -> None:
    script = f"""
import resource, sys
from contextlib import closing
from penguindome_server.store import StoreUnavailable, open_store
with closing(open_store("sqlite://{file}")) as store:
    clients = store.collection("clients")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, unlimited[1]))
    kept = 0
    try:
        while True:
            clients.insert({{"_id": f"{{kept:05}}", "text": "x" * 20_000}})
            kept += 1
    except StoreUnavailable as error:
        print(error.message, file=sys.stderr)
    assert clients.count() == kept > 10, (clients.count(), kept)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    clients.insert({{"_id": "later"}})
    assert clients.count() == kept + 1
    assert store.check() == []
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "is unavailable" in done.stderr


def test_a_file_that_is_no_database_is_refused(file: Path) -> None:
    file.write_bytes(b"This is not a database. " * 1000)
    with pytest.raises(StoreError, match="damaged or no SQLite database"):
        open_store(f"sqlite://{file}")


def test_check_finds_damaged_pages(file: Path) -> None:
    with closing(open_store(f"sqlite://{file}")) as store:
        store.collection("clients").insert_new([{"_id": f"{number}", "text": "x" * 3000} for number in range(200)])
    with file.open("r+b") as damaged:
        for offset in range(300_000, file.stat().st_size - 10_000, 40_000):
            damaged.seek(offset)
            damaged.write(os.urandom(4000))
    with closing(open_store(f"sqlite://{file}")) as store:
        assert store.check() != []


def test_a_truncated_file_gives_our_error(file: Path) -> None:
    with closing(open_store(f"sqlite://{file}")) as store:
        store.collection("clients").insert_new([{"_id": f"{number}", "text": "x" * 3000} for number in range(200)])
    os.truncate(file, 300_000)
    with pytest.raises(StoreError, match="damaged"), closing(open_store(f"sqlite://{file}")) as store:
        list(store.collection("clients").find())


def test_a_directory_in_place_of_the_file_is_named(file: Path) -> None:
    file.mkdir()
    with pytest.raises(StoreUnavailable, match="is a directory"):
        open_store(f"sqlite://{file}")


def test_a_missing_directory_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist") as raised:
        open_store(f"sqlite://{tmp_path / 'missing' / 'store.sqlite'}")
    assert "install -d" in str(raised.value.hint)


@contextmanager
def _as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_a_file_that_may_not_be_opened_is_named(file: Path) -> None:
    file.touch(0o000)
    if os.geteuid() != 0:
        require(not os.access(file, os.R_OK), "a user whom file modes hold")
    with _as_nobody(), pytest.raises(StoreUnavailable, match="Permission denied"):
        open_store(f"sqlite://{file}")


@pytest.mark.parametrize(
    "uri", ["sqlite:store.sqlite", "sqlite://relative/path", "sqlite:///", "sqlite:///dir/", "sqlite://"]
)
def test_a_uri_that_names_no_absolute_path_is_refused(uri: str) -> None:
    with pytest.raises(StoreError, match="names no file"):
        open_store(uri)


def test_the_files_of_the_store_are_for_their_owner_alone(embedded: SqliteStore, file: Path) -> None:
    embedded.collection("clients").insert({"_id": "A"})
    assert {path.stat().st_mode & 0o777 for path in file.parent.glob("store.sqlite*")} == {0o600}


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_was_moved_away_takes_no_more_writes(embedded: SqliteStore, file: Path, replaced: bool) -> None:
    file.rename(file.with_name("moved.sqlite"))
    if replaced:
        file.touch()
    for call in (lambda: embedded.collection("clients").insert({"_id": "A"}), embedded.ping) * 2:
        with pytest.raises(StoreUnavailable, match="was replaced" if replaced else "is gone"):
            call()


def test_ping_says_when_the_file_is_gone(embedded: SqliteStore, file: Path) -> None:
    embedded.ping()
    file.unlink()
    with pytest.raises(StoreUnavailable):
        embedded.ping()


def test_a_store_of_a_newer_program_is_left_alone(file: Path) -> None:
    with closing(open_store(f"sqlite://{file}")):
        pass
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer PenguinDome"):
        open_store(f"sqlite://{file}")


def test_a_field_that_a_later_schema_indexes_is_found(file: Path) -> None:
    earlier = {name: CollectionSchema(name, schema.description) for name, schema in SCHEMA.items()}
    with closing(SqliteStore(f"sqlite://{file}", schema=earlier)) as store:
        for number in range(250):
            store.collection("clients").insert({"_id": f"{number:03}", "hostname": f"h{number}", "state": "enrolled"})
    with closing(SqliteStore(f"sqlite://{file}")) as store:
        assert [document["_id"] for document in store.collection("clients").find({"hostname": "h207"})] == ["207"]
        assert store.check() == []
    changed: Mapping[str, CollectionSchema] = {
        **SCHEMA,
        "clients": CollectionSchema("clients", "", (Index(("hostname",), unique=True),)),
    }
    with closing(SqliteStore(f"sqlite://{file}", schema=changed)) as store:
        with pytest.raises(DuplicateKey):
            store.collection("clients").insert({"_id": "again", "hostname": "h207"})
        assert store.check() == []


def test_the_log_of_changes_stays_bounded(embedded: SqliteStore, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "WAL_BYTES", 1_000_000)
    monkeypatch.setattr(sqlite_writer, "WAL_LOOK_COMMITS", 1)
    monkeypatch.setattr(sqlite_writer, "_WAL_RETRY_SECONDS", 0.0)
    clients, log = embedded.collection("clients"), file.with_name("store.sqlite-wal")
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM clients").fetchone()
        for number in range(5):
            clients.insert({"_id": f"{number}", "text": "x" * 900_000})
        assert log.stat().st_size > 3_000_000
    clients.insert({"_id": "last"})
    assert log.stat().st_size < 1_000_000
    assert clients.count() == 6


def test_a_store_that_was_closed_says_so(file: Path) -> None:
    store = SqliteStore(f"sqlite://{file}")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.collection("clients").get("A")
    with pytest.raises(StoreError, match="closed"):
        store.collection("clients").insert({"_id": "A"})


def test_a_store_that_was_opened_before_a_fork_refuses_to_work_after_it(file: Path) -> None:
    script = f"""
import os
from penguindome_server.store import StoreError, open_store
store = open_store("sqlite://{file}")
child = os.fork()
if child:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    store.collection("clients").insert({{"_id": "A"}})
    store.close()
    raise SystemExit(status)
for call in (lambda: store.collection("clients").get("A"), lambda: store.together(lambda: None)):
    try:
        call()
    except StoreError as error:
        assert "after a fork" in error.message
    else:
        os._exit(1)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_link_planted_in_place_of_the_lock_is_not_followed(file: Path, tmp_path: Path) -> None:
    Path(f"{file}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="cannot be locked"):
        open_store(f"sqlite://{file}")
    assert not (tmp_path / "elsewhere").exists()


def test_opening_it_twice_in_one_process_keeps_the_locks_of_the_first(file: Path, embedded: SqliteStore) -> None:
    embedded.collection("clients").insert({"_id": "a"})
    SqliteStore(f"sqlite://{file}").close()
    another = "import sys; from penguindome_server.store import open_store; open_store(sys.argv[1]).close()"
    subprocess.run([sys.executable, "-c", another, f"sqlite://{file}"], check=True)
    # The last one who closes the file removes the log; the other process was not that.
    assert Path(f"{file}-wal").exists()
