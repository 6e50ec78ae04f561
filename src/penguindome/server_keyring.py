"""The private keys of the server, which root alone may read and which gpg uses: what signs all that clients believe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from penguindome.errors import KeyMaterialError, SignatureError
from penguindome.files import ensure_directory
from penguindome.openpgp import Certificate
from penguindome.openpgp_gnupg import GnuPG, complaint, full


class ServerKeyring:
    """The private keys of root, in a GnuPG home directory. For commands that root runs, never for the web process.

    Use it as a context manager, or `close` it: gpg starts an agent, which then goes.
    """

    def __init__(self, home: Path) -> None:
        """Open `home`, making it (0700) if it is not there. Raises KeyMaterialError when it cannot be made."""
        self.home = Path(home).absolute()
        self._gnupg = GnuPG(self.home)
        try:
            ensure_directory(self.home, 0o700)
        except OSError as error:
            raise KeyMaterialError(f"cannot use {self.home}: {error.strerror}") from error

    def __enter__(self) -> ServerKeyring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def generate(self, user_id: str) -> str:
        """Make a key (ed25519, signs and certifies, no expiry, no passphrase) and return its fingerprint."""
        if not user_id.strip() or not user_id.isprintable():
            raise KeyMaterialError("a user id is one line of printable text")
        parameters = (
            "%no-protection\nKey-Type: EDDSA\nKey-Curve: ed25519\nKey-Usage: sign\n"
            f"Name-Real: {user_id}\nExpire-Date: 0\n%commit\n"
        )
        result = self._gnupg.call(lambda gpg: gpg.gen_key(parameters), "gpg cannot make a key")
        if not result.fingerprint:
            raise KeyMaterialError(f"gpg cannot make a key: {complaint(result)}")
        return str(result.fingerprint).upper()

    def fingerprints(self) -> list[str]:
        """The fingerprints of all private keys, oldest first."""
        keys = self._gnupg.call(lambda gpg: gpg.list_keys(secret=True), "gpg cannot list keys")
        return [str(key["fingerprint"]).upper() for key in sorted(keys, key=lambda key: int(key["date"] or 0))]

    def delete(self, fingerprint: str) -> None:
        """Delete a private key, and its certificate; nothing happens when it is not there. Raises KeyMaterialError."""
        if fingerprint not in self.fingerprints():
            return
        # gpg wants the private half gone before it deletes the rest.
        for work in (
            lambda gpg: gpg.delete_keys(full(fingerprint), secret=True, expect_passphrase=False),
            lambda gpg: gpg.delete_keys(full(fingerprint)),
        ):
            result = self._gnupg.call(work, "gpg cannot delete a key")
            if str(result) != "ok":
                raise KeyMaterialError(f"gpg cannot delete the key {fingerprint}: {complaint(result)}")

    def certificate(self, fingerprint: str) -> str:
        """The public certificate of a key, armoured. Raises KeyMaterialError."""
        return self._certificate(fingerprint).text

    def sign(self, data: bytes, fingerprint: str) -> bytes:
        """An armoured, detached signature over `data`, which has been verified. Raises KeyMaterialError."""
        return self._sign(data, fingerprint, "armoured", lambda certificate, made: certificate.verify(data, made))

    def sign_binary(self, data: bytes, fingerprint: str) -> bytes:
        """`sign` without armour: what pacman wants beside packages and databases."""
        return self._sign(data, fingerprint, "binary", lambda certificate, made: certificate.verify_binary(data, made))

    def sign_text(self, data: bytes, fingerprint: str) -> bytes:
        """The text (lines without white space at their ends) within its signature: what apt wants of an InRelease.

        It has been verified. Raises KeyMaterialError.
        """

        def verify(certificate: Certificate, made: bytes) -> None:
            if certificate.verify_text(made) != data:
                raise SignatureError("it is over another text")

        return self._sign(data, fingerprint, "clear", verify)

    def _sign(self, data: bytes, fingerprint: str, form: str, verify: Callable[[Certificate, bytes], object]) -> bytes:
        certificate = self._certificate(fingerprint)
        signature = self._gnupg.sign(data, fingerprint, form)
        try:
            verify(certificate, signature)
        except SignatureError as error:
            raise KeyMaterialError(f"gpg made a signature that does not hold: {error.message}") from error
        return signature

    def close(self) -> None:
        """End the agent, and wait until it has gone; the keyring may be used again."""
        self._gnupg.close()

    def _certificate(self, fingerprint: str) -> Certificate:
        text = self._gnupg.call(lambda gpg: gpg.export_keys(full(fingerprint)), "gpg cannot export a key")
        if not text:
            raise KeyMaterialError(f"there is no key {fingerprint} in {self.home}")
        certificate = Certificate.from_text(text)
        if certificate.fingerprint != fingerprint:
            raise KeyMaterialError(f"gpg gave another key than {fingerprint}")
        return certificate
