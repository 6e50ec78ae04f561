"""Packages of releases, from the server into the client's cache: whole and as they were signed, or not at all.

A download goes on where it stopped, in a later minute or after a crash, as long as the server's file is the same one.
The cache can be read by everybody, because apt reads packages as a user of its own.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from penguindome import json
from penguindome.client.enrolment import CREDENTIALS
from penguindome.client.errors import NoSpace, Unreachable
from penguindome.client.state import no_space
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import ensure_directory, read_limited, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penguindome.client.context import Client
    from penguindome.client.update_record import UpdateRecord

SECONDS_A_MINUTE = 45.0
"""How much of a minute a download takes at the most: reports go out in between."""
RESERVE = 32 << 20
"""What is left free on the disk beside the package: nobody's machine is filled up for an update."""
_PART = ".part"
_ETAG = ".etag"


class WrongContents(PenguinDomeError):
    """What came is not the package that was signed; it was deleted."""

    code = "wrong-package"


def fetch(client: Client, record: UpdateRecord, *, seconds: float = SECONDS_A_MINUTE) -> bool:
    """Go on with the download of the package that `record` names, for so many seconds; says whether it is here, whole.

    Raises ServerError, NoSpace or WrongContents.
    """
    target = client.paths.client_cache / record.package
    if is_whole(target, record.sha256):
        return True
    try:
        ensure_directory(client.paths.client_cache, 0o755)
        part = target.with_name(target.name + _PART)
        _require_room(client.paths.client_cache, record.size - _size(part))
        if not _receive(client, record, part, time.monotonic() + seconds):
            return False
        _put_in_place(part, target, record)
    except OSError as error:
        _forget(target)
        raise no_space(error, target) from error
    return True


def progress(cache: Path, record: UpdateRecord) -> int:
    """How much of the package is here, in percent."""
    return min(100, _size(cache / (record.package + _PART)) * 100 // max(record.size, 1))


def is_whole(path: Path, expected: str) -> bool:
    """Whether a file is there and has this SHA-256 (hex)."""
    try:
        return not path.is_symlink() and digest(path) == expected
    except OSError:
        return False


def prune(cache: Path, keep: Iterable[str]) -> None:
    """Delete what is not needed any more from the cache."""
    kept = set(keep)
    if not cache.is_dir():
        return
    for path in cache.iterdir():
        if not path.is_dir() and path.name.removesuffix(_ETAG).removesuffix(_PART) not in kept:
            path.unlink(missing_ok=True)


def _receive(client: Client, record: UpdateRecord, part: Path, deadline: float) -> bool:
    """Add to what is there until it is all, or the time is over; says which."""
    etag_file = part.with_name(part.name + _ETAG)
    start, etag = _size(part), _text(etag_file)
    if start == record.size and start:
        return True
    endpoint = f"download_release?release={record.release}&format={record.kind}"
    credentials = _credentials(client.paths.client_state)
    with client.transport.download(endpoint, credentials=credentials, start=start, etag=etag) as download:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(part, flags, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            os.ftruncate(descriptor, download.start)
            etag_file.write_text(download.etag)
            file.seek(download.start)
            count = download.start
            for piece in download.pieces:
                count += len(piece)
                if count > record.size:
                    _forget(part.with_name(record.package))
                    raise WrongContents(f"the server sent more than the {record.size} bytes of {record.package}")
                file.write(piece)
                if time.monotonic() > deadline and count < record.size:
                    return False
            file.flush()
            os.fsync(descriptor)
    if count < record.size:
        raise Unreachable(f"the server sent only {count} of the {record.size} bytes of {record.package}")
    return True


def _put_in_place(part: Path, target: Path, record: UpdateRecord) -> None:
    if digest(part) != record.sha256:
        _forget(target)
        raise WrongContents(
            f"what the server sent as {record.package} is not what was signed; it was deleted",
            hint="tell the administrator",
        )
    part.replace(target)
    part.with_name(part.name + _ETAG).unlink(missing_ok=True)
    sync_directory(target.parent)


def _require_room(directory: Path, needed: int) -> None:
    free = os.statvfs(directory)
    room = free.f_bavail * free.f_frsize
    if room < needed + RESERVE:
        raise NoSpace(
            f"the release needs {(needed + RESERVE) / 1e6:.0f} MB in {directory}, and {room / 1e6:.0f} MB are free",
            hint="free some space; what is installed stays as it is",
        )


def _credentials(directory: Path) -> tuple[str, str] | None:
    """Name and password of this client at the repository; None where the server gave none."""
    try:
        document = json.loads_plain(read_limited(directory / CREDENTIALS, 64 << 10))
    except (FileNotFoundError, InvalidData):
        return None
    user, password = (document.get(name) for name in ("user", "password")) if isinstance(document, dict) else (0, 0)
    return (user, password) if isinstance(user, str) and isinstance(password, str) else None


def _forget(target: Path) -> None:
    for name in (target.name + _PART, target.name + _PART + _ETAG):
        with suppress(OSError):
            target.with_name(name).unlink()


def digest(path: Path) -> str:
    """The SHA-256 (hex) of a file. Raises OSError."""
    result = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return read_limited(path, 1000).decode("ascii", "replace")
    except (OSError, InvalidData):
        return ""
