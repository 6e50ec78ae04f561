"""Statements by which a server key names the one that takes its place, and following a chain of them.

A statement is JSON, signed as it stands (armoured, detached) by the key that goes:
`{"format":1,"kind":"key-rotation","old":FINGERPRINT,"new":FINGERPRINT,"certificate":ARMOURED,"issued_at":...}`.
The server hands out all statements there ever were, oldest first, so that a machine that slept through two rotations
still follows.

Rules of `follow`, in this order and without I/O; whatever breaks one of them is refused, and the whole chain with it:
1. At most 1,000 statements, each of at most 128 KiB.
2. Statements that do not name the given certificate's key as their signer are skipped until one does: they tell of
   rotations before it. Only a hint decides about this, and skipping changes nothing.
3. From there on each statement is signed, over exactly its bytes, by the certificate that the one before it named: no
   gap, no other signer. Nothing of a statement is parsed before, and a certificate that has been revoked, or has
   expired, verifies nothing.
4. It is JSON of format 1 and this kind, with exactly these keys and types.
5. `old` is the certificate that signed it; the one that it brings can be used (`Certificate.from_text`), and has the
   fingerprint `new`.
6. No certificate comes twice.
The result is the newest certificate: the given one when no statement begins at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from penguindome import json
from penguindome.errors import InvalidData, KeyMaterialError, PenguinDomeError, SignatureError
from penguindome.openpgp import Certificate, issuer_fingerprint

FORMAT = 1
KIND = "key-rotation"
LARGEST = 128 * 1024
MOST = 1000

_KEYS = {"format", "kind", "old", "new", "certificate", "issued_at"}


class ChainRefused(PenguinDomeError):
    """A chain of statements that does not lead where it says."""

    code: ClassVar[str] = "key-rotation"


def build(old: Certificate, new: Certificate, *, issued_at: datetime) -> bytes:
    """The text of a statement; to be signed by `old` as it is."""
    content = {
        "format": FORMAT,
        "kind": KIND,
        "old": old.fingerprint,
        "new": new.fingerprint,
        "certificate": new.text,
        "issued_at": issued_at,
    }
    data = json.dumps(content).encode("ascii")
    if len(data) > LARGEST:
        raise ChainRefused("the statement is too large")
    _certificate(content, old)
    return data


def follow(certificate: Certificate, statements: Sequence[Any]) -> Certificate:
    """The newest certificate to which the chain leads from `certificate`. Raises ChainRefused.

    A statement is `{"text": ..., "signature": ...}`, as the server hands it out, and may be anything else.
    """
    if len(statements) > MOST:
        raise ChainRefused(f"there are more than {MOST} statements")
    current, seen = certificate, {certificate.fingerprint}
    for statement in statements:
        text, signature = _parts(statement)
        if current is certificate and not _seems_by(certificate, signature):
            continue
        current = _next(text, signature, current)
        if current.fingerprint in seen:
            raise ChainRefused(f"the chain leads back to {current.fingerprint}")
        seen.add(current.fingerprint)
    return current


def _next(text: bytes, signature: bytes, certificate: Certificate) -> Certificate:
    """The certificate that takes the place of `certificate`, by a statement that it signed."""
    try:
        certificate.verify(text, signature)
    except SignatureError as error:
        raise ChainRefused(f"a statement is not signed by the key before it: {error.message}") from error
    try:
        content = json.loads(text)
    except InvalidData as error:
        raise ChainRefused(f"a statement is {error.message}") from error
    return _certificate(content, certificate)


def _certificate(content: Any, signer: Certificate) -> Certificate:
    """Rules 4 and 5."""
    _demand(isinstance(content, dict) and set(content) == _KEYS, "it has not the keys of one")
    _demand(content["format"] == FORMAT and not isinstance(content["format"], bool), f"its format is not {FORMAT}")
    _demand(content["kind"] == KIND, "it is of another kind")
    _demand(isinstance(content["issued_at"], datetime), "issued_at is not a point in time")
    _demand(isinstance(content["certificate"], str), "its certificate is no text")
    _demand(content["old"] == signer.fingerprint, "it is about another key than the one that signed it")
    try:
        certificate = Certificate.from_text(content["certificate"])
    except KeyMaterialError as error:
        raise ChainRefused(f"the certificate of a statement cannot be used: {error.message}") from error
    _demand(certificate.fingerprint == content["new"], "its certificate is another than the one that it names")
    return certificate


def _parts(statement: Any) -> tuple[bytes, bytes]:
    given = statement if isinstance(statement, Mapping) else {}
    text, signature = given.get("text"), given.get("signature")
    if not isinstance(text, str) or not isinstance(signature, str):
        raise ChainRefused("a statement has no text and signature")
    if len(text) > LARGEST:
        raise ChainRefused("a statement is too large")
    return text.encode("utf-8", "replace"), signature.encode("utf-8", "replace")


def _seems_by(certificate: Certificate, signature: bytes) -> bool:
    """Whether a signature says that it is by this certificate."""
    try:
        return issuer_fingerprint(signature) in {certificate.fingerprint, *certificate.signing_fingerprints}
    except SignatureError:
        return False


def _demand(condition: object, problem: str) -> None:
    if not condition:
        raise ChainRefused(f"this is not a usable statement of a rotation: {problem}")
