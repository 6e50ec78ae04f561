"""Signed actions for tests of what becomes of them between the command that queues them and the client."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from penguindome import json
from penguindome.actions import Action, Target, build, require_contents, require_for
from penguindome.openpgp import Certificate, DeviceKey
from penguindome_server.action_queue import SignedAction, queue
from penguindome_server.store import Document, Store

KINDS: Mapping[str, tuple[dict[str, tuple[bytes, int]], dict[str, Any]]] = {
    "patch": ({"plugins/x": (b"#!/bin/sh\n", 0o755)}, {"remove": [], "newest_release": 0}),
    "command": ({"command": (b"#!/bin/sh\nid\n", 0o700)}, {"name": "id", "attempts": None}),
    "wipe": ({}, {"reason": "lost", "luks": False}),
}


@dataclass
class Signer:
    """An administrator with the server's key."""

    store: Store
    now: datetime
    key: DeviceKey = field(default_factory=lambda: DeviceKey.generate("server"))

    def action(self, *targets: Target, kind: str = "patch", **values: Any) -> SignedAction:
        """A signed action for these targets, not queued."""
        files, parameters = KINDS[kind]
        own: dict[str, Any] = {
            "kind": kind, "action_id": secrets.token_hex(16), "targets": targets, "issued_at": self.now,
            "expires_at": self.now + timedelta(days=7), "files": files, "parameters": parameters, **values,
        }  # fmt: skip
        data = build(**own)
        return SignedAction(Action.from_content(json.loads(data), data), self.key.sign(data))

    def queue(self, *targets: Target, kind: str = "patch", **values: Any) -> str:
        """Queue an action for these targets; its id."""
        files = values.get("files", KINDS[kind][0])
        return self.queue_all([self.action(*targets, kind=kind, **values)], files)

    def queue_all(self, batch: Sequence[SignedAction], files: Mapping[str, tuple[bytes, int]]) -> str:
        """Queue several actions as one command does; the id of the first."""
        contents = {name: content for name, (content, _mode) in files.items()}
        return queue(self.store, batch, contents, title="test", who="tester", now=self.now)

    def delivery(self, action_id: str, client_id: str) -> Document:
        """A delivery, which must be there."""
        found = self.store.collection("deliveries").get(f"{action_id}:{client_id}")
        assert found is not None
        return found


def taken(
    offer: Mapping[str, Any], certificate: Certificate, target: Target, now: datetime
) -> tuple[Action, dict[str, bytes]]:
    """What a client makes of one entry of `patches` in an answer. Raises PenguinDomeError when it takes none of it."""
    action = Action.load(offer["text"].encode(), offer["signature"].encode(), certificate)
    require_for(action, client_id=target.client_id, hostname=target.hostname, now=now, newest_signed_at=None)
    contents = {name: base64.b64decode(content, validate=True) for name, content in offer["contents"].items()}
    require_contents(action, contents)
    return action, contents
