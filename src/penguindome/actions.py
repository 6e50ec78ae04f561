"""Signed actions: what an administrator wants done on certain machines, once.

The text is JSON, signed as it stands (armoured, detached) by the server key:
`{"format":1,"kind":"patch","id":HEX,"targets":[{"client_id":FINGERPRINT,"hostname":NAME}, ...],"issued_at":...,
"expires_at":...,"files":{NAME:{"sha256":HEX,"size":NUMBER,"mode":"0755"}},"parameters":{...}}`.
The contents of the files travel beside it and are held to hash and size.

Kinds: `patch` lays files over the client's tree (`parameters`: `remove` names those that are taken away,
`newest_release` is the newest release that there was when it was issued: it is not for later ones); `command` runs the
one file `command` (`parameters`: `name`, and `attempts` or null); `wipe` has no files (`parameters`: `reason`, `luks`).

Rules of `Action.load`, in this order and without I/O:
1. At most 512 KiB.
2. The signature is by the pinned certificate and over exactly these bytes. Nothing is parsed before.
3. The text is JSON of format 1 with exactly these keys and types, of a kind that is known, with at least one target;
   it expires after it was issued, and not later than its kind may live.
4. The names of files are those that its kind may have (see `check_patch_name`); modes hold permission bits alone, so
   that no file is set-user-id; all contents together have at most 8 MiB.
`require_for` then holds it to one machine and one moment, `require_contents` to what came beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

from penguindome import json
from penguindome.errors import InvalidData, ManifestError, PenguinDomeError
from penguindome.manifest import FileEntry, check_names, file_entry

if TYPE_CHECKING:
    from penguindome.openpgp import Certificate

FORMAT = 1
LARGEST = 512 * 1024
LARGEST_CONTENTS = 8 * 1024 * 1024
COMMAND_FILE = "command"
PATCHED_DIRECTORIES = ("plugins", "commands", "settings")
"""The directories of the client's tree below which a patch may put files."""

LONGEST_LIFE: Mapping[str, timedelta] = {
    "patch": timedelta(days=90),
    "command": timedelta(days=30),
    "wipe": timedelta(days=365),
}
"""Kind -> how long after it was issued an action of it may be carried out at the latest."""

_KEYS = {"format", "kind", "id", "targets", "issued_at", "expires_at", "files", "parameters"}
_ID = re.compile("[0-9a-f]{32}")
_CLIENT_ID = re.compile("[0-9A-F]{40}")
_PARAMETERS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "patch": {"remove": (list,), "newest_release": (int,)},
    "command": {"name": (str,), "attempts": (int, type(None))},
    "wipe": {"reason": (str,), "luks": (bool,)},
}


class ActionRefused(PenguinDomeError):
    """An action that is signed, and still not for this machine, this moment or this place."""

    code: ClassVar[str] = "action-refused"


class ActionWaits(ActionRefused):
    """An action for this machine that may not be done as its clock or its host name is now, and may be when that is
    right.
    """

    code: ClassVar[str] = "action-waits"


@dataclass(frozen=True)
class Target:
    """A machine that an action is for; both must be its own."""

    client_id: str
    hostname: str


@dataclass(frozen=True)
class Action:
    """A verified action. `data` is its text as it was signed."""

    kind: str
    id: str
    targets: tuple[Target, ...]
    issued_at: datetime
    expires_at: datetime
    files: Mapping[str, FileEntry]
    parameters: Mapping[str, Any]
    data: bytes = field(repr=False)

    @classmethod
    def load(cls, data: bytes, signature: bytes, certificate: Certificate) -> Action:
        """Verify and read an action. Raises SignatureError or ActionRefused."""
        if len(data) > LARGEST:
            raise ActionRefused("the action is too large")
        certificate.verify(data, signature)
        try:
            content = json.loads(data)
        except InvalidData as error:
            raise ActionRefused(f"the action is {error.message}") from error
        return cls.from_content(content, data)

    @classmethod
    def from_content(cls, content: Any, data: bytes) -> Action:
        """Check rules 3 and 4 for parsed content, whose text is `data`; for text just verified, or made."""
        _demand(isinstance(content, dict) and set(content) == _KEYS, "it has not the keys of an action")
        _demand(content["format"] == FORMAT and not isinstance(content["format"], bool), f"its format is not {FORMAT}")
        kind = content["kind"]
        _demand(isinstance(kind, str) and kind in LONGEST_LIFE, "its kind is not known here")
        _demand(isinstance(content["id"], str) and bool(_ID.fullmatch(content["id"])), "its id is none")
        issued_at, expires_at = content["issued_at"], content["expires_at"]
        _demand(isinstance(issued_at, datetime) and isinstance(expires_at, datetime), "its times are none")
        _demand(issued_at < expires_at, "it expires before it was issued")
        _demand(expires_at - issued_at <= LONGEST_LIFE[kind], f"a {kind} may not live that long")
        files = _files(content["files"])
        parameters = _parameters(kind, content["parameters"])
        _check_kind(kind, files, parameters)
        return cls(kind, content["id"], _targets(content["targets"]), issued_at, expires_at, files, parameters, data)


def build(
    *,
    kind: str,
    action_id: str,
    targets: Sequence[Target],
    issued_at: datetime,
    expires_at: datetime,
    files: Mapping[str, tuple[bytes, int]],
    parameters: Mapping[str, Any],
) -> bytes:
    """The text of an action; to be signed as it is. `files` maps names to contents and permission bits.

    Raises ActionRefused for what no client would take.
    """
    content = {
        "format": FORMAT,
        "kind": kind,
        "id": action_id,
        "targets": [{"client_id": target.client_id, "hostname": target.hostname} for target in targets],
        "issued_at": issued_at,
        "expires_at": expires_at,
        "files": {
            name: {"sha256": sha256(contents).hexdigest(), "size": len(contents), "mode": f"{mode:04o}"}
            for name, (contents, mode) in files.items()
        },
        "parameters": dict(parameters),
    }
    data = json.dumps(content).encode("ascii")
    if len(data) > LARGEST:
        raise ActionRefused("the action is too large", hint="queue it for fewer machines at a time")
    Action.from_content(json.loads(data), data)
    return data


def require_for(
    action: Action, *, client_id: str, hostname: str, now: datetime, newest_signed_at: datetime | None
) -> None:
    """Raise ActionRefused unless the action names this machine, by id and host name both, and has not expired, neither
    by this machine's clock (`now`) nor by the newest signed time that it has seen.

    ActionWaits is raised where that may still change: clocks and host names may be wrong for a while, and a clock that
    somebody set ahead for a minute must not end a wipe for ever.
    """
    names = [target.hostname for target in action.targets if target.client_id == client_id]
    if not names:
        raise ActionRefused(f"the {action.kind} {action.id} is for another machine than {hostname} ({client_id})")
    if newest_signed_at is not None and newest_signed_at >= action.expires_at:
        raise ActionRefused(f"the {action.kind} {action.id} has expired")
    if hostname not in names:
        raise ActionWaits(
            f"the {action.kind} {action.id} is for this machine under the name {names[0]}, and it is called {hostname}"
        )
    if now >= action.expires_at:
        raise ActionWaits(f"the {action.kind} {action.id} has expired, if this machine's clock is right")


def require_contents(action: Action, contents: Mapping[str, bytes]) -> None:
    """Raise ActionRefused unless `contents` are exactly the files that the action names."""
    if set(contents) != set(action.files):
        raise ActionRefused(f"the {action.kind} {action.id} came with other files than it names")
    for name, entry in action.files.items():
        if len(contents[name]) != entry.size or sha256(contents[name]).hexdigest() != entry.sha256:
            raise ActionRefused(f"the {action.kind} {action.id} came with other contents of {name} than it names")


def check_patch_name(name: str) -> None:
    """Raise ActionRefused unless a patch may have a file of this name: below one of PATCHED_DIRECTORIES; settings are
    files `settings/*.yml`.
    """
    directory, _, rest = name.partition("/")
    if directory not in PATCHED_DIRECTORIES or not rest:
        raise ActionRefused(
            f"{name[:100]!a} is no path that a patch may change",
            hint=f"it lies below {', '.join(f'{each}/' for each in PATCHED_DIRECTORIES)}",
        )
    if directory == "settings" and ("/" in rest or not rest.endswith(".yml") or rest.startswith(".")):
        raise ActionRefused(f"{name[:100]!a} is no file of settings", hint="it is called settings/NAME.yml")


def _files(files: Any) -> dict[str, FileEntry]:
    _demand(isinstance(files, dict), "its files are not a mapping")
    try:
        check_names(files)
        entries = {name: file_entry(name, entry) for name, entry in files.items()}
    except ManifestError as error:
        raise ActionRefused(error.message) from error
    _demand(sum(entry.size for entry in entries.values()) <= LARGEST_CONTENTS, "its contents are larger than 8 MiB")
    return entries


def _targets(targets: Any) -> tuple[Target, ...]:
    _demand(isinstance(targets, list) and bool(targets), "it has no targets")
    found = []
    for target in targets:
        _demand(isinstance(target, dict) and set(target) == {"client_id", "hostname"}, "a target is none")
        client_id, hostname = target["client_id"], target["hostname"]
        _demand(isinstance(client_id, str) and bool(_CLIENT_ID.fullmatch(client_id)), "the id of a target is none")
        _demand(isinstance(hostname, str) and bool(hostname), "the host name of a target is none")
        found.append(Target(client_id, hostname))
    return tuple(found)


def _parameters(kind: str, parameters: Any) -> dict[str, Any]:
    known = _PARAMETERS[kind]
    _demand(isinstance(parameters, dict) and set(parameters) == set(known), f"its parameters are not those of a {kind}")
    for name, types in known.items():
        value = parameters[name]
        _demand(
            isinstance(value, types) and (bool in types or not isinstance(value, bool)), f"{name} is of a wrong type"
        )
    return dict(parameters)


def _check_kind(kind: str, files: Mapping[str, FileEntry], parameters: Mapping[str, Any]) -> None:
    if kind == "patch":
        removed = parameters["remove"]
        _demand(parameters["newest_release"] >= 0, "its newest release is none")
        _demand(bool(files) or bool(removed), "it changes nothing")
        _demand(all(isinstance(name, str) for name in removed), "what it removes is no text")
        _demand(
            len(set(removed)) == len(removed) and not set(removed) & set(files), "it removes a file twice, or adds it"
        )
        try:
            check_names(removed)
        except ManifestError as error:
            raise ActionRefused(error.message) from error
        for name in (*files, *removed):
            check_patch_name(name)
    elif kind == "command":
        _demand(set(files) == {COMMAND_FILE}, "a command is one file")
        attempts = parameters["attempts"]
        _demand(attempts is None or 1 <= attempts <= 1000, "its attempts are not 1 to 1000")
        _demand(
            bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", parameters["name"])),
            "its name is not 1 to 64 of A-Z, a-z, 0-9, - and _",
        )
    else:
        _demand(not files, f"a {kind} has no files")
        _demand(
            parameters["reason"].isprintable() and 0 < len(parameters["reason"]) <= 500,
            "its reason is no line of 1 to 500 characters",
        )


def _demand(condition: object, problem: str) -> None:
    if not condition:
        raise ActionRefused(f"this is not a usable action: {problem}")
