"""What only the MongoDB engine has: servers that are away, hang or change their roles, and passwords in a URI."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo import MongoClient

from needs import require
from penguindome_server.store import Document, Store, StoreError, StoreUnavailable, open_store
from penguindome_server.store.mongodb import MongoStore
from penguindome_server.store.mongodb_connection import parse_address
from penguindome_tools.development.mongod import Deployment, locate, running_mongod

QUICKLY = 20.0
"""Seconds: far below the 30 s that a driver takes by default, and far above what a busy machine adds to our 2 s."""


@pytest.fixture
def own_mongod() -> Iterator[Deployment]:
    """A mongod that a test may kill."""
    require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    with running_mongod() as server:
        yield server


@pytest.fixture
def replica_set() -> Iterator[Deployment]:
    require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    with running_mongod(members=3) as servers:
        yield servers


@pytest.fixture
def mongo_store(mongodb_uri: str) -> Iterator[MongoStore]:
    with closing(MongoStore(mongodb_uri)) as opened:
        yield opened


def _every_call(store: Store) -> list[Callable[[], Any]]:
    clients = store.collection("clients")
    return [
        lambda: clients.get("A"),
        lambda: clients.insert({"_id": "B"}),
        lambda: clients.insert_new([{"_id": "B"}]),
        lambda: clients.replace({"_id": "A", "_version": 1}, {"_id": "A", "n": 1}),
        lambda: clients.clear({"_id": "A", "_version": 1}, "n"),
        lambda: clients.update("A", lambda document: {"n": 1}),
        lambda: list(clients.find({"hostname": "x"})),
        clients.count,
        lambda: clients.delete({"_id": "A"}),
        lambda: store.together(lambda: clients.insert({"_id": "B"})),
        store.ping,
        store.check,
    ]


def _eventually(call: Callable[[], Any]) -> Any:
    results: list[Any] = []

    def works() -> bool:
        try:
            results.append(call())
        except StoreUnavailable:
            return False
        return True

    _wait_until(works)
    return results[0]


def test_a_server_that_is_away_is_unavailable_quickly_and_used_again_when_it_is_back(own_mongod: Deployment) -> None:
    quick = f"{own_mongod.uri()}?serverSelectionTimeoutMS=200"
    with closing(open_store(own_mongod.uri())) as store, closing(open_store(quick)) as quicker:
        clients = store.collection("clients")
        clients.insert({"_id": "A"})
        own_mongod.members[0].kill()
        for call in (*_every_call(quicker), lambda: clients.get("A"), lambda: clients.insert({"_id": "B"})):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call()
            assert time.monotonic() - started < QUICKLY
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            open_store(own_mongod.uri())
        assert time.monotonic() - started < QUICKLY
        own_mongod.members[0].start()
        assert _eventually(lambda: clients.get("A")) == {"_id": "A", "_version": 1}
        _eventually(lambda: clients.insert_new([{"_id": "B"}]))
        assert clients.count() == 2


def test_who_comes_while_another_looks_for_a_server_is_told_at_once(own_mongod: Deployment) -> None:
    with closing(MongoStore(own_mongod.uri())) as store:
        clients = store.collection("clients")
        own_mongod.members[0].kill()
        ended = threading.Event()

        def look() -> None:
            while not ended.is_set():
                with pytest.raises(StoreUnavailable):
                    clients.get("A")

        prober = threading.Thread(target=look)
        prober.start()

        def told_at_once() -> bool:
            # Who was made to look himself is told what he saw.
            with pytest.raises(StoreUnavailable) as caught:
                clients.get("A")
            return "cannot be reached" in caught.value.message

        _wait_until(told_at_once)
        ended.set()
        prober.join(60)


def test_a_server_that_hangs_is_unavailable_quickly_and_used_again_when_it_answers(own_mongod: Deployment) -> None:
    with closing(open_store(own_mongod.uri())) as store:
        clients = store.collection("clients")
        clients.insert({"_id": "A"})
        own_mongod.members[0].pause()
        for call in (lambda: clients.get("A"), lambda: clients.insert({"_id": "B"}), store.ping):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call()
            assert time.monotonic() - started < QUICKLY
        own_mongod.members[0].resume()
        assert _eventually(lambda: clients.get("A")) == {"_id": "A", "_version": 1}
        store.ping()


def test_what_was_acknowledged_survives_a_kill_of_mongod(own_mongod: Deployment) -> None:
    with closing(open_store(own_mongod.uri())) as store:
        kept = _write_while(store, own_mongod.members[0].kill, after=60, until_refused=True)
        own_mongod.members[0].start()
        _eventually(store.ping)
        assert _missing(store, kept) == []
        assert store.check() == []


def test_what_was_acknowledged_survives_a_fail_over(replica_set: Deployment) -> None:
    with closing(open_store(replica_set.uri())) as store:
        replica_set.wait_until_steady()
        first = replica_set.primary()
        kept = _write_while(store, first.kill, after=60, until_refused=False)
        assert replica_set.primary() is not first
        assert _missing(store, kept) == []
        first.start()
        replica_set.wait_until_steady()
        assert _missing(store, kept) == []
        with closing(open_store(replica_set.uri())) as again:
            assert again.collection("clients").count() >= len(kept)


def _write_while(store: Store, happen: Callable[[], None], *, after: int, until_refused: bool) -> list[str]:
    """Send reports from four threads, let something happen on the way, and go on; the ids that were acknowledged."""
    kept: list[str] = []
    refusals: list[StoreUnavailable] = []
    ended = threading.Event()
    others: list[Exception] = []

    def write(thread: int) -> None:
        number = 0
        while not ended.is_set():
            number += 1
            key = f"{thread}-{number}"
            try:
                store.together(lambda key=key: _send(store, key))
            except StoreUnavailable as error:
                refusals.append(error)
            except Exception as error:
                others.append(error)
                return
            else:
                kept.append(key)

    threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    _wait_until(lambda: len(kept) >= after)
    happen()
    count = len(kept)
    _wait_until(lambda: len(refusals) > 4 if until_refused else len(kept) > count + after)
    ended.set()
    for thread in threads:
        thread.join(30)
    assert others == []
    return kept


def _send(store: Store, key: str) -> None:
    clients, trail = store.collection("clients"), store.collection("audit_trail")
    document: Document = {"_id": key, "n": 1}
    clients.insert(document)
    after = {**document, "n": 2, "outbox": {"n": 2}}
    assert clients.replace(document, after)
    trail.insert_new([{"_id": f"{key}:1"}, {"_id": f"{key}:2"}])
    assert clients.clear(after, "outbox")


def _missing(store: Store, keys: list[str]) -> list[str]:
    clients, trail = store.collection("clients"), store.collection("audit_trail")
    wanted = {"_version": 3, "n": 2}
    lost = [key for key in keys if clients.get(key) != {"_id": key, **wanted}]
    return lost + [f"{key}:{row}" for key in keys for row in (1, 2) if trail.get(f"{key}:{row}") is None]


def _wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mongodb://user:Geheim%2F1@127.0.0.1:1", "names no database"),
        ("mongodb://user:Geheim%2F1@127.0.0.1:1/?replicaSet=x", "names no database"),
        ("mongodb://user:Geheim/1@127.0.0.1:1/db", "cannot be read"),
        ("mongodb://user:Geheim%2F1@127.0.0.1:port/db", "cannot be read"),
        ("mongodb://user:Geheim%2F1@127.0.0.1:1/db?w=x&nonsense", "cannot be read"),
        ("mongodb://user:Geheim%2F1@127.0.0.1:1/db?tls=maybe", "cannot be read"),
        ("mongodb://user:Geheim@1@127.0.0.1:1/db", "cannot be read"),
        ("mongodb://user:Geheim%2F1@/db", "cannot be read"),
        ("mongodb:Geheim", "cannot be read"),
        ("mongodb://user:Geheim%2F1@127.0.0.1:1/db.with.dots", "names no database|cannot be read"),
        ("mongodb://user:Geheim%2F1@127.0.0.1:1/db", "cannot be used now"),
    ],
)
def test_a_uri_is_refused_with_the_reason_and_without_the_password(uri: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason) as raised:
        open_store(uri)
    text = f"{raised.value.message} {raised.value.hint}"
    if "@" in uri:
        assert "Geheim" not in text
        assert "user" in text


def test_wrong_credentials_are_named_as_such_without_the_password(mongodb_uri: str) -> None:
    uri = mongodb_uri.replace("mongodb://", "mongodb://nobody:Geheim%2F1@")
    with pytest.raises(StoreError, match="wrong name or password") as raised:
        open_store(uri)
    assert not isinstance(raised.value, StoreUnavailable)
    assert "Geheim" not in raised.value.message


def test_the_uri_of_a_store_shows_no_password() -> None:
    address = parse_address("mongodb://user:Geheim%2F1@host1,host2:27018/db?replicaSet=rs0")
    assert address.shown == "mongodb://user@host1,host2:27018/db?replicaSet=rs0"
    assert address.without_secrets("tried Geheim/1, that is Geheim%2F1") == "tried ***, that is ***"


def test_writes_ask_for_a_majority_and_the_journal(mongo_store: MongoStore) -> None:
    durable = mongo_store.collection("clients")._wires.durable
    assert durable.write_concern.document == {"w": "majority", "j": True}
    assert durable.read_concern.document == {"level": "majority"}


def test_check_finds_what_another_program_left(mongo_store: MongoStore, mongodb_uri: str) -> None:
    client: MongoClient[Document]
    with MongoClient(mongodb_uri) as client:
        database = client.get_default_database()
        database["clients"].insert_many(
            [
                {"_id": 5, "_version": 1},
                {"_id": "no version"},
                {"_id": "misplaced", "_version": 1, "seen": datetime(2026, 1, 1, tzinfo=UTC)},
                {"_id": "indexed", "_version": 1, "hostname": ["a"]},
                {"_id": "good", "_version": 1},
            ]
        )
        database["clients"].drop_index("hostname")
        problems = mongo_store.check()
        assert [problem.split(":")[1].strip() for problem in problems] == [
            "hostname is missing or not as the schema says",
            "5",
            "'indexed'",
            "'misplaced'",
            "'no version'",
        ]
        database["clients"].delete_many({"_id": {"$ne": "good"}})
    with closing(open_store(mongodb_uri)) as again:
        assert again.check() == []


def test_wide_integers_are_plain_ones(mongo_store: MongoStore) -> None:
    clients = mongo_store.collection("clients")
    clients.insert({"_id": "A", "n": 2**40, "list": [{"n": -(2**40)}]})
    document = clients.get("A")
    assert document is not None
    assert type(document["n"]) is type(document["list"][0]["n"]) is int
