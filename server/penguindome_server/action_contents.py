"""The contents of the files of actions: kept beside the action, in pieces of a size that a document can have.

A piece is found by action, hash of the whole contents, and number. What comes out is held to hash and size in the
action's text, so that pieces that are missing, foreign or changed are noticed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from hashlib import sha256

from penguindome.actions import Action, ActionRefused, require_contents
from penguindome_server.store import Document, Store

COLLECTION = "action_contents"
PIECE_BYTES = 600_000


def keep(store: Store, action_id: str, contents: Iterable[bytes]) -> None:
    """Store the contents of an action's files; what is there already stays."""
    for content in contents:
        digest = sha256(content).hexdigest()
        for number, start in enumerate(range(0, len(content), PIECE_BYTES)):
            piece: Document = {
                "_id": _key(action_id, digest, number),
                "action_id": action_id,
                "sha256": digest,
                "piece": number,
                "data": base64.b64encode(content[start : start + PIECE_BYTES]).decode("ascii"),
            }
            # Each in a commit of its own: nobody else's write waits for megabytes.
            store.collection(COLLECTION).insert_new([piece])


def read(store: Store, action: Action) -> dict[str, bytes]:
    """The contents of each file that the action names. Raises ActionRefused when they are not whole."""
    contents = {}
    for name, entry in action.files.items():
        count = -(-entry.size // PIECE_BYTES)
        contents[name] = b"".join(_piece(store, _key(action.id, entry.sha256, number)) for number in range(count))
    require_contents(action, contents)
    return contents


def forget(store: Store, action_ids: Sequence[str]) -> None:
    """Delete the contents of these actions."""
    store.collection(COLLECTION).delete({"action_id": {"$in": list(action_ids)}})


def _key(action_id: str, digest: str, number: int) -> str:
    return f"{action_id}:{digest}:{number:04d}"


def _piece(store: Store, key: str) -> bytes:
    piece = store.collection(COLLECTION).get(key)
    if piece is None:
        raise ActionRefused(f"the piece {key} of its contents is missing")
    try:
        return base64.b64decode(piece["data"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ActionRefused(f"the piece {key} of its contents is damaged") from error
