"""Halting a release by itself when too many of the clients that tried it failed.

What became of a release on a client is in the client's document (`update_outcome`, which `reception.py` takes from its
reports): the store counts it through an index. Who refused what it was offered has not tried it: whether it may be
taken, the client judges by its clock, its own release and the key that it trusts. Looking twice, or on several servers
at once, does no harm.
"""

from __future__ import annotations

from datetime import datetime

from penguindome.logging import get_logger
from penguindome_server.release_documents import is_sound, key, newest_first
from penguindome_server.rollout import offers
from penguindome_server.store import Document, Store

log = get_logger(__name__)

FEWEST_FAILURES = 2
SERVER = "server"
"""Who halted it: not a person."""


def outcomes(store: Store, release: int, *, since: datetime | None = None) -> tuple[int, int]:
    """How many clients tried a release, and on how many of them it failed; those told after `since` only."""
    where = {"update_outcome.release": release}
    later = {} if since is None else {"update_outcome.reported_at": {"$gt": since}}
    clients = store.collection("clients")
    done, failed = (clients.count({**where, "update_outcome.status": status, **later}) for status in ("done", "failed"))
    return done + failed, failed


def halt_if_failing(store: Store, release: int, *, percent: int, now: datetime) -> bool:
    """Halt the release when `percent` of the clients that tried it (since it was resumed, if it was) failed; says
    whether it was halted now. Raises StoreUnavailable.
    """
    document = store.collection("releases").get(key(release))
    if document is None or document.get("halted_at") or document.get("pruned_at") or not is_sound(document):
        return False
    tried, failed = outcomes(store, release, since=document.get("resumed_at"))
    if failed < FEWEST_FAILURES or failed * 100 < tried * percent:
        return False
    reason = f"it failed on {failed} of the {tried} clients that tried it"
    if not halt(store, release, who=SERVER, reason=reason, now=now):
        return False
    log.error("release {} is halted: {}", release, reason)
    return True


def halt_failing(store: Store, *, percent: int, now: datetime) -> list[int]:
    """`halt_if_failing` for everything that is offered; returns what was halted."""
    return [offer.release for offer in offers(store) if halt_if_failing(store, offer.release, percent=percent, now=now)]


def halt(store: Store, release: int, *, who: str, reason: str, now: datetime) -> bool:
    """Offer this release to nobody any more; False when it is halted already, or there is none."""

    def change(document: Document | None) -> Document | None:
        if document is None or document.get("halted_at"):
            return None
        return {**document, "halted_at": now, "halted_by": who, "halted_reason": reason}

    updated = store.collection("releases").update(key(release), change)
    return updated.before != updated.after


def halted_by_itself(store: Store) -> list[Document]:
    """Releases that the server halted, newest first, above the newest that everybody shall have."""
    found = []
    for document in newest_first(store):
        if document.get("pruned_at"):
            continue
        if document.get("halted_at"):
            if document.get("halted_by") == SERVER:
                found.append(document)
        elif document.get("promoted_at"):
            break
    return found
