"""What the client remembers from one run to the next: `state.json`, typed, replaced atomically, private to root."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.client.errors import NeedsRoot, NoSpace
from penguindome.errors import InvalidData
from penguindome.files import read_limited, write_atomically
from penguindome.logging import get_logger

FORMAT = 1
SIZE_LIMIT = 1 << 20
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "datetime | None": (datetime, type(None)),
    "dict[str, str]": (dict,),
    "dict[str, Any]": (dict,),
}


@dataclass
class ClientState:
    """Counters, tokens and times. Times are of the local clock unless said otherwise."""

    # Enrolment: "new" (never asked), "pending", "enrolled", or "refused" (`enrolment_message` says why).
    enrolment: str = "new"
    enrolment_message: str = ""
    enrolled_at: datetime | None = None
    asked: int = 0

    # The number of the newest report; raised, and on disk, before a report takes it.
    sequence: int = 0
    exchange_token: str = ""
    # The newest report that the server acknowledged: if it still lies in the spool, it only has to be deleted.
    delivered_report_id: str = ""

    collected_at: datetime | None = None
    delivered_at: datetime | None = None
    collect_requested: bool = False

    # Exchanges that failed in a row, and until when to leave the server in peace.
    failures: int = 0
    not_before_at: datetime | None = None
    last_error: str = ""
    last_error_hint: str = ""
    last_error_at: datetime | None = None
    # Reports that the server failed on: report_id -> {"failures", "not_before_at"}.
    postponed: dict[str, Any] = field(default_factory=dict)

    # Server's clock minus ours, in seconds; used for `sent_at` alone.
    clock_offset: float = 0.0

    # Highest release and newest signed time (of the signer's clock) ever accepted.
    highest_release: int = 0
    newest_signed_at: datetime | None = None
    update_status: str = ""
    # The release that was gone back to when a higher one did not work here.
    went_back_to: int | None = None
    # SHA-256 of a manifest in the installed tree that is not newer than the one in force: it is looked at but once.
    judged_manifest: str = ""

    # Another server key that was not followed: its fingerprint (by hearsay), why, and when.
    rotation_hint: str = ""
    rotation_problem: str = ""
    rotation_problem_at: datetime | None = None

    # Signed actions that wait for this machine's clock or host name to be right: id -> why.
    actions_held_back: dict[str, str] = field(default_factory=dict)

    spool_dropped: int = 0
    bad_reports: int = 0

    # One-time commands: path -> list of the SHA-256 of what exited 0, the newest last: a rollback brings old ones back;
    # path -> {"failures", "not_before_at"}.
    commands_done: dict[str, Any] = field(default_factory=dict)
    commands_failed: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Any) -> ClientState:
        """Read a state, refusing what is of another type; fields that are missing keep their defaults. Raises
        InvalidData.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidData("this is not the state of a client in a format that this version knows")
        values = {}
        for entry in fields(cls):
            if entry.name in document:
                values[entry.name] = _checked(entry.name, str(entry.type), document[entry.name])
        return cls(**values)

    def commands_that_ran(self) -> set[tuple[str, str]]:
        """The one-time commands (path and SHA-256) that exited 0, and never run again."""
        return {(path, digest) for path, digests in self.commands_done.items() for digest in digests}

    def to_document(self) -> dict[str, Any]:
        """The state as it lies in its file."""
        return {"format": FORMAT, **asdict(self)}


def _checked(name: str, kind: str, value: Any) -> Any:
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise InvalidData(f"{name} is of the wrong type")
    return value


class StateFile:
    """The file that holds the state. Only the process that has the client's lock writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved: ClientState | None = None

    def load(self) -> ClientState:
        """The state; a new one when there is none. A damaged file is set aside, and what else is known is found again.

        Raises NeedsRoot when we may not read it.
        """
        try:
            state = ClientState.from_document(json.loads(read_limited(self.path, SIZE_LIMIT)))
        except FileNotFoundError:
            return ClientState()
        except PermissionError as error:
            raise NeedsRoot(f"{self.path} belongs to root", hint="run this with sudo") from error
        except InvalidData as error:
            get_logger(__name__).error("{} is damaged ({}); starting with a new state", self.path, error)
            self.path.replace(self.path.with_suffix(".json.damaged"))
            return ClientState()
        self._saved = _copy(state)
        return state

    def peek(self) -> ClientState:
        """The state as it lies there, for a process without the lock; a new one when it cannot be read."""
        try:
            return ClientState.from_document(json.loads(read_limited(self.path, SIZE_LIMIT)))
        except (OSError, InvalidData):
            return ClientState()

    def save(self, state: ClientState) -> None:
        """Write the state if it differs from what is on disk. Raises NoSpace when it does not fit."""
        if state == self._saved:
            return
        try:
            write_atomically(self.path, json.dumps(state.to_document()), mode=0o600)
        except OSError as error:
            raise no_space(error, self.path) from error
        self._saved = _copy(state)


def _copy(state: ClientState) -> ClientState:
    return replace(
        state,
        postponed=dict(state.postponed),
        commands_done=dict(state.commands_done),
        commands_failed=dict(state.commands_failed),
        actions_held_back=dict(state.actions_held_back),
    )


def no_space(error: OSError, path: Path) -> Exception:
    """The error to raise when writing `path` failed: ours when the disk is full, the same otherwise."""
    if error.errno not in NO_SPACE:
        return error
    return NoSpace(
        f"no space is left to write {path}",
        hint=f"free some space on the file system of {path.parent}; nothing is lost",
    )
