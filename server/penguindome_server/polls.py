"""When clients were last seen: gathered in memory, and written by a thread every few seconds, so that a poll itself
writes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penguindome.logging import get_logger
from penguindome_server.store import Document, Store, StoreUnavailable

log = get_logger(__name__)

FLUSH_SECONDS = 4.0
REWRITE_SECONDS = 50.0
TOGETHER = 32


@dataclass(frozen=True, slots=True)
class Poll:
    """What one request said of a client, apart from its report."""

    seen_at: datetime
    address: str
    package_version: str
    package_kind: str
    release: int

    def values(self) -> Mapping[str, Any]:
        """The fields of the client's document that this sets."""
        return {
            "last_seen_at": self.seen_at,
            "address": self.address,
            "package_version": self.package_version,
            "package_kind": self.package_kind,
            "release": self.release,
        }


class Polls:
    """The polls of one process that are not written yet. A client is written at most once a minute or so, whatever it
    asks in between.
    """

    def __init__(self, store: Store, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._waiting: dict[str, Poll] = {}
        self._written: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, client_id: str, poll: Poll) -> None:
        """Remember the newest poll of a client."""
        with self._lock:
            self._waiting[client_id] = poll

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread = threading.Thread(target=self._run, name="polls", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and write what is left."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self.flush(everything=True)

    def flush(self, *, everything: bool = False) -> None:
        """Write the polls of clients that were not written in the last minute, or all. While the store is away, they
        stay for later; one that cannot be written is dropped, and keeps no other client's back.
        """
        now = self._monotonic()
        with self._lock:
            self._written = {client: when for client, when in self._written.items() if now - when < REWRITE_SECONDS}
            due = [client for client in self._waiting if everything or client not in self._written]
            batch = {client: self._waiting.pop(client) for client in due}
        clients = list(batch.items())
        for start in range(0, len(clients), TOGETHER):
            part = clients[start : start + TOGETHER]
            try:
                self._write_all(part)
            except StoreUnavailable as error:
                log.warning("the times at which clients were seen could not be written: {}", error)
                with self._lock:
                    self._waiting = {**dict(clients[start:]), **self._waiting}
                return
            with self._lock:
                self._written.update((client, now) for client, _ in part)

    def _write_all(self, part: list[tuple[str, Poll]]) -> None:
        """Write them together, or one by one when that fails. Raises StoreUnavailable."""
        try:
            self._write(part)
        except StoreUnavailable:
            raise
        except Exception:
            for client_id, poll in part:
                try:
                    self._write([(client_id, poll)])
                except StoreUnavailable:
                    raise
                except Exception:
                    log.exception("when the client {} was seen cannot be written", client_id)

    def _write(self, part: list[tuple[str, Poll]]) -> None:
        collection = self._store.collection("clients")

        def work() -> None:
            for client_id, poll in part:
                collection.update(client_id, _change(poll))

        self._store.together(work)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Exception:
                log.exception("the thread that writes when clients were seen goes on after an error")


def _change(poll: Poll) -> Callable[[Document | None], Document | None]:
    def change(document: Document | None) -> Document | None:
        if document is None:
            return None
        seen = document.get("last_seen_at")
        if seen is not None and seen > poll.seen_at:
            return None
        return {**document, **poll.values()}

    return change
