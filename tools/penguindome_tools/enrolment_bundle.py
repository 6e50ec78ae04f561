"""The enrolment bundle of this server: made for `penguindome enrolment export`, and for the tar of a release."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from penguindome.bundle import Bundle
from penguindome.errors import PenguinDomeError, SettingsError
from penguindome.files import read_limited
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome_tools import tls_trust

KEY_BYTES = 65536
CERTIFICATE_BYTES = 1 << 20


def enrolment_bundle(
    settings: Settings, paths: Paths, *, now: datetime, with_key: bool = True, ca_file: Path | None = None
) -> Bundle:
    """The bundle with the enrolment key, unless a token is to be put into it. `ca_file`: PEM to trust for TLS.

    To be called as root. Raises SettingsError before `penguindome setup`, UsageError for a `ca_file` that is of no use.
    """
    if not settings["server.url"]:
        raise SettingsError("server.url is not set", hint="run: penguindome setup --url https://HOST:PORT")
    return Bundle(
        server_url=settings["server.url"].rstrip("/"),
        server_certificate=_read(paths.releases / "server.asc", CERTIFICATE_BYTES),
        ca_certificate=tls_trust.for_bundles(settings, paths, ca_file=ca_file),
        enrolment_key=_read(paths.keys / "enrolment.key", KEY_BYTES) if with_key else None,
        token=None,
        created_at=now,
    )


def _read(path: Path, limit: int) -> str:
    try:
        return read_limited(path, limit).decode("ascii")
    except FileNotFoundError as error:
        raise SettingsError(f"{path} is missing", hint="run: penguindome setup") from error
    except OSError as error:
        raise PenguinDomeError(f"{path}: {error.strerror}", hint="run this as root") from error
