"""Which release whoever names none gets: the newest that is for all."""

from __future__ import annotations

import time
from collections.abc import Callable

from penguindome_server.store import Store

REMEMBER_SECONDS = 1.0


class NewestRelease:
    """Looks the newest release up: promoted, neither halted nor pruned; remembered for a second."""

    def __init__(self, store: Store, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._known: tuple[float, int | None] = (0.0, None)

    def number(self) -> int | None:
        """The number of the newest release, or None if there is none for all. Raises StoreUnavailable."""
        until, known = self._known
        now = self._monotonic()
        if now < until:
            return known
        found = self._read()
        self._known = (now + REMEMBER_SECONDS, found)
        return found

    def _read(self) -> int | None:
        fields = ("release", "promoted_at", "halted_at", "pruned_at")
        for release in self._store.collection("releases").find({}, sort="-release", fields=fields):
            if release.get("promoted_at") and not release.get("halted_at") and not release.get("pruned_at"):
                return int(release["release"])
        return None
