"""OpenPGP: the one module that knows pysequoia (in the process, 0.2 ms a signature) and python-gnupg (keys of root).

Rules for what comes from outside, in this order, all without I/O:
1. Length: a signature has at most 4 KiB, a certificate 64 KiB.
2. Shape: one ASCII armour with nothing before or after it, holding exactly one signature packet, or the packets of
exactly one certificate. Compressed, encrypted and literal data are not even handed to the library.
3. A certificate holds no secret, has a v4 fingerprint (40 hex digits) and is neither revoked nor expired.
4. A signature is over bytes (not text with interchangeable line ends) and is verified against one pinned certificate,
never against whatever a keyring holds. Weak digests (SHA-1, MD5) do not count.
Errors of either library become SignatureError or KeyMaterialError, with nothing secret in them.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from penguindome.errors import KeyMaterialError, PenguinDomeError, SignatureError
from penguindome.files import ensure_directory

LONGEST_SIGNATURE = 4 * 1024
LONGEST_CERTIFICATE = 64 * 1024
FUTURE_TOLERANCE = timedelta(minutes=30)
"""How far ahead of our clock a signature may have been made; pysequoia has the same limit."""

_ARMOUR = re.compile(
    rb"\s*-----BEGIN PGP ([A-Z ]+)-----[ \t]*\r?\n"
    rb"(?:[A-Za-z]+: [^\r\n]*\r?\n)*[ \t]*\r?\n"
    rb"([A-Za-z0-9+/=\r\n]+?)"
    rb"(?:\r?\n=[A-Za-z0-9+/]{4})?[ \t]*\r?\n"
    rb"-----END PGP \1-----\s*"
)
_SIGNATURE, _SECRET_KEY, _PUBLIC_KEY, _SECRET_SUBKEY, _USER_ID, _PUBLIC_SUBKEY, _USER_ATTRIBUTE = 2, 5, 6, 7, 13, 14, 17

T = TypeVar("T")


class ClockSkew(SignatureError):
    """A signature says that it was made in the future: one of the two clocks is wrong. It has not been verified."""

    code: ClassVar[str] = "clock-skew"


class Certificate:
    """A public certificate, checked by the rules above."""

    __slots__ = ("_cert", "fingerprint")

    def __init__(self, cert: Any) -> None:
        self._cert = cert
        self.fingerprint: str = cert.fingerprint.upper()
        """40 upper-case hex digits: of the primary key."""

    @classmethod
    def from_text(cls, text: str | bytes) -> Certificate:
        """Read an armoured certificate. Raises KeyMaterialError."""
        import pysequoia

        raw = _certificate_packets(text)
        cert = _guarded(lambda: pysequoia.Cert.from_bytes(raw), KeyMaterialError, "this is not a usable certificate")
        if len(cert.fingerprint) != 40:
            raise KeyMaterialError("the certificate is of another version than 4")
        certificate = cls(cert)
        certificate._refuse_dead()
        return certificate

    @property
    def text(self) -> str:
        """ASCII-armoured."""
        return str(self._cert)

    @property
    def signing_fingerprints(self) -> tuple[str, ...]:
        """Fingerprints that a signature by this certificate may name (upper hex).

        These are the certificate's own claims. Which key made a signature is what `verify` returns.
        """
        from pysequoia.packet import PacketPile, Tag

        found: list[str] = []
        key: str | None = None
        for packet in _guarded(lambda: PacketPile.from_bytes(bytes(self._cert)), KeyMaterialError, "unreadable"):
            if packet.tag in (Tag.PublicKey, Tag.PublicSubkey):
                key = packet.fingerprint
            elif packet.tag == Tag.Signature and key is not None:
                flags = packet.key_flags
                if flags is not None and flags.signing and key.upper() not in found:
                    found.append(key.upper())
        return tuple(found)

    def verify(self, data: bytes, signature: bytes) -> str:
        """Check that `signature` (armoured, detached) is by this certificate and over exactly `data`.

        Returns the fingerprint of the key (primary or subkey) that made it. Raises SignatureError; its kind ClockSkew
        when the signature says that it was made more than half an hour ahead of our clock.
        """
        import pysequoia
        from pysequoia.packet import SignatureType

        sig = _parse_signature(signature)
        if sig.signature_type != SignatureType.Binary:
            raise SignatureError("the signature is not over bytes")
        if sig.created is not None and sig.created > datetime.now(timezone.utc) + FUTURE_TOLERANCE:
            raise ClockSkew(f"the signature was made in the future, at {sig.created:%Y-%m-%d %H:%M} UTC")
        self._refuse_dead(SignatureError)
        result = _guarded(
            lambda: pysequoia.verify(bytes=data, store=lambda _: [self._cert], signature=sig),
            SignatureError,
            f"the signature is not a good one by {self.fingerprint}",
        )
        good = [valid for valid in result.valid_sigs if valid.certificate.upper() == self.fingerprint]
        if not good:
            raise SignatureError(f"the signature is not by {self.fingerprint}")
        return str(good[0].signing_key).upper()

    def encrypt(self, data: bytes) -> bytes:
        """Encrypt for the holder of the private key; armoured. Raises KeyMaterialError, also if it has no key for
        that.
        """
        import pysequoia

        self._refuse_dead()
        return bytes(
            _guarded(
                lambda: pysequoia.encrypt(data, recipients=[self._cert]),
                KeyMaterialError,
                f"cannot encrypt for {self.fingerprint}",
            )
        )

    def _refuse_dead(self, error: type[PenguinDomeError] = KeyMaterialError) -> None:
        expiration = self._cert.expiration
        if self._cert.is_revoked:
            raise error(f"the certificate {self.fingerprint} is revoked")
        if expiration is not None and expiration <= datetime.now(timezone.utc):
            raise error(f"the certificate {self.fingerprint} expired on {expiration:%Y-%m-%d}")

    def __repr__(self) -> str:
        return f"Certificate({self.fingerprint})"


@lru_cache(maxsize=1024)
def cached_certificate(text: str) -> Certificate:
    """`Certificate.from_text`, remembered: parsing costs more than verifying."""
    return Certificate.from_text(text)


class DeviceKey:
    """A private key that this process holds and uses itself: of a device, or the enrolment key."""

    __slots__ = ("_tsk", "certificate")

    def __init__(self, tsk: Any) -> None:
        self._tsk = tsk
        self.certificate = Certificate(tsk.extract_certificate())
        """The public half."""

    @classmethod
    def generate(cls, user_id: str) -> DeviceKey:
        """Make a key: Curve25519, a signing and an encryption subkey, without expiry, readable by gpg 2.2."""
        import pysequoia

        return cls(
            _guarded(
                lambda: pysequoia.Tsk.generate(
                    user_id=user_id, profile=pysequoia.Profile.RFC4880, validity_seconds=None
                ),
                KeyMaterialError,
                "cannot make a key",
            )
        )

    @classmethod
    def from_text(cls, text: str | bytes) -> DeviceKey:
        """Read an armoured private key (without passphrase). Raises KeyMaterialError, which does not repeat any of
        it.
        """
        import pysequoia

        raw = _dearmour(text, b"PRIVATE KEY BLOCK", LONGEST_CERTIFICATE, KeyMaterialError, "this is not a private key")
        tags = [tag for tag, _ in _packets(raw, KeyMaterialError)]
        if tags[:1] != [_SECRET_KEY] or tags.count(_SECRET_KEY) != 1:
            raise KeyMaterialError("this is not one private key")
        return cls(
            _guarded(lambda: pysequoia.Tsk.from_bytes(raw), KeyMaterialError, "this is not a usable private key")
        )

    @property
    def text(self) -> str:
        """The private key, armoured. Whoever writes it to disk does so with mode 0600."""
        return str(self._tsk)

    def sign(self, data: bytes) -> bytes:
        """An armoured, detached signature over `data`. Raises KeyMaterialError."""
        import pysequoia

        return bytes(
            _guarded(
                lambda: pysequoia.sign(self._tsk.signer(), data, mode=pysequoia.SignatureMode.DETACHED),
                KeyMaterialError,
                "cannot sign",
            )
        )

    def decrypt(self, data: bytes) -> bytes:
        """What was encrypted for this key. Raises KeyMaterialError when it was not, or was changed on the way."""
        import pysequoia

        result = _guarded(
            lambda: pysequoia.decrypt(data, decryptor=self._tsk.decryptor()), KeyMaterialError, "cannot decrypt"
        )
        return bytes(result.bytes or b"")

    def __repr__(self) -> str:
        return f"DeviceKey({self.certificate.fingerprint})"


def issuer_fingerprint(signature: bytes) -> str:
    """Which key a signature says it is by (upper hex): a hint for finding the certificate, proved only by `verify`.

    Raises SignatureError when it is malformed, too long, or says nothing.
    """
    fingerprint = _parse_signature(signature).issuer_fingerprint
    if not fingerprint or len(fingerprint) != 40:
        raise SignatureError("the signature does not say whose it is")
    return str(fingerprint).upper()


class ServerKeyring:
    """The private keys of root, in a GnuPG home directory. For commands that root runs, never for the web process.

    Use it as a context manager, or `close` it: gpg starts an agent, which then goes. The agent's socket lies in the
    home directory, where its name may have no more than 107 bytes; gpg is therefore given a short link to the home
    directory.
    """

    def __init__(self, home: Path) -> None:
        """Open `home`, making it (0700) if it is not there. Raises KeyMaterialError when gpg cannot be used."""
        self.home = Path(home).absolute()
        self._link: Path | None = None
        self._gpg: Any = None
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
        result = self._guard(lambda gpg: gpg.gen_key(parameters), "gpg cannot make a key")
        if not result.fingerprint:
            raise KeyMaterialError(f"gpg cannot make a key: {_complaint(result)}")
        return str(result.fingerprint).upper()

    def fingerprints(self) -> list[str]:
        """The fingerprints of all private keys, oldest first."""
        keys = self._guard(lambda gpg: gpg.list_keys(True), "gpg cannot list keys")
        return [str(key["fingerprint"]).upper() for key in sorted(keys, key=lambda key: int(key["date"] or 0))]

    def certificate(self, fingerprint: str) -> str:
        """The public certificate of a key, armoured. Raises KeyMaterialError."""
        text = self._guard(lambda gpg: gpg.export_keys(_full(fingerprint)), "gpg cannot export a key")
        if not text:
            raise KeyMaterialError(f"there is no key {fingerprint} in {self.home}")
        certificate = Certificate.from_text(text)
        if certificate.fingerprint != fingerprint:
            raise KeyMaterialError(f"gpg gave another key than {fingerprint}")
        return certificate.text

    def sign(self, data: bytes, fingerprint: str) -> bytes:
        """An armoured, detached signature over `data`, which has been verified. Raises KeyMaterialError."""
        certificate = Certificate.from_text(self.certificate(fingerprint))
        result = self._guard(
            lambda gpg: gpg.sign(
                data, keyid=_full(fingerprint), detach=True, clearsign=False, extra_args=["--digest-algo", "SHA512"]
            ),
            "gpg cannot sign",
        )
        if not result.data:
            raise KeyMaterialError(f"gpg cannot sign with {fingerprint}: {_complaint(result)}")
        signature = bytes(result.data)
        try:
            certificate.verify(data, signature)
        except SignatureError as error:
            raise KeyMaterialError(f"gpg made a signature that does not hold: {error.message}") from error
        return signature

    def close(self) -> None:
        """End the agent, and wait until it has gone; the keyring may be used again."""
        from penguindome.processes import run

        link, self._link, self._gpg = self._link, None, None
        if link is None:
            return
        try:
            run(["gpgconf", "--homedir", str(link), "--kill", "all"], timeout=10, check=False)
        finally:
            link.unlink(missing_ok=True)
            link.parent.rmdir()

    def _guard(self, work: Callable[[Any], T], what: str) -> T:
        try:
            return work(self._open())
        except PenguinDomeError:
            raise
        except Exception as error:
            raise KeyMaterialError(f"{what}: {_first_line(error)}") from error

    def _open(self) -> Any:
        if self._gpg is None:
            import gnupg

            self._link = Path(tempfile.mkdtemp(prefix="pd-", dir=_short_directory())) / "g"
            self._link.symlink_to(self.home)
            self._gpg = gnupg.GPG(gnupghome=str(self._link))
        return self._gpg


def _short_directory() -> str:
    # mkdtemp makes a directory of our own (0700) below it, so that a world-writable one will do.
    for candidate in (tempfile.gettempdir(), "/run"):
        if len(candidate) < 60 and os.access(candidate, os.W_OK):
            return candidate
    return "/tmp"  # noqa: S108  # see above


def _full(fingerprint: str) -> str:
    if not re.fullmatch("[0-9A-F]{40}", fingerprint):
        raise KeyMaterialError("a key is named by its full fingerprint: 40 upper-case hex digits")
    return fingerprint


def _complaint(result: Any) -> str:
    lines = [line for line in (result.stderr or "").splitlines() if line.startswith("gpg: ")]
    return lines[-1].removeprefix("gpg: ") if lines else str(result.status or "no reason given")


def _parse_signature(signature: bytes) -> Any:
    import pysequoia

    raw = _dearmour(signature, b"SIGNATURE", LONGEST_SIGNATURE, SignatureError, "this is not a detached signature")
    if [tag for tag, _ in _packets(raw, SignatureError)] != [_SIGNATURE]:
        raise SignatureError("this is not exactly one detached signature")
    return _guarded(lambda: pysequoia.Sig.from_bytes(raw), SignatureError, "this is not a usable signature")


def _certificate_packets(text: str | bytes) -> bytes:
    raw = _dearmour(text, b"PUBLIC KEY BLOCK", LONGEST_CERTIFICATE, KeyMaterialError, "this is not a certificate")
    tags = [tag for tag, _ in _packets(raw, KeyMaterialError)]
    if _SECRET_KEY in tags or _SECRET_SUBKEY in tags:
        raise KeyMaterialError("this holds a private key where a certificate belongs")
    if tags[:1] != [_PUBLIC_KEY] or tags.count(_PUBLIC_KEY) != 1:
        raise KeyMaterialError("this is not exactly one certificate")
    if not set(tags) <= {_PUBLIC_KEY, _SIGNATURE, _USER_ID, _PUBLIC_SUBKEY, _USER_ATTRIBUTE}:
        raise KeyMaterialError("this holds more than a certificate")
    return raw


def _dearmour(text: str | bytes, kind: bytes, limit: int, failure: type[PenguinDomeError], problem: str) -> bytes:
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(data) > limit:
        raise failure(f"{problem}: it is longer than {limit} bytes")
    found = _ARMOUR.fullmatch(data)
    if not found or found[1] != kind:
        raise failure(f"{problem}: expected one armoured {kind.decode().lower()} and nothing else")
    try:
        return base64.b64decode(b"".join(found[2].split()), validate=True)
    except binascii.Error as error:
        raise failure(f"{problem}: its base64 is damaged") from error


def _packets(raw: bytes, failure: type[PenguinDomeError]) -> Iterator[tuple[int, bytes]]:
    """The packets of RFC 4880, section 4.2, as (tag, body); lengths must be definite and add up."""
    at = 0
    while at < len(raw):
        try:
            tag, start, length = _packet_header(raw, at)
        except IndexError as error:
            raise failure("an OpenPGP packet is cut short") from error
        if length < 0 or start + length > len(raw):
            raise failure("an OpenPGP packet has a wrong length")
        yield tag, raw[start : start + length]
        at = start + length


def _packet_header(raw: bytes, at: int) -> tuple[int, int, int]:
    """Tag, where the body starts, and its length (-1: not a definite one)."""
    first = raw[at]
    if not first & 0x80:
        return 0, at, -1
    if not first & 0x40:
        size = {0: 1, 1: 2, 2: 4}.get(first & 3)
        if size is None:
            return 0, at, -1
        return (first >> 2) & 15, at + 1 + size, int.from_bytes(raw[at + 1 : at + 1 + size], "big")
    length = raw[at + 1]
    if length < 192:
        return first & 63, at + 2, length
    if length < 224:
        return first & 63, at + 3, ((length - 192) << 8) + raw[at + 2] + 192
    if length == 255:
        return first & 63, at + 6, int.from_bytes(raw[at + 2 : at + 6], "big")
    return 0, at, -1


def _guarded(work: Callable[[], T], failure: type[PenguinDomeError], problem: str) -> T:
    try:
        return work()
    except Exception as error:
        raise failure(f"{problem}: {_first_line(error)}") from error
    except BaseException as error:
        # A panic of the Rust library is a BaseException of a class that cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise failure(f"{problem}: the OpenPGP library failed") from error


def _first_line(error: BaseException) -> str:
    # With RUST_BACKTRACE set, a message goes on with a stack of hundreds of lines.
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
