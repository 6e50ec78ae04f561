"""Meeting a server that is known by its URL and the fingerprint of its key, which a person typed.

Its certificate comes over the wire. The rules, in their order: 1. the answer is small; 2. it is a certificate that can
be used; 3. its full fingerprint is the one that was typed. What breaks one of them changes nothing here, and nothing is
sent to that server.
"""

from __future__ import annotations

from pathlib import Path

from penguindome.bundle import Bundle
from penguindome.client.context import Client, refuse_plain_http
from penguindome.client.errors import Unreachable
from penguindome.client.identity import AWAITED, KEY_LIMIT
from penguindome.client.installation import Introduction
from penguindome.client.transport import Transport
from penguindome.errors import KeyMaterialError
from penguindome.files import FileLock, write_atomically
from penguindome.openpgp import Certificate


def meet(client: Client, introduction: Introduction) -> Bundle:
    """What a bundle of this server would hold. Raises SettingsError, Unreachable, Refused or KeyMaterialError."""
    import tempfile

    refuse_plain_http(introduction.server_url, allowed=client.settings["allow_plain_http"])
    with tempfile.NamedTemporaryFile("w", prefix="penguindome-", suffix=".pem") as authorities:
        authorities.write(introduction.ca_certificate or "")
        authorities.flush()
        ca_file = Path(authorities.name) if introduction.ca_certificate else client.settings["ca_certificate"]
        certificate = _fetch(client, introduction.server_url, ca_file, introduction.fingerprint)
    return Bundle(
        server_url=introduction.server_url,
        server_certificate=certificate.text,
        ca_certificate=introduction.ca_certificate,
        enrolment_key=None,
        token=introduction.token,
        created_at=client.clock(),
    )


def conclude(client: Client) -> None:
    """Fetch the certificate that a setup had to leave open, if it did. Raises as `meet`."""
    fingerprint = client.identity.awaited_fingerprint
    if fingerprint is None:
        return
    ca_file = client.settings["ca_certificate"] or client.identity.ca_file
    directory = client.paths.client_state
    with FileLock(directory / "lock"):
        certificate = _fetch(client, client.settings["server.url"], ca_file, fingerprint)
        write_atomically(directory / "server.asc", certificate.text, mode=0o600)
        (directory / AWAITED).unlink(missing_ok=True)


def _fetch(client: Client, url: str, ca_file: Path | None, fingerprint: str) -> Certificate:
    transport = Transport(
        url,
        ca_file=ca_file,
        connect_timeout=client.settings["server.connect_timeout"].total_seconds(),
        read_timeout=client.settings["server.read_timeout"].total_seconds(),
    )
    text = transport.get("server_certificate").get("server_certificate")
    if not isinstance(text, str) or len(text) > KEY_LIMIT:
        raise Unreachable("what the server sent is no certificate", hint="is the URL right?", status=200)
    certificate = Certificate.from_text(text)
    if certificate.fingerprint != fingerprint:
        # Which one it is nobody shall copy from here: the typed one has to come from the administrator.
        raise KeyMaterialError(
            f"the server at {url} has another key than the one whose fingerprint was given",
            hint="compare with what `penguindome setup` shows on the server; another server may be answering",
        )
    return certificate
