"""What is known of the move to another release: `update.json`, typed, replaced atomically, private to root.

Phases, in their order:
offered     a signed description came; its package is downloaded, over several minutes if need be
ready       the package is here, whole
installing  the package manager is, or was, at work
proving     the new release is installed, and has to show that it works
done        it does
going-back  it does not, and the release before it is put back
failed      it did not; it is never tried again, the next one is

Whoever writes holds the update's lock. From `ready` on that is the watcher (see `watcher`), which a crash at any point
lets begin again at the phase that stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from penguindome import json
from penguindome.client.state import no_space
from penguindome.errors import InvalidData
from penguindome.files import FileLock, read_limited, write_atomically
from penguindome.logging import get_logger
from penguindome.paths import Paths

NAME = "update.json"
LOCK = "update.lock"
FORMAT = 1
SIZE_LIMIT = 1 << 20
PHASES = ("offered", "ready", "installing", "proving", "done", "going-back", "failed")
INSTALLING = frozenset({"installing", "going-back"})
"""Phases in which the installed files may be half of one release and half of the other."""
UNFINISHED = frozenset({"offered", "ready", "installing", "proving", "going-back"})
WATCHED = UNFINISHED - {"offered"}
"""Phases in which the watcher has to do something."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "datetime | None": (datetime, type(None)),
    "dict[str, str]": (dict,),
}

log = get_logger(__name__)


@dataclass
class UpdateRecord:
    """The move to one release. Times are of the local clock. `way_back` names the old package in the cache, if any."""

    phase: str = "done"
    release: int = 0
    version: str = ""
    kind: str = ""
    package: str = ""
    sha256: str = ""
    size: int = 0
    from_release: int = 0
    from_version: str = ""
    way_back: str = ""
    way_back_sha256: str = ""
    offered_at: datetime | None = None
    finished_at: datetime | None = None

    # Why it does not go on just now, how often it did not, and until when it rests.
    reason: str = ""
    attempts: int = 0
    not_before_at: datetime | None = None
    # How often the new release could not reach the server, and the old one could right afterwards.
    unreached: int = 0

    # Releases that did not work here, and why.
    failed: dict[str, str] = field(default_factory=dict)
    # The package of the release in force, for going back to it later: release, name, SHA-256.
    kept_release: int = -1
    kept_package: str = ""
    kept_sha256: str = ""
    # The last offer that was refused (of an unsigned number), and why.
    refused_release: int = 0
    refused_reason: str = ""
    refused_at: datetime | None = None
    # The release that waits for a person to install it, where `update.automatic` is false; 0: none.
    waiting_release: int = 0
    # The signed description that was verified last, and its signature: it names the manifest in the package.
    description: str = ""
    description_signature: str = ""

    @classmethod
    def from_document(cls, document: Any) -> UpdateRecord:
        """Read a record, refusing what is of another type; what is missing keeps its default. Raises InvalidData."""
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidData("this is no record of an update in a format that this version knows")
        values: dict[str, Any] = {}
        for entry in fields(cls):
            if entry.name in document:
                value = document[entry.name]
                if not isinstance(value, _TYPES[str(entry.type)]) or isinstance(value, bool):
                    raise InvalidData(f"{entry.name} is of the wrong type")
                values[entry.name] = value
        record = cls(**values)
        if record.phase not in PHASES:
            raise InvalidData(f"{record.phase!r} is no phase")
        return record

    def to_document(self) -> dict[str, Any]:
        """The record as it lies in its file."""
        return {"format": FORMAT, **asdict(self)}


def lock(paths: Paths) -> FileLock:
    """The lock of whoever works on the update."""
    return FileLock(paths.client_state / LOCK)


def is_locked(paths: Paths) -> bool:
    """Whether somebody works on the update just now."""
    from penguindome.files import AlreadyRunning

    try:
        with lock(paths):
            return False
    except AlreadyRunning:
        return True


def load(paths: Paths) -> UpdateRecord | None:
    """The record; None when there never was an update. A damaged one counts as none, and is set aside."""
    path = paths.client_state / NAME
    try:
        return UpdateRecord.from_document(json.loads(read_limited(path, SIZE_LIMIT)))
    except FileNotFoundError:
        return None
    except InvalidData as error:
        log.error("{} is damaged ({}) and was set aside", path, error.message)
        path.replace(path.with_suffix(".json.damaged"))
        return None


def save(paths: Paths, record: UpdateRecord) -> None:
    """Put a record in the place of the one before. Raises NoSpace, leaving that."""
    path = paths.client_state / NAME
    try:
        write_atomically(path, json.dumps(record.to_document()), mode=0o600)
    except OSError as error:
        raise no_space(error, path) from error


def reported(record: UpdateRecord | None) -> dict[str, Any] | None:
    """What a report says of updates: release, status (done, failed or pending), reason, finished_at."""
    if record is None:
        return None
    if record.refused_reason and record.phase not in UNFINISHED:
        refused = {"release": record.refused_release, "status": "failed", "reason": record.refused_reason}
        return {**refused, "finished_at": record.refused_at}
    if record.release == 0:
        return None
    status = record.phase if record.phase in ("done", "failed") else "pending"
    about = {"release": record.release, "status": status, "reason": record.reason or None}
    return {**about, "finished_at": record.finished_at}
