"""What the web application is handed, and how it is made: settings, store, checks, certificates, signed files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome.times import Clock, utc_now
from penguindome_server.checks import CheckSet, load_checks
from penguindome_server.published import PublishedFile, certificate, statements
from penguindome_server.settings import load_server_settings
from penguindome_server.signed_files import ManifestFile, SignedReleases
from penguindome_server.store import Store

SHIPPED_CHECKS = Path(__file__).parent / "checks.d"
STATEMENTS = "statements.json"


def load_site_checks(paths: Paths) -> CheckSet:
    """The checks that are shipped with the server, with the site's `checks.d/` laid over them. Raises SettingsError."""
    return load_checks(SHIPPED_CHECKS, paths.settings / "checks.d")


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
    releases: SignedReleases


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
    releases: SignedReleases

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
            releases=configuration.releases,
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
        releases=SignedReleases(paths.releases, server_key),
    )
