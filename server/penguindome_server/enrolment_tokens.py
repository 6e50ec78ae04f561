"""One-time enrolment tokens: 256 random bits, known to the store by their hash alone, good once, until they expire."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta

from penguindome_server.store import Document, Store

LONGEST = 128
COLLECTION = "enrolment_tokens"


def create_token(store: Store, *, who: str, now: datetime, lifetime: timedelta) -> str:
    """Make a token that enrols one machine at once, and forget tokens that expired a month ago. Returns the only copy
    of its text.
    """
    token = secrets.token_urlsafe(32)
    collection = store.collection(COLLECTION)
    collection.delete({"expires_at": {"$lt": now - timedelta(days=30)}})
    collection.insert(
        {
            "_id": _hash(token),
            "created_at": now,
            "expires_at": now + lifetime,
            "created_by": who,
            "used_at": None,
            "used_by": None,
        }
    )
    return token


def token_is_good(store: Store, token: str, client_id: str, *, now: datetime) -> bool:
    """Whether this token may enrol this client now: not expired, and not used by another."""
    return _good(store.collection(COLLECTION).get(_hash(token)), client_id, now)


def consume_token(store: Store, token: str, client_id: str, *, now: datetime) -> bool:
    """Use the token up for this client, atomically; False when it is unknown, expired, or was used by another.

    A client that was interrupted between this and its answer may use its token again, and nobody else may.
    """

    def use(document: Document | None) -> Document | None:
        if document is None or not _good(document, client_id, now):
            return None
        document["used_at"] = document["used_at"] or now
        document["used_by"] = client_id
        return document

    return _good(store.collection(COLLECTION).update(_hash(token), use).after, client_id, now)


def list_tokens(store: Store) -> Iterator[Document]:
    """All tokens that are remembered, soonest to expire first."""
    return store.collection(COLLECTION).find(sort="expires_at")


def _good(document: Document | None, client_id: str, now: datetime) -> bool:
    return document is not None and now < document["expires_at"] and document["used_by"] in (None, client_id)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
