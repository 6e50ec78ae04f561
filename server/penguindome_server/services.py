"""What the web application is handed, and how it is made: settings, store, checks, certificates, manifest."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from penguindome.errors import PenguinDomeError
from penguindome.files import read_limited
from penguindome.logging import get_logger
from penguindome.manifest import Manifest
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome.times import Clock, utc_now
from penguindome_server.checks import CheckSet, load_checks
from penguindome_server.published import LOOK_SECONDS, PublishedFile, certificate, stamp, statements
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Store

log = get_logger(__name__)

SHIPPED_CHECKS = Path(__file__).parent / "checks.d"
MANIFEST_BYTES = 16 << 20
STATEMENTS = "statements.json"


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
    """The signed manifest below `releases/`: read again when its files change, which root does while we run, or the
    server key does.
    """

    def __init__(self, directory: Path, server_key: PublishedFile[Certificate]) -> None:
        self._text = directory / "manifest.json"
        self._signature = directory / "manifest.json.asc"
        self._server_key = server_key
        self._lock = threading.Lock()
        self._seen: object = None
        self._look_again = 0.0
        self._manifest: SignedManifest | None = None

    @property
    def server_key(self) -> str:
        """The fingerprint of the key that manifests, and all else, must be signed by now."""
        return self._server_key.current.fingerprint

    def current(self) -> SignedManifest | None:
        """The newest manifest whose signature is right; None if the site has not signed one yet.

        A pair of files that does not fit together (they are replaced one after the other) leaves the manifest before it
        in force.
        """
        now = time.monotonic()
        if now >= self._look_again:
            seen = (stamp(self._text), stamp(self._signature), self.server_key)
            with self._lock:
                if seen != self._seen:
                    self._read()
                    self._seen = seen
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
            manifest = Manifest.load(text, signature, self._server_key.current)
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
    server_key: PublishedFile[Certificate]
    enrolment_key: PublishedFile[Certificate]
    rotations: PublishedFile[list[dict[str, str]]]
    manifest: ManifestFile


@dataclass(frozen=True)
class Services:
    """What the web application works with. `store` is opened after the fork, by the process that uses it."""

    settings: Settings
    paths: Paths
    store: Store
    checks: CheckSet
    clock: Clock
    server_key: PublishedFile[Certificate]
    enrolment_key: PublishedFile[Certificate]
    rotations: PublishedFile[list[dict[str, str]]]
    manifest: ManifestFile

    @property
    def server_certificate(self) -> Certificate:
        """The certificate of the server key, as it is now."""
        return self.server_key.current

    @property
    def enrolment_certificate(self) -> Certificate:
        """The certificate of the enrolment key, as it is now."""
        return self.enrolment_key.current

    @classmethod
    def of(cls, configuration: Configuration, store: Store, *, clock: Clock = utc_now) -> Services:
        """The services of one process."""
        return cls(
            settings=configuration.settings,
            paths=configuration.paths,
            store=store,
            checks=configuration.checks,
            clock=clock,
            server_key=configuration.server_key,
            enrolment_key=configuration.enrolment_key,
            rotations=configuration.rotations,
            manifest=configuration.manifest,
        )


def load_configuration(paths: Paths) -> Configuration:
    """Read settings, checks, certificates and manifest. Raises SettingsError, with file and line where there is one."""
    settings = load_server_settings(paths)
    server_key = PublishedFile(paths.releases / "server.asc", certificate)
    return Configuration(
        settings=settings,
        paths=paths,
        checks=load_site_checks(paths),
        server_key=server_key,
        enrolment_key=PublishedFile(paths.releases / "enrolment.asc", certificate),
        rotations=PublishedFile(paths.releases / STATEMENTS, statements),
        manifest=ManifestFile(paths.releases, server_key),
    )
