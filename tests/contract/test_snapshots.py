"""Copies of a store that is being worked with, for backups: what belongs together fits together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from penguindome_server import outbox, restoring
from penguindome_server.clients import receive
from penguindome_server.reception import Surroundings, plan
from penguindome_server.reports import Limits
from penguindome_server.snapshots import summaries, take_snapshot
from penguindome_server.store import Collection, Document, Store, StoreError, open_store
from report_material import NOW, A, B, Machine, checks, enrol, plugins, report


def quietly(documents: Iterator[Document], count: int, label: str) -> Iterator[Document]:
    return documents


class Interrupted:
    """A store in which something happens each time before a certain collection is read."""

    atomic = False

    def __init__(self, store: Store, name: str, happens: Callable[[], None]) -> None:
        self._store, self._name, self._happens = store, name, happens
        self.uri = store.uri

    def snapshot(self, path: Path) -> bool:
        return False

    def collection(self, name: str) -> Any:
        return _Interrupted(self._store.collection(name), self._happens if name == self._name else lambda: None)


class _Interrupted:
    def __init__(self, collection: Collection, happens: Callable[[], None]) -> None:
        self._collection, self._happens = collection, happens

    def find(self, *arguments: Any, **keywords: Any) -> Iterator[Document]:
        self._happens()
        return self._collection.find(*arguments, **keywords)

    def get(self, *arguments: Any, **keywords: Any) -> Document | None:
        self._happens()
        return self._collection.get(*arguments, **keywords)

    def count(self) -> int:
        return self._collection.count()


class Reporter:
    """Lets a machine report, with another value each time, as often as is left."""

    def __init__(self, store: Store, times: int) -> None:
        self.machine, self.left, self.count = Machine(store), times, 0

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            self.count += 1
            listed = {"manager": "dpkg", "packages": [{"name": "a", "version": str(self.count)}]}
            firewall = {"active": self.count % 2 == 0, "backends": []}
            outputs = plugins(counter={"number": self.count}, packages=listed, firewall=firewall)
            self.machine.report(plugins=outputs)


def copy_of(store: Any, tmp_path: Path, log: Callable[[], AbstractContextManager[None]] = nullcontext) -> Store:
    take_snapshot(store, tmp_path / "copy.sqlite", quietly=log, progress=quietly)
    return open_store(f"sqlite://{tmp_path / 'copy.sqlite'}")


def require_fitting(copy: Store) -> None:
    """What the trail ends with, what is open and which packages there are is what the document says."""
    document = outbox.settle(copy, A)
    assert document is not None
    number = document["plugins"]["counter"]["number"]
    rows = [row for row in copy.collection("audit_trail").find({"client_id": A}) if "counter" in row["path"]]
    rows.sort(key=lambda row: row["sequence"])
    values = [row["new"]["number"] if row["change"] == "added" else row["new"] for row in rows]
    assert values == list(range(1, number + 1))
    opened = {issue["name"] for issue in copy.collection("issues").find({"client_id": A}) if issue["state"] == "open"}
    assert opened == (set() if number % 2 == 0 else {"no-firewall"})
    packages = copy.collection("packages").get(A)
    assert packages is not None
    assert packages["generation"] == document["generation"]
    assert packages["packages"] == [{"name": "a", "version": str(number)}]


@pytest.mark.parametrize("name", ["audit_trail", "issues", "packages", "clients"])
@pytest.mark.parametrize("times", [1, 4])
def test_reports_that_come_while_a_client_is_copied_are_copied_whole_or_not_at_all(
    store: Store, tmp_path: Path, name: str, times: int
) -> None:
    enrol(store)
    reporter = Reporter(store, 3)
    reporter()
    reporter()
    reporter.left = times
    with closing(copy_of(Interrupted(store, name, reporter), tmp_path)) as copy:
        require_fitting(copy)


def test_an_outbox_that_is_followed_while_a_client_is_copied_is_not_lost(store: Store, tmp_path: Path) -> None:
    """The server stops after it wrote a document, and goes on while the copy is taken."""
    enrol(store)
    reporter = Reporter(store, 1)
    reporter()
    before = store.collection("clients").get(A)
    assert before is not None
    surroundings = Surroundings("192.0.2.1", NOW, "token-2", Limits(trail_bytes_per_day=1 << 20))
    after = plan(
        before, report(2, plugins=plugins(counter={"number": 2}, firewall={"active": True})), checks(), surroundings
    )
    assert store.collection("clients").replace(before, after)
    finished: list[bool] = []

    def finish() -> None:
        if not finished:
            finished.append(True)
            outbox.settle(store, A)

    with closing(copy_of(Interrupted(store, "packages", finish), tmp_path)) as copy:
        assert finished
        document = outbox.settle(copy, A)
        assert document is not None
        rows = [row for row in copy.collection("audit_trail").find({"client_id": A}) if row["sequence"] == 2]
        assert any("counter" in row["path"] for row in rows)


def test_a_client_that_is_never_still_is_an_error_and_no_copy_that_does_not_fit(store: Store, tmp_path: Path) -> None:
    enrol(store)
    reporter = Reporter(store, 1000)
    reporter()
    with pytest.raises(StoreError, match="faster than it can be copied"):
        copy_of(Interrupted(store, "issues", reporter), tmp_path)


def test_a_store_at_rest_is_copied_document_for_document(store: Store, tmp_path: Path) -> None:
    for client_id in (A, B):
        enrol(store, client_id, hostname=client_id[:4])
    Machine(store).report()
    store.collection("audit_trail").insert({"_id": "x", "client_id": "gone", "received_at": NOW})
    store.collection("admin_log").insert({"_id": "1", "done_at": NOW})
    store.collection("deliveries").insert({"_id": "1:A", "action_id": "1", "client_id": A, "state": "pending"})
    with closing(copy_of(store, tmp_path)) as copy:
        assert summaries(copy) == summaries(store)
    (tmp_path / "copy.sqlite").unlink()
    with closing(copy_of(Interrupted(store, "none", lambda: None), tmp_path)) as copy:
        assert summaries(copy) == summaries(store)


def test_a_client_that_goes_while_the_copy_is_taken_leaves_a_sound_copy(store: Store, tmp_path: Path) -> None:
    enrol(store)
    enrol(store, B, hostname="other")
    Machine(store).report()

    def remove() -> None:
        store.collection("clients").delete({"_id": A})

    with closing(copy_of(Interrupted(store, "issues", remove), tmp_path)) as copy:
        assert [document["_id"] for document in copy.collection("clients").find()] == [B]
        assert copy.check() == []


def test_nothing_is_added_to_the_log_while_it_is_read(store: Store, tmp_path: Path) -> None:
    held = threading.Lock()
    entries = store.collection("admin_log")
    entries.insert({"_id": "1", "done_at": NOW})

    def looks() -> None:
        if not held.locked():
            entries.insert({"_id": "2", "done_at": NOW})

    def log() -> Any:
        return held

    with closing(copy_of(Interrupted(store, "admin_log", looks), tmp_path, log)) as copy:
        assert copy.collection("admin_log").count() == 1


def test_after_a_restore_any_token_is_right_once_and_releases_have_room(store: Store) -> None:
    enrol(store)
    machine = Machine(store)
    machine.report()
    store.collection("releases").insert({"_id": f"{7:09d}", "release": 7})
    assert restoring.prepare(store, [3, 5]) == 107
    assert store.collection("server_state").get("releases") == {"_id": "releases", "floor": 107, "_version": 1}
    for number, is_stale in ((8, False), (9, True)):
        receive(
            store, checks(), A, report(number, "a token of another time"), address="192.0.2.1", now=NOW,
            limits=Limits(trail_bytes_per_day=1 << 20),
        )  # fmt: skip
        found = {issue["name"] for issue in store.collection("issues").find({"client_id": A})}
        assert ("cloned-client" in found) == is_stale
    assert restoring.prepare(store, []) == 207
