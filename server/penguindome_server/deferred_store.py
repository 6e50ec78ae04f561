"""A store that is opened when it is first needed, so that a server whose database is away starts, says so, and
recovers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from penguindome_server.store import Collection, Store, StoreUnavailable, open_store

T = TypeVar("T")

RETRY_SECONDS = 1.0


class DeferredStore:
    """The store behind `uri`. Each use tries to open it until that worked; between two attempts a second passes, in
    which uses fail at once.
    """

    def __init__(
        self, uri: str, *, opener: Callable[[str], Store] = open_store, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self._uri = uri
        self.uri = _without_password(uri)
        self._opener = opener
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._failure: StoreUnavailable | None = None
        self._retry_after = 0.0

    @property
    def atomic(self) -> bool:
        """Whether what `together` writes is there wholly or not at all after a crash."""
        return self.opened().atomic

    def opened(self) -> Store:
        """The open store. Raises StoreUnavailable while it cannot be opened."""
        if self._store is not None:
            return self._store
        with self._lock:
            if self._store is None:
                if self._failure is not None and time.monotonic() < self._retry_after:
                    raise StoreUnavailable(self._failure.message, hint=self._failure.hint) from self._failure
                try:
                    self._store = self._opener(self._uri)
                except StoreUnavailable as error:
                    self._failure = error
                    self._retry_after = time.monotonic() + self._retry_seconds
                    raise
            return self._store

    def collection(self, name: str) -> Collection:
        """A collection of the schema."""
        return self.opened().collection(name)

    def together(self, work: Callable[[], T]) -> T:
        """Run `work` so that its writes share one durable commit."""
        return self.opened().together(work)

    def check(self) -> list[str]:
        """Problems found in structure and contents."""
        return self.opened().check()

    def snapshot(self, path: Path) -> bool:
        """Write a copy as of one moment, if the engine can."""
        return self.opened().snapshot(path)

    def ping(self) -> None:
        """Raise StoreUnavailable when the store cannot serve reads now."""
        self.opened().ping()

    def close(self) -> None:
        """Close all connections, if any were opened."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
