"""Which release a client should have: of those that root has signed, the newest that an administrator meant for it.

A document of the collection `releases` says who shall have release N: everybody once it is promoted (`promoted_at`);
before, the clients of its stage: those named, and of the others the share `percent`. Which clients that are is decided
by a hash of the client's id and N, so that it stays the same while the share grows, and differs between releases. A
release that is halted or pruned is for nobody; who has it already keeps it.

The store only chooses among signed releases: what it says can withhold one, or hand out an old one, which clients that
have seen a newer one refuse.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from penguindome_server import release_documents
from penguindome_server.store import Document, Store

REMEMBER_SECONDS = 1.0
MOST_ARE_WITHIN = 8
KEPT_BEFORE = 2
"""How many releases before the newest can still be fetched by who has an index of yesterday."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A release that somebody shall have. `since_at` is when it was offered to those who were offered it last."""

    release: int
    promoted: bool
    percent: int
    clients: frozenset[str]
    since_at: datetime

    @classmethod
    def of(cls, document: Document) -> Offer:
        """What a document of `releases` says that is sound."""
        stage = document.get("stage") or {}
        times = [document.get(name) for name in ("created_at", "staged_at", "promoted_at", "resumed_at")]
        return cls(
            release=document["release"],
            promoted=document.get("promoted_at") is not None,
            percent=int(stage.get("percent") or 0),
            clients=frozenset(stage.get("clients") or ()),
            since_at=max(moment for moment in times if moment is not None),
        )

    def is_for(self, client_id: str) -> bool:
        """Whether this client shall have it."""
        return self.promoted or client_id in self.clients or bucket(client_id, self.release) < self.percent


def bucket(client_id: str, release: int) -> int:
    """Where a client stands among a hundred, as far as this release goes: below `percent` it is among the first."""
    return int(hashlib.sha256(f"{release}:{client_id}".encode()).hexdigest()[:8], 16) % 100


def offers(store: Store) -> list[Offer]:
    """What is offered, newest first, down to the newest that is for everybody: nobody is due an older one."""
    releases = store.collection("releases")
    # Nearly always the first few are enough, and a second later they are looked at again.
    for limit in (MOST_ARE_WITHIN, None):
        found: list[Offer] = []
        seen = 0
        for document in releases.find(sort="-release", limit=limit):
            seen += 1
            if document.get("halted_at") or document.get("pruned_at") or not release_documents.is_sound(document):
                continue
            found.append(Offer.of(document))
            if found[-1].promoted:
                return found
        if limit is None or seen < limit:
            return found
    return []


def offered(store: Store, *, among: Container[int]) -> list[int]:
    """What the repositories offer to everybody, newest first: the newest promoted release of those `among` which the
    store may choose, and those before it whose packages stay there for a while. For `publication.publish`.
    """
    found: list[int] = []
    for document in release_documents.newest_first(store):
        if document["release"] not in among:
            continue
        if document.get("promoted_at") and not document.get("halted_at") and not document.get("pruned_at"):
            found.append(document["release"])
            if len(found) > KEPT_BEFORE:
                break
    return found


def due(found: Iterable[Offer], client_id: str) -> Offer | None:
    """The newest of these (`offers`) that the client shall have; None if there is none."""
    return next((offer for offer in found if offer.is_for(client_id)), None)


class Rollout:
    """The offers as of at most a second ago, so that polls cost the store nothing."""

    def __init__(self, store: Store, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._until = 0.0
        self._offers: Sequence[Offer] = ()

    def offers(self) -> Sequence[Offer]:
        """What is offered, newest first. Raises StoreUnavailable."""
        if self._monotonic() >= self._until:
            with self._lock:
                if self._monotonic() >= self._until:
                    self._offers = tuple(offers(self._store))
                    self._until = self._monotonic() + REMEMBER_SECONDS
        return self._offers

    def due(self, client_id: str) -> int | None:
        """The release that the client should have; None if there is none. Raises StoreUnavailable."""
        found = due(self.offers(), client_id)
        return None if found is None else found.release

    def newest(self) -> int | None:
        """The newest release that is for everybody; None if there is none. Raises StoreUnavailable."""
        return next((offer.release for offer in self.offers() if offer.promoted), None)

    def forget(self) -> None:
        """Look at the store when next asked: something was changed."""
        self._until = 0.0
