"""Signing anew, with the server's new key, what its old key signed and is in force: files below `releases/`, and the
actions that wait for clients.

Root signs nothing but what it signed before: the old signature over exactly these bytes is verified first. What is
signed by the new key already is left alone, so that all of this can be done again at any time.
"""

from __future__ import annotations

import base64
import os
import stat
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from penguindome import armour
from penguindome.actions import Action
from penguindome.errors import PenguinDomeError, SignatureError
from penguindome.files import read_limited, write_atomically
from penguindome.openpgp import LONGEST_SIGNATURE, Certificate
from penguindome.release import LARGEST_PACKAGE
from penguindome.server_keyring import ServerKeyring
from penguindome_server.deliveries import OPEN_STATES
from penguindome_server.store import Document, Store

SUFFIXES = (".asc", ".sig")


@dataclass(frozen=True)
class Signer:
    """The new key, and the certificate of the old one, which says what may be signed."""

    keyring: ServerKeyring
    old: Certificate
    new: Certificate

    def renewed(self, data: bytes, signature: bytes) -> bytes | None:
        """An armoured signature by the new key in the place of one by the old; None where it is by the new already.

        Raises SignatureError when it is by neither.
        """
        try:
            self.new.verify(data, signature)
        except SignatureError:
            self.old.verify(data, signature)
        else:
            return None
        return self.keyring.sign(data, self.new.fingerprint)


@dataclass(frozen=True)
class Resigned:
    """How many signatures were made, and what was left alone because neither key had signed it."""

    count: int
    problems: tuple[str, ...] = ()


def resign_files(signer: Signer, releases: Path) -> Resigned:
    """Sign anew every file below `releases` that has a signature beside it: release 0, and each release that is
    published. Raises KeyMaterialError or OSError.
    """
    count, problems = 0, []
    for path in _signatures(releases):
        data, old = read_limited(path.with_suffix(""), LARGEST_PACKAGE), read_limited(path, LONGEST_SIGNATURE)
        try:
            new = signer.renewed(data, _armoured(old))
        except SignatureError as error:
            problems.append(f"{path}: {error.message}")
            continue
        if new is not None:
            _replace(path, new if _is_armoured(old) else armour.contents(new, "SIGNATURE", limit=LONGEST_SIGNATURE))
            count += 1
    return Resigned(count, tuple(problems))


def _signatures(releases: Path) -> Iterator[Path]:
    """Detached signatures of release 0, of all others, and of manifests that were renewed (`renewed/N`); not of what is
    being made, whose names begin with a dot.
    """
    numbered = [path for path in (*releases.glob("[0-9]*"), *releases.glob("renewed/[0-9]*")) if path.is_dir()]
    for directory in (releases, *sorted(numbered)):
        for path in sorted(directory.iterdir()):
            # `server.asc` is a certificate: there is no file `server`.
            if path.suffix in SUFFIXES and path.name[0] != "." and path.with_suffix("").is_file():
                yield path


def _replace(path: Path, contents: bytes) -> None:
    status = path.stat()
    owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
    write_atomically(path, contents, mode=stat.S_IMODE(status.st_mode), owner=owner)


def open_actions(store: Store, *, now: datetime) -> list[Document]:
    """The stored actions that some client may still carry out."""
    deliveries = store.collection("deliveries").find({"state": {"$in": list(OPEN_STATES)}}, fields=("action_id",))
    names = sorted({delivery["action_id"] for delivery in deliveries})
    found = (store.collection("patches").get(name) for name in names)
    return [action for action in found if action is not None and not _has_expired(action, now)]


def renewed_actions(signer: Signer, actions: Iterable[Document]) -> tuple[dict[str, str], list[str]]:
    """The new signature of each action that still has one by the old key; and what is wrong with the others.

    What comes from the store is signed only if it is an action that the old key signed, and of the id under which it is
    stored.
    """
    signatures, problems = {}, []
    for document in actions:
        try:
            signature = _renewed_action(signer, document)
        except PenguinDomeError as error:
            problems.append(f"action {document['_id']}: {error.message}")
            continue
        if signature is not None:
            signatures[document["_id"]] = signature
    return signatures, problems


def _renewed_action(signer: Signer, document: Document) -> str | None:
    text, signature = str(document.get("text")).encode(), str(document.get("signature")).encode()
    renewed = signer.renewed(text, signature)
    if renewed is None:
        return None
    action = Action.load(text, renewed, signer.new)
    if action.id != document["_id"]:
        raise SignatureError(f"it is the action {action.id}, stored under another id")
    return renewed.decode("ascii")


def replace_signatures(store: Store, actions: Iterable[Document], signatures: dict[str, str]) -> int:
    """Store the new signatures, each beside the text that was signed; returns how many."""
    count = 0
    for document in actions:
        if document["_id"] in signatures:
            change = _with_signature(document["text"], signatures[document["_id"]])
            count += store.collection("patches").update(document["_id"], change).after is not None
    return count


def _with_signature(text: str, signature: str) -> Callable[[Document | None], Document | None]:
    def change(document: Document | None) -> Document | None:
        if document is None or document["text"] != text:
            return None
        return {**document, "signature": signature}

    return change


def _has_expired(action: Document, now: datetime) -> bool:
    expires_at = action.get("expires_at")
    return isinstance(expires_at, datetime) and expires_at <= now


def _is_armoured(signature: bytes) -> bool:
    return signature.lstrip().startswith(b"-----BEGIN")


def _armoured(signature: bytes) -> bytes:
    """A signature with the armour that pacman's do without."""
    if _is_armoured(signature):
        return signature
    lines = "\n".join(textwrap.wrap(base64.b64encode(signature).decode("ascii"), 64))
    return f"-----BEGIN PGP SIGNATURE-----\n\n{lines}\n-----END PGP SIGNATURE-----\n".encode("ascii")
