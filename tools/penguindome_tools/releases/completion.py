"""From a staged release to one that clients get, such that a kill at any instant leaves the old or the new one whole.

1. A note of what is under way is written (`release.under-way.json` among root's keys, which nobody else can write).
2. The publisher moves the staged directory to `releases/N`, and puts a publication with it in force.
3. The document of the release goes into the store: from now on clients are told of it.
4. The note is removed.
After a kill before the move there is a staged directory that nobody knows: the next run removes it. After a kill behind
the move the next run does the rest. A failure (not a kill) takes everything back, and the number is never used again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from penguindome import json
from penguindome.errors import PenguinDomeError, SettingsError
from penguindome.files import FileLock, read_limited, write_atomically
from penguindome.logging import get_logger
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome.server_keyring import ServerKeyring
from penguindome_server.rollout import offered
from penguindome_server.store import Document
from penguindome_tools.context import Context
from penguindome_tools.installation import recorded_fingerprint, service_user_ids
from penguindome_tools.releases import records
from penguindome_tools.releases.making import PREFIX, Signing, remove_leftovers
from penguindome_tools.releases.publication import publish, publish_release
from penguindome_tools.releases.staged import StagedRelease

NOTE = "release.under-way.json"
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

    Raises what the publisher raises, with everything as it was before; or StoreUnavailable when the document could not
    be written: then `finish` does the rest.
    """
    before = offered(context.store)
    following = [staged.number, *before] if document["promoted_at"] else before
    try:
        with context.as_root():
            write_atomically(context.paths.keys / NOTE, json.dumps(document), mode=0o600)
            publish_release(
                context.paths,
                signing.keyring,
                signing.fingerprint,
                staged,
                releases=following,
                now=context.clock(),
                valid_for=context.settings["releases.valid_for"],
            )
    except BaseException:
        _take_back(context, signing, staged, before)
        raise
    try:
        _record(context, document)
    except PenguinDomeError as error:
        raise type(error)(
            f"release {staged.number} is in the repositories, but clients are not told of it: {error.message}",
            hint="run the command again when the store can be reached: it does the rest first",
        ) from error


def finish(context: Context, signing: Signing) -> int | None:
    """Do the rest of what a killed run left under way; returns the release's number if it was published so far.

    To be called within `one_at_a_time`, as `publish_and_record` is.
    """
    with context.as_root():
        remove_leftovers(context.paths)
    document = under_way(context)
    if document is None:
        return None
    number: int = document["release"]
    if number not in records.on_disk(context.paths):
        with context.as_root():
            (context.paths.keys / NOTE).unlink()
        return None
    others = [other for other in offered(context.store) if other != number]
    publish_anew(context, signing, [number, *others] if document["promoted_at"] else others)
    _record(context, document)
    return number


def under_way(context: Context) -> Document | None:
    """The document of a release that a run was publishing when it was killed, or is publishing now."""
    with context.as_root():
        try:
            document: Any = json.loads(read_limited(context.paths.keys / NOTE, LARGEST_NOTE))
        except FileNotFoundError:
            return None
    return document if isinstance(document, dict) and isinstance(document.get("release"), int) else None


def publish_anew(context: Context, signing: Signing, releases: Sequence[int]) -> None:
    """Let the repositories offer these releases, newest first."""
    with context.as_root():
        publish(
            context.paths,
            signing.keyring,
            signing.fingerprint,
            releases=releases,
            now=context.clock(),
            valid_for=context.settings["releases.valid_for"],
        )


def _record(context: Context, document: Document) -> None:
    context.store.collection(records.RELEASES).insert_new([document])
    with context.as_root():
        (context.paths.keys / NOTE).unlink()


def _take_back(context: Context, signing: Signing, staged: StagedRelease, before: Sequence[int]) -> None:
    """Leave all as it was before a publication that failed, or was interrupted."""
    moved = context.paths.releases / str(staged.number)
    was_moved = not staged.directory.exists() and moved.exists()
    if was_moved:
        records.burn(context.store, staged.number)
    with context.as_root():
        if was_moved:
            moved.rename(context.paths.releases / f"{PREFIX}{staged.number}-taken-back")
        remove_leftovers(context.paths)
        (context.paths.keys / NOTE).unlink(missing_ok=True)
    if was_moved:
        try:
            publish_anew(context, signing, before)
        except (PenguinDomeError, OSError) as error:
            log.warning("the repositories could not be published as they were: {}", error)
