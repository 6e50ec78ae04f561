"""What is new for a client: its release, the signed manifest it does not have, the signed actions that wait."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penguindome_server.deliveries import OpenDeliveries, pending_actions
from penguindome_server.services import ManifestFile
from penguindome_server.store import Store


@dataclass(frozen=True)
class Held:
    """What a client says it has; `manifest_sha256` is None for none. `tells_manifest`: it said anything about its
    manifest at all.
    """

    release: int
    manifest_sha256: str | None
    tells_manifest: bool = True


def news(
    store: Store, manifest: ManifestFile, open_deliveries: OpenDeliveries, client_id: str, held: Held, *, now: datetime
) -> dict[str, Any]:
    """The answer to `update`, which is also a part of the answer to `submit`. Raises StoreUnavailable."""
    signed = manifest.current()
    current_release = signed.release if signed is not None else 0
    answer: dict[str, Any] = {
        "status": "out-of-date" if held.release < current_release else "current",
        "current_release": current_release,
        "release": None,
        "server_key": manifest.server_key,
        "patches": pending_actions(store, client_id, now=now) if open_deliveries.may_exist(client_id) else [],
    }
    if signed is not None and held.tells_manifest and held.manifest_sha256 != signed.sha256:
        answer["manifest"] = {"text": signed.text, "signature": signed.signature}
    return answer
