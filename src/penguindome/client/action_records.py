"""What became of signed actions: one file each, so that each is accepted once and answered for ever.

Below `actions/` in the client's state: `open/ID.json` while something is left to do (run, try again, tell the server);
`settled/ID.json` afterwards, so that an action that comes again is known; `files/ID/command` is what a command runs;
`locks/ID` is held by whoever works on that action; `refused.json` holds what was refused last, for people to see.

A one-time command that a release brings has such a record too while it runs (kind `release-command`): signed is then
the manifest that names its file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.client.state import no_space
from penguindome.errors import InvalidData
from penguindome.files import FileLock, ensure_directory, read_limited, write_atomically
from penguindome.logging import get_logger

FORMAT = 1
SIZE_LIMIT = 4 << 20
RELEASE_COMMAND = "release-command"
FINAL = frozenset({"done", "failed"})
KEPT_AFTER_EXPIRY = timedelta(days=30)
REFUSALS_KEPT = 20

_ID = re.compile("[0-9a-f]{32}")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "str": (str,),
    "bool": (bool,),
    "datetime": (datetime,),
    "datetime | None": (datetime, type(None)),
    "dict[str, Any] | None": (dict, type(None)),
}

log = get_logger(__name__)


@dataclass
class Record:
    """One action on this machine. Times are of the local clock, but for `expires_at`."""

    id: str
    kind: str
    accepted_at: datetime
    # None for a release's command, which lives as long as its release.
    expires_at: datetime | None = None
    # The action as it was signed; a release's command has the path and hash that the manifest names instead.
    text: str = ""
    signature: str = ""
    path: str = ""
    sha256: str = ""
    title: str = ""

    # How many times it was begun, and may be at the most (None: any number); whether the last end is still unknown.
    attempt: int = 0
    attempts: int | None = None
    running: bool = False
    not_before_at: datetime | None = None
    # What the server is told, and whether it knows.
    result: dict[str, Any] | None = None
    acknowledged: bool = False

    @property
    def is_final(self) -> bool:
        """Whether nothing is left to do but telling the server."""
        return self.result is not None and self.result.get("status") in FINAL

    def conclude(self, status: str, reason: str | None, **more: Any) -> None:
        """Set the result, which the server has not been told yet."""
        self.result = {"status": status, "reason": reason, **more}
        self.acknowledged = False

    @classmethod
    def from_document(cls, document: Any) -> Record:
        """Read a record, refusing what is of another type. Raises InvalidData."""
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidData("this is not the record of an action in a format that this version knows")
        # What a command printed stays as it was printed: only the record's own times are read as such.
        json.revive_object(document)
        values: dict[str, Any] = {}
        for entry in fields(cls):
            if entry.name in document:
                value = document[entry.name]
                kind = str(entry.type)
                if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
                    raise InvalidData(f"{entry.name} is of the wrong type")
                values[entry.name] = value
        try:
            return cls(**values)
        except TypeError as error:
            raise InvalidData("the record of an action is not whole") from error


class Records:
    """The records below `directory`. Accepting and settling is for the holder of the client's lock; whoever changes an
    open record holds that record's own lock.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open_ids(self) -> list[str]:
        """The ids of what is still to be done."""
        return self._ids("open")

    def open(self) -> list[Record]:
        """The records of what is still to be done."""
        return [record for record in map(self.load, self.open_ids()) if record is not None]

    def commands_that_ran(self) -> set[tuple[str, str]]:
        """The release's commands (path and SHA-256) that succeeded, and whose results are still to be reported: their
        files are gone already.
        """
        if not self.open_ids():
            return set()
        succeeded = (each for each in self.open() if each.kind == RELEASE_COMMAND and each.result is not None)
        return {(each.path, each.sha256) for each in succeeded if each.result and each.result.get("reason") is None}

    def load(self, action_id: str) -> Record | None:
        """The record of an action, open or settled; None when it was never accepted. One that is damaged is None too,
        and is set aside.
        """
        for place in ("open", "settled"):
            path = self._path(place, action_id)
            try:
                return Record.from_document(json.loads_plain(read_limited(path, SIZE_LIMIT)))
            except FileNotFoundError:
                continue
            except InvalidData as error:
                log.error("{} is damaged ({}) and was set aside", path, error)
                path.replace(path.with_suffix(".damaged"))
        return None

    def is_open(self, action_id: str) -> bool:
        """Whether something is left to do about an action."""
        return self._path("open", action_id).exists()

    def knows(self, action_id: str) -> bool:
        """Whether an action was ever accepted or answered, also if its record was damaged since."""
        places = [self._path(place, action_id) for place in ("open", "settled")]
        return any(path.exists() or path.with_suffix(".damaged").exists() for path in places)

    def save(self, record: Record) -> None:
        """Write an open record, atomically. Raises NoSpace, leaving what was there."""
        path = self._path("open", record.id)
        try:
            for name in ("", "open", "settled", "locks"):
                ensure_directory(self.directory / name, 0o700)
            write_atomically(path, json.dumps({"format": FORMAT, **asdict(record)}), mode=0o600)
        except OSError as error:
            raise no_space(error, path) from error

    def settle(self, record: Record) -> None:
        """Nothing is left to do: put the record where it is only remembered."""
        self._path("open", record.id).replace(self._path("settled", record.id))
        self.forget_file(record.id)

    def reopen(self, record: Record) -> None:
        """The server asks again: tell it the result again."""
        record.acknowledged = False
        self.save(record)
        self._path("settled", record.id).unlink(missing_ok=True)

    def forget(self, record: Record) -> None:
        """Delete an open record that need not be remembered."""
        self._path("open", record.id).unlink(missing_ok=True)
        self._path("locks", record.id).with_suffix("").unlink(missing_ok=True)
        self.forget_file(record.id)

    def lock(self, name: str) -> FileLock:
        """What one must hold to work on an open action, or (RELEASE_COMMAND) on all commands of releases; with it,
        nobody else does.
        """
        if name != RELEASE_COMMAND:
            self._path("locks", name)
        ensure_directory(self.directory / "locks", 0o700)
        return FileLock(self.directory / "locks" / name)

    def remove_leftovers(self, action_id: str) -> None:
        """Delete what writes of a record that were killed left; for the holder of its lock."""
        for leftover in (self.directory / "open").glob(f".{action_id}.json.*.new"):
            leftover.unlink(missing_ok=True)

    def program(self, action_id: str) -> Path:
        """Where the file of a command lies."""
        return self.directory / "files" / action_id / "command"

    def keep_file(self, action_id: str, contents: bytes) -> None:
        """Keep the file of a command, before its record is written. Raises NoSpace."""
        path = self.program(action_id)
        try:
            ensure_directory(self.directory, 0o700)
            ensure_directory(path.parent.parent, 0o700)
            ensure_directory(path.parent, 0o700)
            write_atomically(path, contents, mode=0o700)
        except OSError as error:
            raise no_space(error, path) from error

    def forget_file(self, action_id: str) -> None:
        """Delete the file of a command, if there is one."""
        path = self.program(action_id)
        if path.parent.is_dir():
            for leftover in path.parent.iterdir():
                leftover.unlink()
            path.parent.rmdir()

    def prune(self, signed_time: datetime | None) -> None:
        """Forget what the server's own signed time says expired long ago: nobody can have it applied again.

        The local clock has no say: one that ran ahead for a while must not make an old action new.
        """
        for action_id in self._ids("settled") if signed_time is not None else ():
            record = self.load(action_id)
            over = record is not None and record.expires_at is not None and record.expires_at + KEPT_AFTER_EXPIRY
            if over and signed_time is not None and over < signed_time:
                self._path("settled", action_id).unlink(missing_ok=True)
                self._path("locks", action_id).with_suffix("").unlink(missing_ok=True)
        files = self.directory / "files"
        for item in os.scandir(files) if files.is_dir() else ():
            if not self.is_open(item.name):
                self.forget_file(item.name)

    def note_refusal(self, action_id: str, reason: str, now: datetime) -> None:
        """Remember what was refused, once, for people to see. A full disk only means that it is not remembered."""
        known = self.refusals()
        if any((entry["id"], entry["reason"]) == (action_id, reason) for entry in known):
            return
        kept = [*known, {"id": action_id, "reason": reason, "refused_at": now}][-REFUSALS_KEPT:]
        try:
            ensure_directory(self.directory, 0o700)
            write_atomically(self.directory / "refused.json", json.dumps(kept), mode=0o600)
        except OSError as error:
            log.warning("the refusal of an action was not remembered: {}", error)

    def refusals(self) -> list[dict[str, Any]]:
        """What was refused last, oldest first: `id`, `reason`, `refused_at`."""
        try:
            kept = json.loads(read_limited(self.directory / "refused.json", SIZE_LIMIT))
        except (FileNotFoundError, InvalidData):
            return []
        right = {"id": str, "reason": str, "refused_at": datetime}
        return [
            entry
            for entry in (kept if isinstance(kept, list) else ())
            if isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in right.items())
        ]

    def _ids(self, place: str) -> list[str]:
        try:
            names = [item.name for item in os.scandir(self.directory / place)]
        except FileNotFoundError:
            return []
        return sorted(name[:-5] for name in names if name.endswith(".json") and _ID.fullmatch(name[:-5]))

    def _path(self, place: str, action_id: str) -> Path:
        if not _ID.fullmatch(action_id):
            raise ValueError("this is no id of an action")
        return self.directory / place / f"{action_id}.json"
