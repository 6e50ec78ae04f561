"""Rotations: a new server key, which the old one has named, and everything in force signed by it; a new enrolment key.

A rotation of the server key goes through steps that can each be done again, and a journal in `keys/` says that one is
under way, so that a crash at any instant is repaired by giving the command again:
1. The journal, with the certificate of the old key; then a new key in the keyring.
2. The statement, signed by the old key, is published: whoever meets the new key can follow from here on.
3. Actions that wait are signed anew. Clients that get one follow; none is refused for its signature.
4. The new key is the server's: `keys/server.fingerprint`, `releases/server.asc`.
5. Whatever else is in force is signed anew, and actions once more: one may have been queued meanwhile.
6. The old private key is deleted, unless it shall be kept; then the journal is.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from penguindome import json, rotation
from penguindome.errors import InvalidData, KeyMaterialError, PenguinDomeError
from penguindome.files import FileLock, read_limited, sync_directory, write_atomically
from penguindome.openpgp import Certificate, DeviceKey
from penguindome.paths import Paths
from penguindome.server_keyring import ServerKeyring
from penguindome_server.published import statements
from penguindome_server.services import STATEMENTS
from penguindome_server.store import Store
from penguindome_tools import resigning
from penguindome_tools.context import Context
from penguindome_tools.installation import recorded_fingerprint
from penguindome_tools.releases import own_record, publication
from penguindome_tools.resigning import Resigned, Signer

JOURNAL = "rotation.json"
LOCK = "lock"
JOURNAL_BYTES = 1 << 20
SIGNERS = ("actions.lock", "release.lock")
"""The locks of the commands that sign: of those that queue actions, and of those that make releases."""
LOCK_SECONDS = 30.0


class RotationFailed(PenguinDomeError):
    """A rotation that could not be begun or finished."""

    code: ClassVar[str] = "key-rotation"


@dataclass(frozen=True)
class Journal:
    """A rotation that is under way. `new` is empty until the key has been made."""

    old: str
    old_certificate: str
    new: str
    keep_old: bool
    started_at: datetime


@dataclass(frozen=True)
class Outcome:
    """What a rotation did. `problems`: what was left alone because neither key had signed it."""

    old: str
    new: str
    files: int
    actions: int
    kept_old: bool
    published: bool
    problems: tuple[str, ...]


def interrupted(paths: Paths) -> Journal | None:
    """The rotation that was begun and not finished, if there is one. Raises RotationFailed."""
    path = paths.keys / JOURNAL
    try:
        document = json.loads(read_limited(path, JOURNAL_BYTES))
        return Journal(**document)
    except FileNotFoundError:
        return None
    except (InvalidData, TypeError) as error:
        raise RotationFailed(f"{path} is damaged: {error}", hint="restore the keys from a backup") from error


def rotate_server_key(context: Context, *, keep_old: bool) -> Outcome:
    """Rotate the server key, or finish a rotation that was interrupted. Raises PenguinDomeError or OSError."""
    store, paths = context.store, context.paths  # a store that is away shows before anything was done
    with ExitStack() as held:
        with context.as_root():
            held.enter_context(FileLock(paths.keys / LOCK))
            # What another command signs meanwhile with the old key, no client would take that has followed.
            for name in SIGNERS:
                held.enter_context(FileLock(paths.keys / name, wait=LOCK_SECONDS))
            keyring = ServerKeyring(paths.keys / "gnupg")
        held.callback(_close, context, keyring)
        return _rotate(context, store, keyring, keep_old=keep_old)


def _close(context: Context, keyring: ServerKeyring) -> None:
    with context.as_root():
        keyring.close()


def _rotate(context: Context, store: Store, keyring: ServerKeyring, *, keep_old: bool) -> Outcome:
    paths, now = context.paths, context.clock()
    with context.as_root():
        journal = interrupted(paths) or _begin(paths, keyring, keep_old=keep_old, now=now)
        journal = _with_new_key(paths, keyring, journal)
        old = Certificate.from_text(journal.old_certificate)
        signer = Signer(keyring, old, Certificate.from_text(keyring.certificate(journal.new)))
        _publish_statement(paths, signer, now)
    before = _resign_actions(context, store, signer)
    with context.as_root():
        write_atomically(paths.keys / "server.fingerprint", signer.new.fingerprint + "\n", mode=0o600)
        write_atomically(paths.releases / "server.asc", signer.new.text, mode=0o644)
        with publication.publishing(paths):
            files = resigning.resign_files(signer, paths.releases)
    after = _resign_actions(context, store, signer)
    published = _publish_anew(context, signer, now)
    with context.as_root():
        _resign_admin_log(paths)
        if not journal.keep_old:
            keyring.delete(journal.old)
        (paths.keys / JOURNAL).unlink()
        sync_directory(paths.keys)
    return Outcome(
        journal.old, journal.new, files.count, before.count + after.count, journal.keep_old, published,
        (*files.problems, *after.problems),
    )  # fmt: skip


def _begin(paths: Paths, keyring: ServerKeyring, *, keep_old: bool, now: datetime) -> Journal:
    old = recorded_fingerprint(paths)
    if old is None:
        raise RotationFailed("there is no server key yet", hint="run: penguindome setup")
    if old not in keyring.fingerprints():
        raise RotationFailed(f"the private key {old} is not in {keyring.home}", hint="restore the keys from a backup")
    journal = Journal(old, keyring.certificate(old), "", keep_old, now)
    _write(paths, journal)
    return journal


def _with_new_key(paths: Paths, keyring: ServerKeyring, journal: Journal) -> Journal:
    if not journal.new:
        # A key that an interrupted rotation made, and could not note any more, is taken rather than left lying.
        known = {journal.old, *(content["old"] for content in _contents(paths))}
        unused = [fingerprint for fingerprint in keyring.fingerprints() if fingerprint not in known]
        journal = replace(journal, new=unused[-1] if unused else keyring.generate("PenguinDome server"))
        _write(paths, journal)
    return journal


def _write(paths: Paths, journal: Journal) -> None:
    write_atomically(paths.keys / JOURNAL, json.dumps(asdict(journal)), mode=0o600)


def _publish_statement(paths: Paths, signer: Signer, now: datetime) -> None:
    path = paths.releases / STATEMENTS
    known = statements(path)
    if any(content["new"] == signer.new.fingerprint for content in _contents(paths)):
        return
    text = rotation.build(signer.old, signer.new, issued_at=now)
    signature = signer.keyring.sign(text, signer.old.fingerprint)
    chain = [*known, {"text": text.decode("ascii"), "signature": signature.decode("ascii")}]
    if rotation.follow(signer.old, chain[-1:]).fingerprint != signer.new.fingerprint:
        raise KeyMaterialError("the statement that was signed does not lead to the new key")
    write_atomically(path, json.dumps({"statements": chain}), mode=0o644)


def _contents(paths: Paths) -> list[dict[str, Any]]:
    """The published statements, parsed."""
    return [json.loads(statement["text"]) for statement in statements(paths.releases / STATEMENTS)]


def _resign_actions(context: Context, store: Store, signer: Signer) -> Resigned:
    actions = resigning.open_actions(store, now=context.clock())
    with context.as_root():
        signatures, problems = resigning.renewed_actions(signer, actions)
    return Resigned(resigning.replace_signatures(store, actions, signatures), tuple(problems))


def _publish_anew(context: Context, signer: Signer, now: datetime) -> bool:
    """Let the repositories be signed by the new key; says whether there are any."""
    if not (context.paths.repository / "current").is_symlink():
        return False
    standing, valid_for = own_record.standing(context), context.settings["releases.valid_for"]
    with context.as_root():
        publication.publish(
            context.paths, signer.keyring, signer.new.fingerprint, releases=standing.offered, now=now,
            valid_for=valid_for, keep_end=bool(standing.withheld),
        )  # fmt: skip
    return True


def _resign_admin_log(paths: Paths) -> None:
    """Let the head of the admin log be signed by the new key, while the old one is there to show that it is ours."""
    resign = optional("penguindome_server.admin_log_keeper", "resign_head")
    if resign is not None:
        resign(paths)


def optional(module: str, name: str) -> Callable[..., Any] | None:
    """A function of a module that may not be there."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return None if found is None else getattr(importlib.import_module(module), name)


def rotate_enrolment_key(paths: Paths) -> str:
    """Make a new enrolment key, in force at once; returns its fingerprint. The old one is gone.

    A crash between the two files leaves the old certificate in force, until this or `penguindome setup` is given again.
    """
    with FileLock(paths.keys / LOCK):
        key = DeviceKey.generate("PenguinDome enrolment")
        write_atomically(paths.keys / "enrolment.key", key.text, mode=0o600)
        write_atomically(paths.releases / "enrolment.asc", key.certificate.text, mode=0o644)
    return key.certificate.fingerprint


def export_certificate(paths: Paths, which: str) -> str:
    """The public certificate of the key `server` or `enrolment`, armoured. Raises KeyMaterialError."""
    path: Path = paths.releases / f"{which}.asc"
    try:
        return Certificate.from_text(read_limited(path, JOURNAL_BYTES)).text
    except OSError as error:
        raise KeyMaterialError(f"{path}: {error.strerror}", hint="run: penguindome setup") from error
