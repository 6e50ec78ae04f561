"""What is new for a client: its release, the signed manifest it does not have, the signed actions that wait."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penguindome.openpgp import Certificate
from penguindome_server.deliveries import OpenDeliveries, pending_actions
from penguindome_server.published import PublishedFile
from penguindome_server.rollout import Rollout
from penguindome_server.signed_files import ManifestFile, SignedDescription, SignedManifest, SignedReleases
from penguindome_server.store import Store


@dataclass(frozen=True)
class Held:
    """What a client says it has; `manifest_sha256` is None for none. `tells_manifest`: it said anything about its
    manifest at all.
    """

    release: int
    manifest_sha256: str | None
    tells_manifest: bool = True


@dataclass(frozen=True)
class Sources:
    """Where news come from. `manifest` is that of release 0, which is what the base packages ship; `server_key` the
    certificate of the key in use.
    """

    store: Store
    manifest: ManifestFile
    releases: SignedReleases
    rollout: Rollout
    open_deliveries: OpenDeliveries
    server_key: PublishedFile[Certificate]


def due_release(sources: Sources, client_id: str) -> SignedDescription | None:
    """The newest release that this client should have, of those whose signed description is here. Raises
    StoreUnavailable.
    """
    for offer in sources.rollout.offers():
        if offer.is_for(client_id):
            found = sources.releases.description(offer.release)
            if found is not None:
                return found
    return None


def news(sources: Sources, client_id: str, held: Held, *, now: datetime) -> dict[str, Any]:
    """The answer to `update`, which is also a part of the answer to `submit`. Raises StoreUnavailable."""
    due = due_release(sources, client_id)
    current = due.description.release if due is not None else 0
    moves = due is not None and held.release < current
    waits = sources.open_deliveries.may_exist(client_id)
    answer: dict[str, Any] = {
        "status": "out-of-date" if moves else "current",
        "current_release": current,
        "release": None,
        "server_key": sources.server_key.current.fingerprint,
        "patches": pending_actions(sources.store, client_id, now=now) if waits else [],
    }
    if due is not None and moves:
        answer["release"] = {"number": current, "text": due.text, "signature": due.signature}
    signed = _manifest_of(sources, held.release)
    if signed is not None and held.tells_manifest and held.manifest_sha256 != signed.sha256:
        answer["manifest"] = {"text": signed.text, "signature": signed.signature}
    return answer


def _manifest_of(sources: Sources, release: int) -> SignedManifest | None:
    """The server's manifest of exactly this release."""
    if release:
        return sources.releases.manifest(release)
    signed = sources.manifest.current()
    return signed if signed is not None and signed.release == 0 else None
