"""A process that writes to a store, for tests of several processes: `python store_writer.py VERB URI ...`.

`count URI KEYS ROUNDS THREADS` raises a counter in each of the documents KEYS (a,b,...) ROUNDS times in each thread.
`report URI NAME THREADS` sends reports without end; a line `NAME THREAD NUMBER` on stdout acknowledges each.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from penguindome_server.store import Store, StoreUnavailable, open_store


def raise_counter(document: dict[str, Any] | None) -> dict[str, Any]:
    return {"n": 1} if document is None else {**document, "n": document["n"] + 1}


def count(store: Store, keys: str, rounds: str) -> None:
    clients = store.collection("clients")
    for _ in range(int(rounds)):
        for key in keys.split(","):
            clients.update(key, raise_counter)


def report(store: Store, name: str, thread: int) -> None:
    """What the server does with a report: swap the client's document, write the trail, clear the outbox."""
    clients = store.collection("clients")
    key = f"{name}-{thread}"
    document = clients.get(key)
    if document is None:
        document = {"_id": key, "hostname": key, "plugins": {"big": "x" * 8000, "small": 0}, "n": 0}
        clients.insert(document)
    while True:
        try:
            document = send(store, document)
        except StoreUnavailable:
            continue
        os.write(1, f"{name} {thread} {document['n']}\n".encode())


def send(store: Store, before: dict[str, Any]) -> dict[str, Any]:
    clients = store.collection("clients")
    stored = clients.get(before["_id"])
    assert stored is not None
    if "outbox" in stored:
        finish(store, stored)
    number = stored["n"] + 1
    after = {**stored, "n": number, "outbox": {"n": number}, "plugins": {**stored["plugins"], "small": number}}

    def work() -> None:
        if not clients.replace(stored, after):
            raise AssertionError("another writer of one's own document")
        finish(store, after)

    store.together(work)
    return after


def finish(store: Store, document: dict[str, Any]) -> None:
    """Do what the outbox says, also what a killed process left there."""
    number = document["outbox"]["n"]
    rows = [{"_id": f"{document['_id']}:{number}:{row}", "report_id": f"{number}"} for row in range(3)]
    store.collection("audit_trail").insert_new(rows)
    store.collection("clients").clear(document, "outbox")


def run_threads(threads: int, target: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            target(number)
        except BaseException as error:
            errors.append(error)
            raise

    started = [threading.Thread(target=guarded, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if errors:
        raise SystemExit(1)


def main() -> None:
    verb, uri, *words = sys.argv[1:]
    with closing(open_store(uri)) as store:
        if verb == "count":
            run_threads(int(words[2]), lambda number: count(store, words[0], words[1]))
        else:
            run_threads(int(words[1]), lambda number: report(store, words[0], number))


if __name__ == "__main__":
    main()
