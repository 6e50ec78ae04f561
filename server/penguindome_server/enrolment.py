"""Clients as administrators know them: found by name, approved, rejected, revoked, replaced.

A client's identity is the fingerprint of its device key (`_id`). States: pending, enrolled, rejected, revoked,
replaced; the last three are final, and a machine in one of them starts again with a new key.

Replacing: `approve(NEW, replaces=OLD)` is for a machine that was installed anew. OLD becomes `replaced` and names its
successor in `replaced_by`; NEW names OLD in `replaces` and takes over the parameters that administrators set. The audit
trail stays where it is, under the key that signed it: who wants the whole history of a machine follows `replaces`
(`predecessors`). OLD's open issues are closed, because NEW's first report finds what is still true.

What waits for a client that is rejected, revoked or replaced is cancelled: it was signed for that key, and no other. A
crash between the two is mended by the audit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from penguindome.errors import UsageError
from penguindome.logging import get_logger
from penguindome_server.action_ends import cancel_for_client
from penguindome_server.duplicates import settle_hostname
from penguindome_server.issues import close_all_issues
from penguindome_server.store import Document, Store

log = get_logger(__name__)

STATES = ("pending", "enrolled", "rejected", "revoked", "replaced")
ACTIVE_STATES = ("pending", "enrolled")
SHORTEST_PREFIX = 4

_HEX = re.compile(r"[0-9A-Fa-f]{4,40}")


def find_client(
    store: Store, text: str, *, states: Sequence[str] = STATES, fields: Sequence[str] | None = None
) -> Document:
    """The one client, in one of `states`, with this host name, id, or beginning of an id (four characters or more).

    Among several, those that are pending or enrolled come before those that are done with. Raises UsageError, with the
    list where there is a choice.
    """
    found = [document for document in _candidates(store, text, fields) if document["state"] in states]
    active = [document for document in found if document["state"] in ACTIVE_STATES]
    choice = active or found
    if not choice:
        kind = "client" if len(states) == len(STATES) else f"{' or '.join(states)} client"
        raise UsageError(f"no {kind} is called {text!r}", hint="see: penguindome clients list")
    if len(choice) > 1:
        names = "; ".join(f"{one['_id']} {one['hostname']} ({one['state']})" for one in choice)
        raise UsageError(f"{text!r} is ambiguous: {names}", hint="use the client id")
    return choice[0]


def _candidates(store: Store, text: str, fields: Sequence[str] | None) -> list[Document]:
    clients = store.collection("clients")
    if fields is not None:
        fields = tuple({*fields, "state", "hostname"})
    found: dict[str, Document] = {}
    if _HEX.fullmatch(text):
        prefix = text.upper()
        for document in clients.find({"_id": {"$gte": prefix, "$lte": prefix + "G"}}, fields=fields):
            found[document["_id"]] = document
        if len(text) == 40:
            return list(found.values())
    for document in clients.find({"hostname": text.lower()}, fields=fields):
        found[document["_id"]] = document
    return list(found.values())


def conflicts(store: Store, client_id: str, *, hostname: str, machine_id: str) -> list[Document]:
    """Other clients, in any state but replaced, with this host name or machine-id: `_id`, `state`, `hostname`,
    `machine_id`.
    """
    clients = store.collection("clients")
    fields = ("state", "hostname", "machine_id")
    found = {
        document["_id"]: document
        for where in ({"hostname": hostname}, {"machine_id": machine_id})
        for document in clients.find(where, fields=fields)
        if document["_id"] != client_id and document["state"] != "replaced"
    }
    return list(found.values())


def predecessors(store: Store, client: Document) -> Iterator[Document]:
    """The clients that this one replaced, newest first."""
    seen = {client["_id"]}
    while (client_id := client.get("replaces")) and client_id not in seen:
        seen.add(client_id)
        older = store.collection("clients").get(client_id)
        if older is None:
            return
        yield older
        client = older


def approve(store: Store, client_id: str, *, who: str, now: datetime, replaces: str | None = None) -> Document:
    """Enrol a client that waits, in place of the client `replaces` if given. Returns the client. Raises UsageError.

    With `replaces` the client may be enrolled already: so a command that was interrupted can be repeated.
    """
    transitions = {"pending": "enrolled"}
    values: dict[str, Any] = {"enrolled_at": now, "enrolled_by": who}
    if replaces is not None:
        _require_replaceable(store, client_id, replaces)
        transitions["enrolled"] = "enrolled"
        values["replaces"] = replaces

    def work() -> Document:
        document = _decide(store, client_id, transitions, values)
        if replaces is not None:
            _retire(store, replaces, client_id, who=who, now=now)
        settle_hostname(store, document["hostname"], cause=f"approval of {client_id}", now=now)
        return document

    document = store.together(work)
    log.info("{} approved client {} ({})", who, client_id, document["hostname"])
    return document


def reject(store: Store, client_id: str, *, who: str, now: datetime) -> Document:
    """Refuse a client that waits, for good. Returns the client. Raises UsageError."""
    document = _decide(store, client_id, {"pending": "rejected"}, {"rejected_at": now, "rejected_by": who})
    cancel_for_client(store, client_id, who=who, now=now)
    log.info("{} rejected client {} ({})", who, client_id, document["hostname"])
    return document


def revoke(store: Store, client_id: str, *, who: str, now: datetime) -> Document:
    """Refuse an enrolled client from now on; its repository credentials, and what waits for it, die with it.

    Returns the client. Raises UsageError.
    """
    values = {"revoked_at": now, "revoked_by": who, "repository_secret_hash": None}
    document = _decide(store, client_id, {"enrolled": "revoked"}, values)
    cancel_for_client(store, client_id, who=who, now=now)
    close_all_issues(store, client_id, who=who, now=now, reason="client-gone")
    settle_hostname(store, document["hostname"], cause=f"revocation of {client_id}", now=now)
    log.info("{} revoked client {} ({})", who, client_id, document["hostname"])
    return document


def change_state(
    store: Store, client_id: str, transitions: dict[str, str], values: dict[str, Any]
) -> tuple[Document | None, Document | None]:
    """Take a client from one state to another, setting `values`; one in none of the states stays as it is. Returns it
    before and after.
    """

    def change(document: Document | None) -> Document | None:
        if document is None or document["state"] not in transitions:
            return None
        return {**document, **values, "state": transitions[document["state"]]}

    updated = store.collection("clients").update(client_id, change)
    return updated.before, updated.after


def _decide(store: Store, client_id: str, transitions: dict[str, str], values: dict[str, Any]) -> Document:
    before, after = change_state(store, client_id, transitions, values)
    if before is None or after is None:
        raise UsageError(f"no client has the id {client_id}", hint="see: penguindome clients list")
    if before["state"] not in transitions:
        wanted = " or ".join(transitions)
        raise UsageError(f"client {client_id} ({before['hostname']}) is {before['state']}, not {wanted}")
    return after


def _require_replaceable(store: Store, client_id: str, replaces: str) -> None:
    if client_id == replaces:
        raise UsageError("a client cannot replace itself")
    old = store.collection("clients").get(replaces, fields=("state", "hostname", "replaced_by"))
    if old is None:
        raise UsageError(f"no client has the id {replaces}", hint="see: penguindome clients list")
    if old["state"] not in ("enrolled", "revoked") and old.get("replaced_by") != client_id:
        raise UsageError(
            f"client {replaces} ({old['hostname']}) is {old['state']}; only an enrolled or revoked one is replaced"
        )


def _retire(store: Store, old_id: str, new_id: str, *, who: str, now: datetime) -> None:
    values = {"replaced_at": now, "replaced_by": new_id, "repository_secret_hash": None}
    change_state(store, old_id, {"enrolled": "replaced", "revoked": "replaced"}, values)
    cancel_for_client(store, old_id, who=who, now=now)
    _move_parameters(store, old_id, new_id)
    close_all_issues(store, old_id, who=who, now=now, reason="client-gone")


def _move_parameters(store: Store, old_id: str, new_id: str) -> None:
    parameters = store.collection("client_parameters")
    old = parameters.get(old_id)
    if old is None:
        return
    moved = {key: value for key, value in old.items() if key not in ("_id", "_version")}
    if parameters.insert_new([{**moved, "_id": new_id}]) == 0:
        log.warning("client {} keeps its own parameters; those of {} are dropped", new_id, old_id)
    parameters.delete({"_id": old_id})
