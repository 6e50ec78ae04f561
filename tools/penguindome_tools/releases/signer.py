"""The server key in use, as what publishes is handed it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from penguindome.openpgp import Certificate
from penguindome.server_keyring import ServerKeyring


@dataclass(frozen=True)
class Signer:
    """The key of this fingerprint in root's keyring. All signatures have been verified when they are returned."""

    keyring: ServerKeyring
    fingerprint: str

    @cached_property
    def certificate(self) -> Certificate:
        """The public half. Raises KeyMaterialError when there is no such key."""
        return Certificate.from_text(self.keyring.certificate(self.fingerprint))

    def armoured(self, data: bytes) -> bytes:
        """A detached signature, armoured."""
        return self.keyring.sign(data, self.fingerprint)

    def binary(self, data: bytes) -> bytes:
        """A detached signature, as pacman wants it."""
        return self.keyring.sign_binary(data, self.fingerprint)

    def text(self, data: bytes) -> bytes:
        """The text within its signature, as apt wants it."""
        return self.keyring.sign_text(data, self.fingerprint)
