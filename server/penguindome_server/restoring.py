"""What a store that comes out of a backup has to be told before a server goes on with it; and the note that a restore
is under way, or was interrupted, which root leaves where the server sees it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData
from penguindome.files import read_limited, write_atomically
from penguindome.paths import Paths
from penguindome_server.store import Document, Store

NOTE = "restoring.json"
"""The file beside the directory of the keys that is there from the first change of a restore to its last."""
RELEASES = "releases"
"""`_id` of the document of `server_state` whose `floor` no new release may have a number below."""
MARGIN = 100
"""How many releases may have been made between the backup and the loss of the server."""

_NOTE_BYTES = 65536


def note_path(paths: Paths) -> Path:
    """Where that file is: `/var/lib/penguindome/restoring.json`."""
    return paths.keys.parent / NOTE


def note(paths: Paths, backup: str, file: Path) -> None:
    """Note that the backup with this id, which lies in this file, is being restored. For root; all may read it."""
    write_atomically(note_path(paths), json.dumps({"backup": backup, "file": str(file.absolute())}), mode=0o644)


def noted(paths: Paths) -> str | None:
    """The id of the backup whose restore is under way or was interrupted; None when there is none that can be read."""
    backup = _read(paths).get("backup")
    return backup if isinstance(backup, str) else None


def command_to_finish(paths: Paths) -> str | None:
    """The command that ends a restore which was interrupted (or is under way); None when there is none.

    A server must not be started before: its store and its files may be those of different servers.
    """
    if not note_path(paths).exists():
        return None
    file = _read(paths).get("file")
    words = f"penguindome restore {shlex.quote(file) if isinstance(file, str) else 'FILE'}"
    return f"{words}, with the options that it was given"


def _read(paths: Paths) -> dict[str, Any]:
    try:
        document = json.loads(read_limited(note_path(paths), _NOTE_BYTES))
    except (OSError, InvalidData):
        return {}
    return document if isinstance(document, dict) else {}


def prepare(store: Store, releases: Iterable[int]) -> int:
    """Let tokens of all clients re-synchronise once, and numbers of releases begin above all that may have been given
    since; returns the floor. `releases`: numbers known from elsewhere.
    """
    highest = max((0, *releases, *_known_releases(store)))
    clients = store.collection("clients")
    for document in clients.find(fields=("_id",)):
        clients.update(document["_id"], _resynchronising)

    def raised(document: Document | None) -> Document:
        return {**(document or {"_id": RELEASES}), "floor": highest + MARGIN}

    store.collection("server_state").update(RELEASES, raised)
    return highest + MARGIN


def _resynchronising(document: Document | None) -> Document | None:
    if document is None or not document.get("exchange"):
        return None
    return {**document, "exchange": {**document["exchange"], "resynchronise": True}}


def _known_releases(store: Store) -> Iterable[int]:
    """The numbers that the store knows of: of releases, of what clients have, of an earlier floor."""
    state = store.collection("server_state").get(RELEASES) or {}
    yield from _numbers(state.get("floor"))
    for release in store.collection("releases").find(fields=("release",)):
        yield from _numbers(release.get("release"))
    fields = ("release", "plugins.penguindome.release", "plugins.penguindome.update.release")
    for client in store.collection("clients").find(fields=fields):
        own = client.get("plugins", {}).get("penguindome")
        own = own if isinstance(own, dict) else {}
        update = own.get("update")
        told = update.get("release") if isinstance(update, dict) else None
        for value in (client.get("release"), own.get("release"), told):
            yield from _numbers(value)


def _numbers(value: Any) -> list[int]:
    # What clients told is hostile: a number from space must not end all releases.
    return [value] if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000_000 else []
