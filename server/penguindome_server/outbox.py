"""Outboxes: what follows from a client's document in other collections, written down with the document itself.

One compare-and-swap writes a client's document together with its `outbox`. Trail rows, packages, issues and
duplicate host names follow from it, in this order, and then it is cleared. Whoever next wants to change or answer
the client finishes what was left over: it may have stopped after any prefix of these writes, and another process
may be finishing it at this moment. So every step can be done twice, late, or by two at once:

- trail rows have ids made of client, generation and report, and are only added;
- packages and issues carry the client's `generation`, and are left alone when something later has been there (see
  `episodes.py`);
- duplicate host names are decided by what the store holds now;
- clearing is a compare-and-swap; that somebody else cleared it, or wrote something else to the client meanwhile, is
  no error.

A store whose `together` is all or nothing needs none of this, but has the same code behind it: there the outbox is
followed without being written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from penguindome_server import duplicates, episodes, packages, trail
from penguindome_server.store import Document, Store, StoreUnavailable

ATTEMPTS = 100

FIELD = "outbox"


def settle(store: Store, client_id: str) -> Document | None:
    """The client's document, without an outbox: a left-over one is finished first. None if there is no such client."""
    clients = store.collection("clients")
    for _ in range(ATTEMPTS):
        document = clients.get(client_id)
        if document is None or not document.get(FIELD):
            return document
        store.together(partial(finish, store, document))
        if FIELD not in document:
            return document
    raise _too_busy(client_id)


def change_settled(
    store: Store, client_id: str, change: Callable[[Document], Document | None]
) -> tuple[Document, Document] | None:
    """Change a client whose outbox is empty; the new document may hold an outbox, which is finished. Returns the
    documents before and after.

    `change` is pure, and may run again; when it returns None, nothing is done. None also if there is no such
    client.
    """
    for _ in range(ATTEMPTS):
        before = settle(store, client_id)
        after = change(before) if before is not None else None
        if before is None or after is None:
            return None
        if write(store, before, after):
            return before, after
    raise _too_busy(client_id)


def write(store: Store, before: Document, after: Document) -> bool:
    """Replace `before` by `after`, and do what its outbox says; False, and nothing done, if somebody else changed the
    client first.

    When this returns True, all of it is on disk.
    """
    return store.together(partial(_write_at_once if store.atomic else _write_in_steps, store, before, after))


def _write_in_steps(store: Store, before: Document, after: Document) -> bool:
    if not store.collection("clients").replace(before, after):
        return False
    if after.get(FIELD):
        finish(store, after)
    return True


def _write_at_once(store: Store, before: Document, after: Document) -> bool:
    """Where all writes are one, an outbox would be written and cleared by the same commit: it is not written at all."""
    document = {name: value for name, value in after.items() if name != FIELD}
    if not store.collection("clients").replace(before, document):
        return False
    after["_version"] = document["_version"]
    if outbox := after.pop(FIELD, None):
        _follow(store, after["_id"], outbox)
    return True


def finish(store: Store, document: Document) -> None:
    """Do what the outbox of this stored document says, and clear it there and in `document`.

    When another writer changed the document meanwhile, `document` keeps its outbox field; the stored one is cleared
    all the same.
    """
    _follow(store, document["_id"], document[FIELD])
    _clear(store, document)


def _follow(store: Store, client_id: str, outbox: Document) -> None:
    if outbox["trail"]:
        store.collection("audit_trail").insert_new(trail.documents(outbox, client_id))
    if outbox["packages"]:
        _change_packages(store, client_id, outbox)
    for transition in outbox["issues"]:
        episodes.apply(
            store,
            {"_id": client_id, "hostname": outbox["hostname"]},
            transition,
            cause=f"{outbox['generation']}:{outbox['cause']}",
            generation=outbox["generation"],
            now=outbox["received_at"],
        )
    if outbox["hostnames"]:
        _settle_hostnames(store, client_id, outbox)


def _change_packages(store: Store, client_id: str, outbox: Document) -> None:
    def change(stored: Document | None) -> Document | None:
        if stored is not None and stored["generation"] >= outbox["generation"]:
            return None
        after = packages.apply(stored, outbox["packages"], client_id)
        return {**(stored or {}), **after, "updated_at": outbox["received_at"], "generation": outbox["generation"]}

    store.collection("packages").update(client_id, change)


def _settle_hostnames(store: Store, client_id: str, outbox: Document) -> None:
    cause = f"{outbox['generation']}:{outbox['cause']}"
    if len(outbox["hostnames"]) > 1:
        duplicates.rename(store, client_id, outbox["hostnames"][-1])
    for hostname in outbox["hostnames"]:
        duplicates.settle_hostname(store, hostname, cause=cause, now=outbox["received_at"])


def _clear(store: Store, document: Document) -> None:
    clients = store.collection("clients")
    generation = document[FIELD]["generation"]
    current: Document | None = document
    for _ in range(ATTEMPTS):
        if current is None or (current.get(FIELD) or {}).get("generation") != generation:
            return
        if clients.clear(current, FIELD):
            return
        current = clients.get(document["_id"])
    raise _too_busy(document["_id"])


def _too_busy(client_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"client {client_id} is being changed by others all the time")
