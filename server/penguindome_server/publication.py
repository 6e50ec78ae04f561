"""The published repositories below `repo/`: `current` is a link to the newest of `publications/NUMBER/{apt,arch}`.

Who fetches an index, its signature and what it names over one connection must see one publication, also when the next
is published in between. So a connection keeps the publication that it saw first, for up to two minutes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from penguindome_server.tree_files import OpenFile, open_inside

CONNECTION_KEY = "penguindome.connection"
"""In the environ of a request: a mapping that lives as long as its connection."""

PINNED_SECONDS = 120.0
REPOSITORIES = ("apt", "arch")

_LINK = re.compile(r"publications/([0-9]{1,18})")


class Publications:
    """Opens files of the repositories."""

    def __init__(self, directory: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._monotonic = monotonic

    def open(self, parts: Sequence[str], memory: MutableMapping[str, Any] | None = None) -> OpenFile:
        """Open `apt/...` or `arch/...` in the publication that the connection with this memory sees.

        What its publication has not any more, because that is being removed, comes from the current one, which it sees
        from then on. Raises FileNotFoundError.
        """
        if len(parts) < 2 or parts[0] not in REPOSITORIES:
            raise FileNotFoundError("no such repository")
        pinned = self._pinned(memory)
        if pinned is not None:
            try:
                return open_inside(self._directory / "publications" / pinned, parts)
            except FileNotFoundError:
                pass
        current = self._current()
        if memory is not None and current != pinned:
            memory["publication"] = (current, self._monotonic() + PINNED_SECONDS)
        return open_inside(self._directory / "publications" / current, parts)

    def _pinned(self, memory: MutableMapping[str, Any] | None) -> str | None:
        publication, until = (memory or {}).get("publication", (None, 0.0))
        return publication if self._monotonic() < until else None

    def _current(self) -> str:
        """The one link that is followed, and only to where it may lead."""
        try:
            found = _LINK.fullmatch(str((self._directory / "current").readlink()))
        except OSError as error:
            raise FileNotFoundError("nothing is published") from error
        if found is None:
            raise FileNotFoundError("nothing is published")
        return found[1]
