"""A copy of the whole store that can be gone on with, taken while the server works: for backups.

An engine that can copy everything as of one moment does. Otherwise documents are copied one after the other such that
what belongs together fits together:
- of each client, trail, issues and packages are read between two looks at its document, and again if a report or an
  evaluation came in between (its `generation` tells): so they are neither ahead of the document nor behind it, but for
  what its outbox says and whoever next touches the client finishes;
- what names other documents is read before those: deliveries before actions before the files of actions;
- the administrative log is read inside of `quietly`, in which nothing is added to it.
Clients that enrol while this runs may be missing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import datetime
from itertools import islice
from pathlib import Path

from penguindome_server.store import Collection, Document, Store, StoreError, open_store
from penguindome_server.store.copying import Progress, Summary, summary
from penguindome_server.store.schema import SCHEMA

ATTEMPTS = 20
PAUSE_SECONDS = 0.05
TRAIL, LOG = "audit_trail", "admin_log"
OF_CLIENTS = {"packages": "_id", "issues": "client_id", TRAIL: "client_id"}
"""Collections that follow from the documents of clients -> the field that names the client."""
FIRST = ("deliveries", "patches", "action_contents")
_AT_ONCE = 100

Quietly = Callable[[], AbstractContextManager[None]]


def take_snapshot(store: Store, path: Path, *, quietly: Quietly, progress: Progress) -> list[Summary]:
    """Copy the store into an embedded one in the new file `path`; returns what that holds. Raises StoreError."""
    with quietly():
        done = store.snapshot(path)
    with closing(open_store(f"sqlite://{path}")) as copy:
        if not done:
            _copy(store, copy, quietly, progress)
        problems = copy.check()
        if problems:
            raise StoreError(f"the copy of the store is not sound: {problems[0]}", hint="run: penguindome store check")
        return summaries(copy)


def summaries(store: Store) -> list[Summary]:
    """What a store holds, collection by collection."""
    return [summary(store.collection(name), store.collection(name).find()) for name in SCHEMA]


def _copy(store: Store, copy: Store, quietly: Quietly, progress: Progress) -> None:
    with quietly():
        _load(copy.collection(LOG), store.collection(LOG).find())
    done = {LOG, "clients", *OF_CLIENTS}
    for name in (*FIRST, *(name for name in SCHEMA if name not in done and name not in FIRST)):
        _load(copy.collection(name), store.collection(name).find())
    clients = store.collection("clients")
    names = progress(clients.find(fields=("_id",)), clients.count(), "copying clients")
    known = {document["_id"] for document in names if _copy_client(store, copy, document["_id"])}
    for name, owner in OF_CLIENTS.items():
        others = (document for document in store.collection(name).find() if document.get(owner) not in known)
        _add(copy.collection(name), others) if name == TRAIL else _load(copy.collection(name), others)


def _copy_client(store: Store, copy: Store, client_id: str) -> bool:
    """Copy a client, and all that follows from its document; False when it was removed meanwhile."""
    clients, newest = store.collection("clients"), _copy_trail(store, copy, client_id)
    for attempt in range(ATTEMPTS):
        before = clients.get(client_id)
        where = {"client_id": client_id} | ({} if newest is None else {"received_at": {"$gte": newest}})
        rows = list(store.collection(TRAIL).find(where))
        issues = list(store.collection("issues").find({"client_id": client_id}))
        packages = store.collection("packages").get(client_id)
        after = clients.get(client_id)
        # Rows come after the document that they follow from: these fit the next look too.
        _add(copy.collection(TRAIL), rows)
        newest = max((row["received_at"] for row in rows), default=newest)
        if before is None or after is None:
            return False
        if before.get("generation") == after.get("generation"):
            # The earlier look: an outbox that was followed and cleared in between may not have been when trail and
            # issues were read.
            copy.collection("clients").load([before])
            copy.collection("issues").load(issues)
            copy.collection("packages").load([packages] if packages else [])
            return True
        time.sleep(PAUSE_SECONDS * random.random() * attempt)  # noqa: S311  # out of step with who reports in step
    raise StoreError(f"the client {client_id} reports faster than it can be copied", hint="stop the server first")


def _copy_trail(store: Store, copy: Store, client_id: str) -> datetime | None:
    """Copy what there is of a client's trail, which is long, and to which rows are only added; returns the time of the
    newest.
    """
    newest: datetime | None = None

    def rows() -> Iterator[Document]:
        nonlocal newest
        for row in store.collection(TRAIL).find({"client_id": client_id}):
            newest = row["received_at"] if newest is None else max(newest, row["received_at"])
            yield row

    _add(copy.collection(TRAIL), rows())
    return newest


def _add(target: Collection, documents: Iterable[Document]) -> None:
    """Add documents that are never changed, unless they are there."""
    rest = iter(documents)
    while batch := list(islice(rest, _AT_ONCE)):
        target.insert_new(batch)


def _load(target: Collection, documents: Iterable[Document]) -> None:
    rest = iter(documents)
    while batch := list(islice(rest, _AT_ONCE)):
        target.load(batch)
