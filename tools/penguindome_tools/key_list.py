"""Which keys and certificates this server has: what each is for, how old it is, and until when it is good."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from penguindome.errors import PenguinDomeError
from penguindome.files import read_limited
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome.server_keyring import ServerKeyring
from penguindome.settings import Settings
from penguindome_server.certificates import read_certificate
from penguindome_server.ports import ports_of
from penguindome_tools.answers import next_files
from penguindome_tools.installation import recorded_fingerprint

_BYTES = 1 << 20

FOR_SERVER = "signs releases, repositories and actions; clients obey it alone"
FOR_FORMER = "signs nothing any more; its private half was kept"
FOR_NEXT = "takes the server key's place once a rotation that was interrupted is finished"
FOR_ENROLMENT = "may ask for enrolment; in every bundle"
FOR_TLS = "what clients connect to"
FOR_NEXT_TLS = "takes that one's place with `penguindome certificate use`"


@dataclass(frozen=True)
class KnownKey:
    """One key or certificate. `expires_at` is None where it never does; `problem` says why it cannot be used."""

    key: str
    fingerprint: str
    created_at: datetime | None
    expires_at: datetime | None
    purpose: str
    problem: str = ""


def known_keys(paths: Paths, settings: Settings) -> Iterator[KnownKey]:
    """All of them, the server key first. For root."""
    server = recorded_fingerprint(paths)
    yield _openpgp("server", paths.releases / "server.asc", FOR_SERVER, expected=server)
    if server is not None:
        yield from _others(paths, server)
    yield _openpgp("enrolment", paths.releases / "enrolment.asc", FOR_ENROLMENT)
    for port in ports_of(settings):
        if port.certificate is not None:
            yield _tls(f"tls-{port.number}", port.certificate)
    following = next_files(paths)[0]
    if following.exists():
        yield _tls("tls-next", following, FOR_NEXT_TLS)


def _openpgp(name: str, path: Path, purpose: str, *, expected: str | None = None) -> KnownKey:
    try:
        certificate = Certificate.from_text(read_limited(path, _BYTES))
    except (OSError, PenguinDomeError) as error:
        problem = f"{path}: {error.strerror if isinstance(error, OSError) else error}; run: penguindome setup"
        return KnownKey(name, "", None, None, purpose, problem)
    problem = "" if expected in (None, certificate.fingerprint) else f"{path} is not of the key {expected}"
    return KnownKey(name, certificate.fingerprint, certificate.created_at, None, purpose, problem)


def _others(paths: Paths, server: str) -> Iterator[KnownKey]:
    """Other private keys in root's keyring: of rotations."""
    from penguindome_tools.key_rotation import interrupted

    rotation = interrupted(paths)
    with ServerKeyring(paths.keys / "gnupg") as keyring:
        for fingerprint in keyring.fingerprints():
            if fingerprint != server:
                certificate = Certificate.from_text(keyring.certificate(fingerprint))
                is_next = rotation is not None and rotation.new == fingerprint
                name, purpose = ("server-next", FOR_NEXT) if is_next else ("server-former", FOR_FORMER)
                yield KnownKey(name, fingerprint, certificate.created_at, None, purpose)


def _tls(name: str, path: Path, purpose: str = FOR_TLS) -> KnownKey:
    try:
        found = read_certificate(path)
    except (OSError, PenguinDomeError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        return KnownKey(name, "", None, None, purpose, f"{path} cannot be read: {why}")
    return KnownKey(name, found.fingerprint, found.not_before, found.not_after, f"{purpose}: {path}")
