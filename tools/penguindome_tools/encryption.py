"""Streams that gpg encrypts and decrypts: to a passphrase, or to certificates.

A passphrase goes to gpg through a pipe of its own, never through its arguments or the environment. For a passphrase gpg
has an empty home directory for the time; for certificates nothing of any keyring is used either. What was encrypted to
certificates is decrypted with the keys (and the agent, or a card) of the user who runs the command.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar

from penguindome import processes
from penguindome.errors import InvalidData, PenguinDomeError, UsageError
from penguindome.files import read_limited
from penguindome.openpgp import Certificate
from penguindome.openpgp_gnupg import short_directory

END_SECONDS = 600.0
LONGEST_PASSPHRASE = 4096
_CERTIFICATE_BYTES = 1 << 20
_SYMMETRIC_TAG = 3
_PUBLIC_TAG = 1
_QUIET = ("--batch", "--no-tty", "--status-fd", "2", "--no-options")


class NotDecrypted(PenguinDomeError):
    """What was to be decrypted is damaged, or not for us."""

    code: ClassVar[str] = "not-decrypted"


class NotEncrypted(PenguinDomeError):
    """What was to be encrypted could not be, or not be written."""

    code: ClassVar[str] = "not-encrypted"


@dataclass(frozen=True)
class Protection:
    """How a stream is, or shall be, encrypted: to a passphrase, or to the certificates in these files."""

    passphrase: bytes | None = field(default=None, repr=False)
    recipients: Sequence[Path] = ()


@contextmanager
def encrypting(target: int, protection: Protection) -> Iterator[IO[bytes]]:
    """A stream whose contents go, encrypted, to the open file `target`. Raises NotEncrypted; what is in the file then
    is of no use.
    """
    with _home() as home, _passphrase(protection.passphrase) as (options, descriptors):
        how = ["--symmetric", "--cipher-algo", "AES256", "--s2k-digest-algo", "SHA512", "--s2k-count", "65011712"]
        if protection.passphrase is None:
            how = ["--encrypt", "--trust-model", "always", *_recipient_words(protection.recipients)]
        # The contents are compressed already.
        command = ["gpg", "--homedir", home, *_QUIET, *options, "--compress-algo", "none", *how]
        with processes.filtering(command, stdout=target, descriptors=descriptors) as gpg:
            try:
                yield gpg.stream
                gpg.stream.flush()
            except BrokenPipeError as error:
                raise NotEncrypted(f"gpg cannot encrypt: {_complaint(gpg)}") from error
            done = gpg.finish(timeout=END_SECONDS)
            if done.returncode != 0:
                raise NotEncrypted(f"gpg cannot encrypt: {_said(done.stderr)}")


@contextmanager
def decrypting(path: Path, passphrase: bytes | None) -> Iterator[IO[bytes]]:
    """A stream of what is encrypted in a file. What was read may be believed only when the block has ended without an
    error: only then is it known that nothing was changed or cut off. Raises NotDecrypted, or OSError.
    """
    with path.open("rb") as source, _home() as home, _passphrase(passphrase) as (options, descriptors):
        homedir = [] if passphrase is None else ["--homedir", home]
        command = ["gpg", *homedir, *_QUIET, *options, "--decrypt"]
        with processes.filtering(command, stdin=source.fileno(), descriptors=descriptors) as gpg:
            found_wrong: PenguinDomeError | None = None
            try:
                yield gpg.stream
            except PenguinDomeError as error:
                found_wrong = error
            # What follows decides nothing, but gpg has to see the end to judge the whole: if it was changed, then that
            # is why the contents made no sense.
            while gpg.stream.read(1 << 16):
                pass
            problem = _problem(gpg.finish(timeout=END_SECONDS), path)
            if problem is not None:
                raise NotDecrypted(problem) from found_wrong
            if found_wrong is not None:
                raise found_wrong


def wants_passphrase(path: Path) -> bool:
    """Whether a file is encrypted to a passphrase (or else to certificates). Raises NotDecrypted when it is neither."""
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise NotDecrypted(f"{path}: {error.strerror}") from error
    byte = first[0] if first else 0
    tag = byte & 63 if byte & 0x40 else (byte >> 2) & 15
    if not byte & 0x80 or tag not in (_SYMMETRIC_TAG, _PUBLIC_TAG):
        raise NotDecrypted(f"{path} is not encrypted by gpg", hint="is it a backup?")
    return tag == _SYMMETRIC_TAG


def read_passphrase(name: str) -> bytes:
    """The first line of a file that nobody else may read, or of standard input (`-`). Raises UsageError."""
    if name == "-":
        contents = sys.stdin.buffer.readline(LONGEST_PASSPHRASE + 2)
    else:
        path = Path(name)
        try:
            status = path.stat()
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                raise UsageError(f"others on this machine can read {name}", hint=f"run: chmod 600 {name}")
            contents = read_limited(path, LONGEST_PASSPHRASE + 2)
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}", hint="it holds the passphrase in its first line") from error
        except InvalidData as error:
            raise UsageError(error.message) from error
    return checked_passphrase(contents.partition(b"\n")[0].rstrip(b"\r"))


def checked_passphrase(passphrase: bytes) -> bytes:
    """The passphrase, if gpg takes it. Raises UsageError."""
    if not passphrase or len(passphrase) > LONGEST_PASSPHRASE or b"\n" in passphrase or b"\0" in passphrase:
        raise UsageError(f"a passphrase is a line of 1 to {LONGEST_PASSPHRASE} bytes")
    return passphrase


def check_recipients(recipients: Sequence[Path]) -> None:
    """Raise UsageError unless each file holds a certificate that can be encrypted to."""
    for path in recipients:
        try:
            Certificate.from_text(read_limited(path, _CERTIFICATE_BYTES)).encrypt(b"")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
        except PenguinDomeError as error:
            raise UsageError(f"{path}: {error.message}", hint="it holds one armoured certificate") from error


def _recipient_words(recipients: Sequence[Path]) -> list[str]:
    return [word for path in recipients for word in ("--recipient-file", str(path.absolute()))]


@contextmanager
def _home() -> Iterator[str]:
    """An empty home directory of gpg, with an agent if it starts one, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="pd-", dir=short_directory()) as home:
        try:
            yield home
        finally:
            processes.run(["gpgconf", "--homedir", home, "--kill", "all"], timeout=30, check=False)


@contextmanager
def _passphrase(passphrase: bytes | None) -> Iterator[tuple[list[str], list[int]]]:
    """Options and a descriptor by which gpg learns the passphrase."""
    if passphrase is None:
        yield [], []
        return
    reading, writing = os.pipe()
    try:
        try:
            os.write(writing, passphrase + b"\n")  # it fits into the pipe
        finally:
            os.close(writing)
        yield ["--pinentry-mode", "loopback", "--no-symkey-cache", "--passphrase-fd", str(reading)], [reading]
    finally:
        os.close(reading)


def _complaint(gpg: processes.Filter) -> str:
    return _said(gpg.finish(timeout=END_SECONDS).stderr)


def _problem(done: processes.Completed, path: Path) -> str | None:
    """What was wrong, in words; None when all was decrypted and nothing was changed."""
    text = done.stderr.decode("utf-8", "replace")
    if done.returncode == 0 and "[GNUPG:] DECRYPTION_OKAY" in text:
        return None
    if "BAD_PASSPHRASE" in text or "Bad session key" in text:
        return f"{path} cannot be decrypted: that is not its passphrase"
    if "[GNUPG:] NO_SECKEY" in text and "[GNUPG:] PLAINTEXT" not in text:
        return f"{path} cannot be decrypted: none of the private keys it is encrypted to is in your keyring"
    if any(f"[GNUPG:] {word}" in text for word in ("PLAINTEXT", "BADMDC", "NODATA")):
        return f"{path} is damaged, or was cut off"
    return f"{path} cannot be decrypted: {_said(done.stderr)}"


def _said(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.startswith("gpg: ")]
    return lines[-1].removeprefix("gpg: ")[:300] if lines else "no reason given"
