"""The schema: which collections there are, and which of their fields can be searched. One table for both engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Index:
    """An index over top-level or dotted scalar fields. `where` (equality only) makes it partial."""

    fields: tuple[str, ...]
    unique: bool = False
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CollectionSchema:
    """One collection: its indexes, and `description`, which the README's table of collections is checked against."""

    name: str
    description: str
    indexes: tuple[Index, ...] = ()

    @property
    def indexed_fields(self) -> tuple[str, ...]:
        """Every field that `find` may name, in the order of declaration."""
        return tuple(dict.fromkeys(name for index in self.indexes for name in index.fields))


SCHEMA: Mapping[str, CollectionSchema] = {
    schema.name: schema
    for schema in (
        CollectionSchema(
            "clients",
            "one document a client: identity, state of its enrolment, its last report",
            (
                Index(("hostname",)),
                Index(("machine_id",)),
                Index(("signing_key",)),
                Index(("state", "last_seen_at")),
                Index(("state", "reported_at")),
                Index(("address", "state")),
                Index(("update_outcome.release", "update_outcome.status", "update_outcome.reported_at")),
            ),
        ),
        CollectionSchema("packages", "installed packages of each client"),
        CollectionSchema(
            "audit_trail",
            "every change of what clients reported, with old and new value",
            (Index(("client_id", "received_at")), Index(("received_at",))),
        ),
        CollectionSchema(
            "issues",
            "problems, open and closed",
            (
                Index(("client_id", "name"), unique=True, where={"state": "open"}),
                Index(("client_id", "name", "closed_at")),
                Index(("state", "opened_at")),
                Index(("hostname",)),
            ),
        ),
        CollectionSchema(
            "patches",
            "signed actions: patches, commands, shells, wipes",
            (Index(("issued_at",)), Index(("kind",)), Index(("state", "expires_at"))),
        ),
        CollectionSchema(
            "deliveries",
            "the state of each action on each of its targets",
            (Index(("client_id", "state")), Index(("action_id", "state")), Index(("state", "queued_at"))),
        ),
        CollectionSchema("action_contents", "the files of actions, in pieces", (Index(("action_id",)),)),
        CollectionSchema(
            "releases", "one document a release: who made it, and who shall have it", (Index(("release",)),)
        ),
        CollectionSchema("enrolment_tokens", "one-time tokens, as hashes", (Index(("expires_at",)),)),
        CollectionSchema("client_parameters", "what administrators set for a client", (Index(("hostname",)),)),
        CollectionSchema("admin_log", "every administrative act, hash-chained", (Index(("done_at",)),)),
        CollectionSchema("server_state", "what the server remembers of itself: schema version, time of the last audit"),
    )
}
