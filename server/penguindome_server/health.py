"""Whether the store answers, asked at most once a second however often others ask."""

from __future__ import annotations

import threading
import time

from penguindome_server.store import Store, StoreUnavailable

REMEMBER_SECONDS = 1.0


class Health:
    """The health of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._until = 0.0
        self._failure: StoreUnavailable | None = None

    def check(self) -> None:
        """Raise StoreUnavailable when the store cannot serve reads, now or a moment ago."""
        if time.monotonic() >= self._until:
            with self._lock:
                if time.monotonic() >= self._until:
                    self._failure = self._ask()
                    self._until = time.monotonic() + REMEMBER_SECONDS
        if self._failure is not None:
            raise StoreUnavailable(self._failure.message) from self._failure

    def _ask(self) -> StoreUnavailable | None:
        try:
            self._store.ping()
        except StoreUnavailable as error:
            return error
        return None
