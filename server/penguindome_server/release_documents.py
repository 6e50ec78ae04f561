"""The documents of releases, of which the store may say anything: root makes paths of their numbers, and publishes what
they name.

One counts only if its number is a whole one from 1 to `HIGHEST`, stands under the `_id` of that number, and whatever
else it says is of its type. All others are left out, and logged: whoever writes to the store can withhold a release,
but leads nobody to other files than those of releases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeGuard

from penguindome.logging import get_logger
from penguindome_server.store import Document, Store

COLLECTION = "releases"
HIGHEST = 999_999_999
_TIMES = ("created_at", "staged_at", "promoted_at", "resumed_at", "halted_at", "pruned_at")
_TEXTS = ("created_by", "message", "version", "halted_by", "halted_reason")

log = get_logger(__name__)


def key(number: int) -> str:
    """The `_id` of a release."""
    return f"{number:09d}"


def is_number(value: Any) -> TypeGuard[int]:
    """Whether this can be the number of a release."""
    return type(value) is int and 0 < value <= HIGHEST


def is_sound(document: Mapping[str, Any]) -> bool:
    """Whether a document of the collection says nothing that cannot be; logged if it does."""
    number = document.get("release")
    sound = is_number(number) and document.get("_id") == key(number)
    sound = sound and ("content_of" not in document or is_number(document["content_of"]))
    sound = sound and all(isinstance(document.get(name), datetime | None) for name in _TIMES)
    sound = sound and document.get("created_at") is not None
    sound = sound and all(isinstance(document.get(name), str | None) for name in _TEXTS)
    if not sound or not _is_stage(document.get("stage") or {}):
        log.error("the document {} of releases is damaged, or forged, and is left out", ascii(document.get("_id"))[:80])
        return False
    return True


def newest_first(store: Store) -> Iterator[Document]:
    """All that can be believed, the newest first."""
    return filter(is_sound, store.collection(COLLECTION).find(sort="-release"))


def _is_stage(stage: Any) -> bool:
    if not isinstance(stage, Mapping):
        return False
    percent, clients = stage.get("percent", 0), stage.get("clients", [])
    return (
        type(percent) is int and 0 <= percent <= 100
        and isinstance(clients, list) and all(isinstance(client, str) for client in clients)
    )  # fmt: skip
