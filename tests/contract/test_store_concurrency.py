"""Many threads and processes on one store: no write is lost, and what was acknowledged survives a kill."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import needs
from penguindome_server.store import Store, open_store

WRITER = Path(__file__).with_name("store_writer.py")


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """The result of each work, or the exception that it raised."""
    results: list[Any] = [None] * len(works)

    def run(number: int) -> None:
        try:
            results[number] = works[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


@contextmanager
def writing(uri: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(WRITER), words[0], uri, *words[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_no_update_is_lost_among_threads_and_processes(store: Store, store_uri: str) -> None:
    rounds, threads = 15, 4
    words = str(rounds), str(threads)
    with writing(store_uri, "count", "a,b", *words) as first, writing(store_uri, "count", "b,a", *words) as second:
        assert (first.wait(100), second.wait(100)) == (0, 0)
    for key in "ab":
        document = store.collection("clients").get(key)
        assert document is not None
        assert document["n"] == rounds * threads * 2 == document["_version"]


def test_one_of_many_inserts_of_a_document_succeeds(store: Store) -> None:
    trail = store.collection("audit_trail")
    added = in_threads(*[lambda: trail.insert_new([{"_id": f"r:{row}"} for row in range(20)])] * 8)
    assert sum(added) == 20
    assert trail.count() == 20


def test_one_of_many_swaps_of_a_version_succeeds(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "n": 0})
    before = clients.get("A")
    assert before is not None

    def swap(number: int) -> bool:
        return clients.replace(before, {**before, "n": number})

    swapped = in_threads(*[lambda number=number: swap(number) for number in range(1, 9)])
    assert sorted(swapped) == [False] * 7 + [True]
    document = clients.get("A")
    assert document is not None
    assert document["n"] == swapped.index(True) + 1


def test_many_processes_may_make_a_new_store_at_once(store_uri: str, tmp_path: Path) -> None:
    uri = store_uri.replace("store.sqlite", "new.sqlite")
    with ExitStack() as stack:
        processes = [stack.enter_context(writing(uri, "count", "a", "1", "1")) for _ in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    with closing(open_store(uri)) as store:
        document = store.collection("clients").get("a")
        assert document is not None
        assert document["n"] == 3


def _acknowledged(process: subprocess.Popen[str], lines: int) -> Iterator[tuple[str, int]]:
    """The next acknowledgements: client and number."""
    assert process.stdout is not None
    for _ in range(lines):
        name, thread, number = process.stdout.readline().split()
        yield f"{name}-{thread}", int(number)


def _rest(process: subprocess.Popen[str]) -> Iterator[tuple[str, int]]:
    """What a killed process had acknowledged until its end; the last line may be cut off."""
    assert process.stdout is not None
    for line in process.stdout.read().split("\n")[:-1]:
        name, thread, number = line.split()
        yield f"{name}-{thread}", int(number)


def _assert_nothing_lost(store: Store, acknowledged: dict[str, int]) -> None:
    clients, trail = store.collection("clients"), store.collection("audit_trail")
    assert store.check() == []
    for key, number in acknowledged.items():
        document = clients.get(key)
        assert document is not None
        assert document["n"] >= number
        assert document["n"] == document["plugins"]["small"]
        missing = [
            f"{key}:{n}:{row}"
            for n in range(1, number + 1)
            for row in range(3)
            if trail.get(f"{key}:{n}:{row}") is None
        ]
        assert missing == []


@pytest.mark.timeout(900)
def test_what_was_acknowledged_survives_kills_of_its_writers(store: Store, store_uri: str) -> None:
    kills = 50 if needs.testing_all() else 6
    chance = random.Random(20261123)
    acknowledged: dict[str, int] = {}
    for generation in range(kills // 2):
        names = f"first{generation % 3}", f"second{generation % 3}"
        with ExitStack() as stack:
            first, second = (stack.enter_context(writing(store_uri, "report", name, "3")) for name in names)
            acknowledged.update(_acknowledged(first, chance.randrange(1, 40)))
            first.send_signal(signal.SIGKILL)
            acknowledged.update(_rest(first))
            # The other goes on, whatever the killed one held.
            started = time.monotonic()
            acknowledged.update(_acknowledged(second, chance.randrange(10, 40)))
            assert time.monotonic() - started < 30
            second.send_signal(signal.SIGKILL)
            acknowledged.update(_rest(second))
    assert acknowledged
    _assert_nothing_lost(store, acknowledged)
