"""When clients were seen: written once for many polls, never backwards, and kept while the store is away."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from penguindome_server.deferred_store import DeferredStore
from penguindome_server.polls import REWRITE_SECONDS, Poll, Polls
from penguindome_server.store import Document, Store, StoreUnavailable, open_store

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


def poll(**later: float) -> Poll:
    return Poll(
        seen_at=NOW + timedelta(**later), address="192.0.2.1", package_version="1", package_kind="deb", release=0
    )


def client(store: Store) -> Document:
    document = store.collection("clients").get("a")
    assert document is not None
    return document


class Watch:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_many_polls_are_one_write_a_minute(sqlite_store: Store) -> None:
    sqlite_store.collection("clients").insert({"_id": "a", "state": "enrolled"})
    watch = Watch()
    polls = Polls(sqlite_store, monotonic=watch)
    for second in range(5):
        polls.note("a", poll(seconds=second))
        polls.flush()
    assert client(sqlite_store)["last_seen_at"] == NOW
    assert client(sqlite_store)["_version"] == 2
    watch.now += REWRITE_SECONDS + 1
    polls.flush()
    assert client(sqlite_store)["last_seen_at"] == NOW + timedelta(seconds=4)
    assert client(sqlite_store)["_version"] == 3


def test_what_is_left_is_written_at_the_end(sqlite_store: Store) -> None:
    sqlite_store.collection("clients").insert({"_id": "a", "state": "enrolled"})
    polls = Polls(sqlite_store)
    polls.start()
    polls.note("a", poll())
    polls.note("gone", poll())
    polls.flush()
    polls.note("a", poll(seconds=1))
    polls.stop()
    assert client(sqlite_store)["last_seen_at"] == NOW + timedelta(seconds=1)
    assert sqlite_store.collection("clients").get("gone") is None


def test_a_client_is_never_seen_backwards(sqlite_store: Store) -> None:
    later = NOW + timedelta(hours=1)
    sqlite_store.collection("clients").insert({"_id": "a", "state": "enrolled", "last_seen_at": later})
    polls = Polls(sqlite_store)
    polls.note("a", poll())
    polls.flush()
    assert client(sqlite_store)["last_seen_at"] == later


def test_polls_wait_while_the_store_is_away(sqlite_uri: str) -> None:
    away = True

    def opener(uri: str) -> Store:
        if away:
            raise StoreUnavailable("away")
        return open_store(uri)

    store = DeferredStore(sqlite_uri, opener=opener, retry_seconds=0)
    polls = Polls(store)
    polls.note("a", poll())
    polls.flush()
    away = False
    store.collection("clients").insert({"_id": "a", "state": "enrolled"})
    polls.flush()
    assert client(store)["last_seen_at"] == NOW
    store.close()


@pytest.mark.parametrize(
    ("document", "version"),
    [({"last_seen_at": "yesterday"}, "1"), ({"last_seen_at": NOW - timedelta(days=1)}, "\ud800")],
    ids=["a document that cannot be compared", "a poll that the store refuses"],
)
def test_one_client_that_cannot_be_written_keeps_no_other_ones_back(
    sqlite_store: Store, document: Document, version: str
) -> None:
    clients = sqlite_store.collection("clients")
    names = ["a", "b", "c"]
    for name in names:
        clients.insert({"_id": name, "state": "enrolled", **(document if name == "b" else {})})
    polls = Polls(sqlite_store)
    for minute in (0, 1):
        for name in names:
            seen = poll(minutes=minute)
            polls.note(name, replace(seen, package_version=version) if name == "b" else seen)
        polls.flush(everything=True)
        assert [(clients.get(name) or {})["last_seen_at"] for name in ("a", "c")] == [
            NOW + timedelta(minutes=minute)
        ] * 2
    assert clients.get("b") == {"_id": "b", "_version": 1, "state": "enrolled", **document}


def test_a_store_that_is_away_is_not_asked_again_at_once() -> None:
    asked = []

    def opener(uri: str) -> Store:
        asked.append(uri)
        raise StoreUnavailable("away")

    store = DeferredStore("mongodb://user:secret@host/database", opener=opener, retry_seconds=60)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="away"):
            store.ping()
    assert len(asked) == 1
    assert store.uri == "mongodb://host/database"
