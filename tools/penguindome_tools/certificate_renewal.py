"""Another self-signed certificate in the place of the one that setup made, without a visit to any machine.

The next certificate is made beside the one in use, and lies there while releases bring both to the machines; then it
takes the other's place.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from hashlib import sha256

from penguindome.client.authorities import RELEASED
from penguindome.errors import PenguinDomeError, UsageError
from penguindome.files import read_limited, sync_directory
from penguindome.manifest import LARGEST, Manifest
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome_server.ports import ports_of
from penguindome_server.store import Store
from penguindome_tools import tls_trust
from penguindome_tools.answers import next_files, self_signed_files
from penguindome_tools.installation import make_pair, url_host
from penguindome_tools.releases.staged import MANIFEST


def renew(paths: Paths, settings: Settings) -> bool:
    """Make the next certificate, for the host of `server.url`; says whether it did: one that is there stays. For root.

    Raises UsageError when none of the server's certificates is of our making.
    """
    require_own(paths, settings)
    certificate, key = next_files(paths)
    if certificate.exists() and not key.exists():
        raise UsageError("the last renewal was not finished", hint="run: penguindome certificate use")
    if certificate.exists():
        return False
    make_pair(paths, url_host(settings["server.url"]), certificate, key)
    return True


def require_own(paths: Paths, settings: Settings) -> None:
    """Raise UsageError unless the server shows the certificate that `penguindome setup` made."""
    shown = [port.certificate for port in ports_of(settings)]
    if self_signed_files(paths)[0] not in shown:
        names = ", ".join(str(path) for path in shown if path is not None) or "none at all"
        raise UsageError(
            f"the server's certificate is not one that `penguindome setup` made: {names}",
            hint="renew it where it comes from; see tls.authorities in `penguindome settings --sample`",
        )


def put_into_use(paths: Paths) -> None:
    """Let the next certificate take the place of the one in use, whose key is gone then. Interrupted, it is finished by
    doing it again. For root. Raises UsageError when there is none, or PenguinDomeError for one that cannot be used.
    """
    (certificate, key), (following, next_key) = self_signed_files(paths), next_files(paths)
    if not following.exists():
        raise UsageError("there is no next certificate", hint="run: penguindome certificate renew")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(following, next_key if next_key.exists() else key)
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise PenguinDomeError(
            f"{following} and its key cannot be used: {reason}",
            hint="delete it, and run: penguindome certificate renew",
        ) from error
    if next_key.exists():
        next_key.rename(key)
    following.rename(certificate)
    sync_directory(certificate.parent)


def machines_behind(paths: Paths, settings: Settings, store: Store) -> list[str]:
    """The host names of enrolled machines that have no release which carries all that is to be trusted now."""
    carrying = set(_carrying(paths, tls_trust.for_releases(settings, paths)))
    clients = store.collection("clients").find({"state": "enrolled"}, fields=("hostname", "release"))
    return sorted(client["hostname"] for client in clients if client.get("release") not in carrying)


def _carrying(paths: Paths, certificates: str) -> Iterator[int]:
    """The releases that carry exactly these certificates, as root's own files say."""
    wanted = sha256(certificates.encode("ascii")).hexdigest()
    for path in paths.releases.glob(f"[0-9]*/{MANIFEST}"):
        named = Manifest.of_trusted(read_limited(path, LARGEST)).files.get(RELEASED)
        if named is not None and named.sha256 == wanted:
            yield int(path.parent.name)
