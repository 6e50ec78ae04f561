"""From a staged release to one that clients get, such that a kill at any instant leaves the old or the new one whole.

1. A note of what is under way is written (`release.under-way.json` among root's keys, which nobody else can write).
2. The publisher moves the staged directory to `releases/N`, and puts a publication with it in force.
3. The release goes into root's own record, and its document into the store: from now on clients are told of it.
4. The note is removed.
After a kill before the move there is a staged directory that nobody knows: the next run removes it. After a kill behind
the move the next run does the rest. A failure (not a kill) takes everything back, and the number is never used again:
the note becomes `release.burnt.json` until the store has that, which needs no space on a disk that is full.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from penguindome import json
from penguindome.errors import PenguinDomeError, SettingsError
from penguindome.files import FileLock, read_limited, write_atomically
from penguindome.logging import get_logger
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome.server_keyring import ServerKeyring
from penguindome_server.store import Document
from penguindome_tools.context import Context
from penguindome_tools.installation import recorded_fingerprint, service_user_ids
from penguindome_tools.releases import own_record, records
from penguindome_tools.releases.making import PREFIX, Signing, remove_leftovers
from penguindome_tools.releases.publication import publish, publish_release
from penguindome_tools.releases.staged import StagedRelease

NOTE = "release.under-way.json"
BURNT = "release.burnt.json"
LOCK = "release.lock"
LARGEST_NOTE = 1 << 20

log = get_logger(__name__)


@contextmanager
def one_at_a_time(context: Context) -> Iterator[None]:
    """Be the only run that makes or removes releases. Raises AlreadyRunning, or PenguinDomeError when not root.

    Within, what is made can be read by all, whatever root's umask is.
    """
    lock = FileLock(context.paths.keys / LOCK)
    with context.as_root():
        require_keys(context.paths)
        lock.acquire()
    umask = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(umask)
        lock.release()


@contextmanager
def signing(context: Context) -> Iterator[Signing]:
    """Root's keyring with the server key. Raises SettingsError or PenguinDomeError as `require_keys` does."""
    with context.as_root():
        fingerprint = require_keys(context.paths)
        owner = service_user_ids()
        keyring = ServerKeyring(context.paths.keys / "gnupg")
    try:
        with context.as_root():
            certificate, *earlier = (
                Certificate.from_text(keyring.certificate(each))
                for each in (fingerprint, *(other for other in keyring.fingerprints() if other != fingerprint))
            )
        yield Signing(keyring, certificate, tuple(earlier), owner[1] if owner else None)
    finally:
        with context.as_root():
            keyring.close()


def require_keys(paths: Paths) -> str:
    """The fingerprint of the server key. Raises SettingsError before setup, PenguinDomeError for who is not root."""
    try:
        fingerprint = recorded_fingerprint(paths)
    except PermissionError as error:
        raise PenguinDomeError(f"the keys in {paths.keys} are root's", hint="run this with sudo") from error
    if fingerprint is None:
        raise SettingsError("this server has no key yet", hint="run: penguindome setup")
    return fingerprint


def publish_and_record(context: Context, signing: Signing, staged: StagedRelease, document: Document) -> None:
    """Publish a staged release, and put its document into the store. To be called within `one_at_a_time`.

    Raises what the publisher raises, with everything as it was before; or PenguinDomeError when the release could not
    be recorded: then `finish` does the rest.
    """
    standing, for_all = own_record.standing(context), document["promoted_at"] is not None
    try:
        with context.as_root():
            write_atomically(context.paths.keys / NOTE, json.dumps(document), mode=0o600)
            publish_release(
                context.paths,
                signing.keyring,
                signing.fingerprint,
                staged,
                releases=[staged.number, *standing.offered] if for_all else standing.offered,
                now=context.clock(),
                valid_for=context.settings["releases.valid_for"],
                keep_end=bool(standing.withheld) and not for_all,
            )
    except BaseException:
        _take_back(context, signing, staged)
        raise
    try:
        _record(context, document)
    except (PenguinDomeError, OSError) as error:
        kind = type(error) if isinstance(error, PenguinDomeError) else PenguinDomeError
        raise kind(
            f"release {staged.number} is in the repositories, but clients are not told of it: {error}",
            hint="run the command again when that is mended: it does the rest first",
        ) from error


def finish(context: Context, signing: Signing) -> int | None:
    """Do the rest of what a killed run left under way; returns the release's number if it was published so far.

    To be called within `one_at_a_time`, as `publish_and_record` is.
    """
    with context.as_root():
        remove_leftovers(context.paths)
    _burn(context)
    document = under_way(context)
    if document is None:
        return None
    number: int = document["release"]
    if number not in records.on_disk(context.paths):
        with context.as_root():
            (context.paths.keys / NOTE).unlink()
        return None
    publish_anew(context, signing, first=number if document["promoted_at"] else None)
    _record(context, document)
    return number


def under_way(context: Context) -> Document | None:
    """The document of a release that a run was publishing when it was killed, or is publishing now."""
    return _noted(context, NOTE)


def _noted(context: Context, name: str) -> Document | None:
    with context.as_root():
        try:
            document: Any = json.loads(read_limited(context.paths.keys / name, LARGEST_NOTE))
        except FileNotFoundError:
            return None
    return document if isinstance(document, dict) and isinstance(document.get("release"), int) else None


def publish_anew(context: Context, signing: Signing, *, first: int | None = None) -> None:
    """Let the repositories offer what is for all, and `first` before that."""
    standing = own_record.standing(context)
    releases = [*([] if first is None else [first]), *(each for each in standing.offered if each != first)]
    with context.as_root():
        publish(
            context.paths,
            signing.keyring,
            signing.fingerprint,
            releases=releases,
            now=context.clock(),
            valid_for=context.settings["releases.valid_for"],
            keep_end=bool(standing.withheld) and first is None,
        )


def _record(context: Context, document: Document) -> None:
    own_record.add(context, document)
    context.store.collection(records.RELEASES).insert_new([document])
    with context.as_root():
        (context.paths.keys / NOTE).unlink()


def _take_back(context: Context, signing: Signing, staged: StagedRelease) -> None:
    """Leave all as it was before a publication that failed, or was interrupted."""
    moved, note = context.paths.releases / str(staged.number), context.paths.keys / NOTE
    was_moved = not staged.directory.exists() and moved.exists()
    with context.as_root():
        if was_moved:
            note.rename(context.paths.keys / BURNT)
            _take_away(context.paths, staged.number)
        remove_leftovers(context.paths)
        note.unlink(missing_ok=True)
    if not was_moved:
        return
    try:
        publish_anew(context, signing)
    except (PenguinDomeError, OSError) as error:
        log.warning("the repositories could not be published as they were: {}", error)
    try:
        _burn(context)
    except (PenguinDomeError, OSError) as error:
        log.warning("the next run notes that the number {} is used up: {}", staged.number, error)


def _burn(context: Context) -> None:
    """Let the number of a release that was taken back never be used again. Raises StoreUnavailable."""
    document = _noted(context, BURNT)
    if document is None:
        return
    with context.as_root():
        _take_away(context.paths, document["release"])
        remove_leftovers(context.paths)
    records.burn(context.store, document["release"])
    with context.as_root():
        (context.paths.keys / BURNT).unlink()


def _take_away(paths: Paths, number: int) -> None:
    moved = paths.releases / str(number)
    if moved.exists():
        moved.rename(paths.releases / f"{PREFIX}{number}-taken-back")
