"""What the web application is handed, and how it is made: settings, store, checks, certificates, manifest."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from penguindome.errors import PenguinDomeError, SettingsError
from penguindome.files import read_limited
from penguindome.logging import get_logger
from penguindome.manifest import Manifest
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome.times import Clock, utc_now
from penguindome_server.checks import CheckSet, load_checks
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Store

log = get_logger(__name__)

SHIPPED_CHECKS = Path(__file__).parent / "checks.d"
CERTIFICATE_BYTES = 1 << 20
MANIFEST_BYTES = 16 << 20
LOOK_SECONDS = 0.5


def load_site_checks(paths: Paths) -> CheckSet:
    """The checks that are shipped with the server, with the site's `checks.d/` laid over them. Raises SettingsError."""
    return load_checks(SHIPPED_CHECKS, paths.settings / "checks.d")


@dataclass(frozen=True)
class SignedManifest:
    """The newest manifest as it is handed to clients: exact text, armoured signature, SHA-256 of the text in hex,
    release number.
    """

    text: str
    signature: str
    sha256: str
    release: int


class ManifestFile:
    """The signed manifest below `releases/`: read again when its files change, which root does while we run."""

    def __init__(self, directory: Path, certificate: Certificate) -> None:
        self._text = directory / "manifest.json"
        self._signature = directory / "manifest.json.asc"
        self._certificate = certificate
        self._lock = threading.Lock()
        self._seen: object = None
        self._look_again = 0.0
        self._manifest: SignedManifest | None = None

    def current(self) -> SignedManifest | None:
        """The newest manifest whose signature is right; None if the site has not signed one yet.

        A pair of files that does not fit together (they are replaced one after the other) leaves the manifest before it
        in force.
        """
        now = time.monotonic()
        if now >= self._look_again:
            stamp = (_stamp(self._text), _stamp(self._signature))
            with self._lock:
                if stamp != self._seen:
                    self._read()
                    self._seen = stamp
                self._look_again = now + LOOK_SECONDS
        return self._manifest

    def _read(self) -> None:
        try:
            text = read_limited(self._text, MANIFEST_BYTES)
            signature = read_limited(self._signature, MANIFEST_BYTES)
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("the manifest cannot be read: {}", error)
            return
        try:
            manifest = Manifest.load(text, signature, self._certificate)
        except PenguinDomeError as error:
            log.warning("{} is not handed to clients: {}", self._text, error)
            return
        self._manifest = SignedManifest(
            text=text.decode(), signature=signature.decode("ascii"), sha256=manifest.sha256, release=manifest.release
        )


@dataclass(frozen=True)
class Configuration:
    """What is read from files, and read again on SIGHUP; made before workers are forked, and shared by them."""

    settings: Settings
    paths: Paths
    checks: CheckSet
    server_certificate: Certificate
    enrolment_certificate: Certificate
    manifest: ManifestFile


@dataclass(frozen=True)
class Services:
    """What the web application works with. `store` is opened after the fork, by the process that uses it."""

    settings: Settings
    paths: Paths
    store: Store
    checks: CheckSet
    clock: Clock
    server_certificate: Certificate
    enrolment_certificate: Certificate
    manifest: ManifestFile

    @classmethod
    def of(cls, configuration: Configuration, store: Store, *, clock: Clock = utc_now) -> Services:
        """The services of one process."""
        return cls(
            settings=configuration.settings,
            paths=configuration.paths,
            store=store,
            checks=configuration.checks,
            clock=clock,
            server_certificate=configuration.server_certificate,
            enrolment_certificate=configuration.enrolment_certificate,
            manifest=configuration.manifest,
        )


def load_configuration(paths: Paths) -> Configuration:
    """Read settings, checks, certificates and manifest. Raises SettingsError, with file and line where there is one."""
    settings = load_server_settings(paths)
    server_certificate = _certificate(paths.releases / "server.asc")
    return Configuration(
        settings=settings,
        paths=paths,
        checks=load_site_checks(paths),
        server_certificate=server_certificate,
        enrolment_certificate=_certificate(paths.releases / "enrolment.asc"),
        manifest=ManifestFile(paths.releases, server_certificate),
    )


def _certificate(path: Path) -> Certificate:
    try:
        return Certificate.from_text(read_limited(path, CERTIFICATE_BYTES))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", hint="run: penguindome setup") from error
    except PenguinDomeError as error:
        raise SettingsError(f"{path}: {error}", hint="run: penguindome setup") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
