"""OpenPGP: the one module that knows pysequoia (in the process, 0.2 ms a signature). Beside it `openpgp_gnupg.py` knows
python-gnupg, for the keys of root (`server_keyring.py`).

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

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from penguindome import armour
from penguindome.errors import KeyMaterialError, PenguinDomeError, SignatureError

LONGEST_SIGNATURE = 4 * 1024
LONGEST_CERTIFICATE = 64 * 1024
LONGEST_TEXT = 1024 * 1024
FUTURE_TOLERANCE = timedelta(minutes=30)
"""How far ahead of our clock a signature may have been made; pysequoia has the same limit."""

_CERTIFICATE_TAGS = {armour.PUBLIC_KEY, armour.SIGNATURE, armour.USER_ID, armour.PUBLIC_SUBKEY, armour.USER_ATTRIBUTE}

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
    def created_at(self) -> datetime:
        """When the primary key was made, by its own account. Raises KeyMaterialError."""
        packets = _guarded(lambda: list(armour.packets(bytes(self._cert))), KeyMaterialError, "unreadable")
        # RFC 4880, 5.5.2: a version of one byte, then the time in seconds.
        return datetime.fromtimestamp(int.from_bytes(packets[0][1][1:5], "big"), timezone.utc)

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
        return self._verify(data, _armoured_packets(signature))

    def verify_binary(self, data: bytes, signature: bytes) -> str:
        """`verify` for a signature without armour, as pacman has them beside its files."""
        return self._verify(data, signature)

    def verify_text(self, text: bytes) -> bytes:
        """Check a text within its signature (`gpg --clearsign`), as apt's InRelease is: by this certificate, and by no
        other. Returns the text, its lines without white space at their ends. Raises SignatureError.
        """
        import pysequoia

        if len(text) > LONGEST_TEXT or not _is_one_signed_text(text):
            raise SignatureError("this is not exactly one text within its signature")
        self._refuse_dead(SignatureError)
        result = _guarded(
            lambda: pysequoia.verify(bytes=text, store=lambda _: [self._cert]),
            SignatureError,
            f"the signature is not a good one by {self.fingerprint}",
        )
        if not any(valid.certificate == self._cert.fingerprint for valid in result.valid_sigs):
            raise SignatureError(f"the signature is not by {self.fingerprint}")
        return bytes(result.bytes or b"") + b"\n"

    def _verify(self, data: bytes, packet: bytes) -> str:
        import pysequoia
        from pysequoia.packet import SignatureType

        sig = _parse_signature(packet)
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
        signers = [valid.signing_key for valid in result.valid_sigs if valid.certificate == self._cert.fingerprint]
        if not signers:
            raise SignatureError(f"the signature is not by {self.fingerprint}")
        # Callers look a certificate up by what `issuer_fingerprint` says: nobody may make it name another's key.
        if sig.issuer_fingerprint not in (None, signers[0]):
            raise SignatureError("the signature names another key than the one that made it")
        return str(signers[0]).upper()

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

    def _refuse_dead(self, failure: type[PenguinDomeError] = KeyMaterialError) -> None:
        problem = f"the certificate {self.fingerprint} is not usable"
        expiration = _guarded(lambda: self._cert.expiration, failure, problem)
        if _guarded(lambda: self._cert.is_revoked, failure, problem):
            raise failure(f"the certificate {self.fingerprint} is revoked")
        if expiration is not None and expiration <= datetime.now(timezone.utc):
            raise failure(f"the certificate {self.fingerprint} expired on {expiration:%Y-%m-%d}")

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
        self.certificate = Certificate(_guarded(tsk.extract_certificate, KeyMaterialError, "this key is not usable"))
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

        raw = _private_key_packets(text)
        return cls(
            _guarded(lambda: pysequoia.Tsk.from_bytes(raw), KeyMaterialError, "this is not a usable private key")
        )

    @property
    def text(self) -> str:
        """The private key, armoured. Whoever writes it to disk does so with mode 0600."""
        return str(self._tsk)

    def sign(self, data: bytes, *, at: datetime | None = None) -> bytes:
        """An armoured, detached signature over `data`. Raises KeyMaterialError.

        A signature says when it was made, and one from the future is refused. A machine that has been told that its
        clock is wrong gives the right time as `at`; that takes a gpg process and a tenth of a second.
        """
        import pysequoia

        if at is not None:
            return self._sign_as_of(data, at)
        return bytes(
            _guarded(
                lambda: pysequoia.sign(self._tsk.signer(), data, mode=pysequoia.SignatureMode.DETACHED),
                KeyMaterialError,
                "cannot sign",
            )
        )

    def _sign_as_of(self, data: bytes, at: datetime) -> bytes:
        from tempfile import TemporaryDirectory

        from penguindome.openpgp_gnupg import GnuPG, short_directory

        moment = at.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%S!")
        with (
            TemporaryDirectory(prefix="pd-", dir=short_directory()) as home,
            GnuPG(Path(home), ["--faked-system-time", moment]) as gnupg,
        ):
            gnupg.call(lambda gpg: gpg.import_keys(self.text), "gpg cannot read the key")
            return gnupg.sign(data, self.certificate.fingerprint)

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
    fingerprint = _parse_signature(_armoured_packets(signature)).issuer_fingerprint
    if not fingerprint or len(fingerprint) != 40:
        raise SignatureError("the signature does not say whose it is")
    return str(fingerprint).upper()


def _armoured_packets(signature: bytes) -> bytes:
    try:
        return armour.contents(signature, "SIGNATURE", limit=LONGEST_SIGNATURE)
    except ValueError as error:
        raise SignatureError(f"this is not a detached signature: {error}") from error


def _parse_signature(raw: bytes) -> Any:
    import pysequoia

    try:
        tags = armour.tags(raw) if len(raw) <= LONGEST_SIGNATURE else []
    except ValueError as error:
        raise SignatureError(f"this is not a detached signature: {error}") from error
    if tags != [armour.SIGNATURE]:
        raise SignatureError("this is not exactly one detached signature")
    return _guarded(lambda: pysequoia.Sig.from_bytes(raw), SignatureError, "this is not a usable signature")


def _is_one_signed_text(text: bytes) -> bool:
    """Whether there is nothing before, after or beside one text within one signature; what of it holds is not said."""
    begin, middle, end = (
        b"-----BEGIN PGP SIGNED MESSAGE-----\n", b"\n-----BEGIN PGP SIGNATURE-----\n", b"\n-----END PGP SIGNATURE-----",
    )  # fmt: skip
    one_each = all(text.count(mark.strip()) == 1 for mark in (begin, middle, end))
    return one_each and text.startswith(begin) and middle in text and text.rstrip().endswith(end)


def _certificate_packets(text: str | bytes) -> bytes:
    try:
        raw = armour.contents(text, "PUBLIC KEY BLOCK", limit=LONGEST_CERTIFICATE)
        tags = armour.tags(raw)
    except ValueError as error:
        raise KeyMaterialError(f"this is not a certificate: {error}") from error
    if armour.SECRET_KEY in tags or armour.SECRET_SUBKEY in tags:
        raise KeyMaterialError("this holds a private key where a certificate belongs")
    if tags[:1] != [armour.PUBLIC_KEY] or tags.count(armour.PUBLIC_KEY) != 1:
        raise KeyMaterialError("this is not exactly one certificate")
    if not set(tags) <= _CERTIFICATE_TAGS:
        raise KeyMaterialError("this holds more than a certificate")
    return raw


def _private_key_packets(text: str | bytes) -> bytes:
    try:
        raw = armour.contents(text, "PRIVATE KEY BLOCK", limit=LONGEST_CERTIFICATE)
        tags = armour.tags(raw)
    except ValueError as error:
        raise KeyMaterialError(f"this is not a private key: {error}") from error
    if tags[:1] != [armour.SECRET_KEY] or tags.count(armour.SECRET_KEY) != 1:
        raise KeyMaterialError("this is not exactly one private key")
    return raw


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
