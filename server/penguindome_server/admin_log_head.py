"""Root's side of the administrative log, in the directory of the signing keys: where the log ends.

`admin_log.json` says how many entries there are, the hash of the last, and holds whole those that were written last;
`admin_log.json.asc` is the server key's signature over it. `admin_log.stored` is how many entries the store has taken.

A new head is there when its text is renamed into place. Its signature was put beside it before that, under another
name, and gets its own afterwards; whoever reads the head finishes that. So no crash leaves a head without a signature,
and nothing is ever signed only because it was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from penguindome import json
from penguindome.errors import KeyMaterialError, PenguinDomeError, SignatureError
from penguindome.files import read_limited, sync_directory, write_atomically
from penguindome.openpgp import Certificate, issuer_fingerprint
from penguindome.server_keyring import ServerKeyring
from penguindome_server.admin_log import is_entry
from penguindome_server.store import Document

FORMAT = 1
KIND = "admin-log"
MOST_ENTRIES = 50
_LARGEST = 32 * 1024 * 1024
_LONGEST_SIGNATURE = 16 * 1024


class HeadError(PenguinDomeError):
    """Root's head of the administrative log cannot be read, or is not as it was signed."""

    code: ClassVar[str] = "admin-log-head"


class NoSigningKey(PenguinDomeError):
    """This machine has no server key (yet): it was not set up, or another one holds the keys."""

    code: ClassVar[str] = "no-signing-key"


@dataclass(frozen=True)
class Head:
    """Where the log ends. `entries` are the last ones, in their order."""

    entries: Sequence[Document]

    @property
    def count(self) -> int:
        """How many entries the log has."""
        return int(self.entries[-1]["sequence"])

    @property
    def hash(self) -> str:
        """The hash of the last entry."""
        return str(self.entries[-1]["hash"])

    @property
    def text(self) -> bytes:
        """The bytes that are signed."""
        head = {"format": FORMAT, "kind": KIND, "count": self.count, "hash": self.hash, "entries": list(self.entries)}
        return json.dumps(head, indent=1).encode()

    @classmethod
    def parse(cls, text: bytes) -> Head:
        """Read what `text` made. Raises HeadError."""
        try:
            value = json.loads(text)
        except PenguinDomeError as error:
            raise HeadError(f"the head of the admin log is unreadable: {error.message}") from error
        if not isinstance(value, dict) or (value.get("format"), value.get("kind")) != (FORMAT, KIND):
            raise HeadError("the head of the admin log is of an unknown format")
        entries = value.get("entries")
        if not isinstance(entries, list) or not entries or not all(_is_good(entry) for entry in entries):
            raise HeadError("the head of the admin log holds no entries, or some that do not fit their hashes")
        head = cls(entries)
        if (value.get("count"), value.get("hash")) != (head.count, head.hash):
            raise HeadError("the head of the admin log contradicts itself")
        return head


def _is_good(entry: Any) -> bool:
    return isinstance(entry, dict) and is_entry(entry)


class HeadFiles:
    """The head's files in the directory of the keys. For root, under the log's lock."""

    def __init__(self, keys: Path) -> None:
        self.keys = keys
        self.text = keys / "admin_log.json"
        self.signature = keys / "admin_log.json.asc"
        self.next_signature = keys / "admin_log.json.asc.next"
        self._stored = keys / "admin_log.stored"

    def read(self) -> tuple[Head, str] | None:
        """The head, and the fingerprint of the server key that signed it (the present one, or one before it that root
        still has); None when there is no log yet. Raises HeadError, OSError.
        """
        try:
            text = read_limited(self.text, _LARGEST)
        except FileNotFoundError:
            return None
        with ServerKeyring(self.keys / "gnupg") as keyring:
            signer = self._signer(text, keyring)
        return Head.parse(text), signer

    def unverified(self) -> Head | None:
        """The head, whoever signed it; None when it cannot be read."""
        try:
            return Head.parse(read_limited(self.text, _LARGEST))
        except (PenguinDomeError, FileNotFoundError):
            return None

    def write(self, head: Head) -> None:
        """Sign a head and put it in place. Raises NoSigningKey, KeyMaterialError, OSError; the old one is then still
        there.
        """
        self._put(head.text)

    def sign_again(self) -> None:
        """Put a signature by the present key in place of one by a key before it. Raises as `read` and `write` do."""
        if self.read() is not None:
            self._put(read_limited(self.text, _LARGEST))

    def set_aside(self) -> None:
        """Take away a head that cannot be used; its files are kept under other names. Raises OSError."""
        for path in (self.text, self.signature):
            if path.exists():
                path.rename(path.with_name(path.name + ".bad"))
        sync_directory(self.keys)

    @property
    def stored(self) -> int:
        """How many entries the store has taken, so that one that is missing there was removed."""
        try:
            return int(read_limited(self._stored, 30))
        except (OSError, ValueError):
            return 0

    @stored.setter
    def stored(self, count: int) -> None:
        if count != self.stored:
            write_atomically(self._stored, f"{count}\n", mode=0o600)

    def fingerprint(self) -> str:
        """The fingerprint of the key that signs. Raises NoSigningKey."""
        try:
            return read_limited(self.keys / "server.fingerprint", 200).decode("ascii").strip()
        except FileNotFoundError as error:
            hint = "run: penguindome setup; of several servers, one holds the keys"
            raise NoSigningKey("this machine has no server key that could sign the log", hint=hint) from error

    def _put(self, text: bytes) -> None:
        fingerprint = self.fingerprint()
        with ServerKeyring(self.keys / "gnupg") as keyring:
            signature = keyring.sign(text, fingerprint)
        write_atomically(self.next_signature, signature, mode=0o600)
        write_atomically(self.text, text, mode=0o600)
        self._finish()

    def _finish(self) -> None:
        self.next_signature.rename(self.signature)
        sync_directory(self.keys)

    def _signer(self, text: bytes, keyring: ServerKeyring) -> str:
        """Whose signature it is, after finishing what a crash left. Raises HeadError."""
        try:
            return _verified(text, self.signature, keyring)
        except (FileNotFoundError, PenguinDomeError) as error:
            if not self.next_signature.exists():
                raise HeadError(_complaint(error), hint="see: penguindome log verify") from error
        try:
            signer = _verified(text, self.next_signature, keyring)
        except (FileNotFoundError, PenguinDomeError) as error:
            raise HeadError(_complaint(error), hint="see: penguindome log verify") from error
        self._finish()
        return signer


def _verified(text: bytes, signature_file: Path, keyring: ServerKeyring) -> str:
    signature = read_limited(signature_file, _LONGEST_SIGNATURE)
    issuer = issuer_fingerprint(signature)
    try:
        certificate = Certificate.from_text(keyring.certificate(issuer))
    except KeyMaterialError as error:
        raise SignatureError(f"it is by {issuer}, which is no key of this server") from error
    certificate.verify(text, signature)
    return issuer


def _complaint(error: Exception) -> str:
    reason = error.message if isinstance(error, PenguinDomeError) else "it is missing"
    return f"the signature of the admin log's head is not good: {reason}"
