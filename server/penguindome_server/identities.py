"""Who signs with which key: the clients as authentication sees them, remembered for a few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from penguindome.openpgp import Certificate, cached_certificate
from penguindome_server.store import Document, Store

FIELDS = ("state", "hostname", "public_key", "signing_key")
REMEMBER_SECONDS = 5.0
REMEMBER_AT_MOST = 20_000


@dataclass(frozen=True, slots=True)
class Identity:
    """A client as the store knew it at most five seconds ago."""

    client_id: str
    state: str
    hostname: str
    certificate: Certificate


class Identities:
    """Finds clients by the fingerprint that their signatures name.

    A poll a minute from each of thousands of clients must not read thousands of whole documents, and a burst from one
    client must not read its own again and again. A client that is revoked is refused at most five seconds later by
    every worker.
    """

    def __init__(self, store: Store, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Identity]] = {}

    def find(self, signing_key: str) -> Identity | None:
        """The client whose signatures name this fingerprint, or None. Raises StoreUnavailable."""
        now = self._monotonic()
        known = self._known.get(signing_key)
        if known is not None and known[0] > now:
            return known[1]
        identity = self._read(signing_key)
        if identity is not None:
            with self._lock:
                if len(self._known) >= REMEMBER_AT_MOST:
                    self._known.clear()
                self._known[signing_key] = (now + REMEMBER_SECONDS, identity)
        return identity

    def forget(self, signing_key: str) -> None:
        """Read this client anew when it comes next, because something about it was just changed."""
        with self._lock:
            self._known.pop(signing_key, None)

    def _read(self, signing_key: str) -> Identity | None:
        found = list(self._store.collection("clients").find({"signing_key": signing_key}, limit=1, fields=FIELDS))
        return _identity(found[0]) if found else None


def _identity(document: Document) -> Identity:
    return Identity(
        client_id=document["_id"],
        state=document["state"],
        hostname=document["hostname"],
        certificate=cached_certificate(document["public_key"]),
    )
