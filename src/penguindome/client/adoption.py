"""The manifest that lies in the installed tree: what a package of a release brings with it.

Whoever installed that package, the watcher of an update or a person with `apt install`, the next minute puts its
manifest in force if it is newer than the one that is, and may be trusted.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from penguindome import json
from penguindome.client import installed, trust
from penguindome.client.errors import NoSpace
from penguindome.errors import InvalidData, PenguinDomeError, SignatureError
from penguindome.files import read_limited
from penguindome.logging import get_logger
from penguindome.manifest import LARGEST, Manifest

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.paths import Paths

TEXT = "manifest.json"
SIGNATURE = "manifest.json.asc"

log = get_logger(__name__)


def adopt(client: Client) -> bool:
    """Put the manifest of the tree in force if it should be; says whether it was. Under the client's lock.

    Raises NoSpace.
    """
    tree = client.paths.client_code
    try:
        text, signature = read_limited(tree / TEXT, LARGEST), read_limited(tree / SIGNATURE, 64 << 10)
    except (OSError, InvalidData):
        return False
    state = client.state
    digest = sha256(text).hexdigest()
    if state.judged_manifest == digest:
        return False
    held = installed.in_force(client)
    try:
        if held is None or _release(text) > held.release:
            candidate, described_by = _trusted(client, text, signature)
            manifest = trust.judge(
                candidate, held=held, highest_release=state.highest_release,
                went_back_to=state.went_back_to, now=trust.later(client.clock(), state.newest_signed_at),
            )  # fmt: skip
            put_in_force(client, manifest, text.decode(), signature.decode(), described_by)
            return True
    except NoSpace:
        raise
    except PenguinDomeError as error:
        # Judged again each minute: a clock may have been wrong, or another server key not known yet.
        log.error("the manifest of the installed tree was refused: {}", error.message)
        return False
    state.judged_manifest = digest
    return False


def installed_release(paths: Paths) -> int:
    """The release whose files are installed, as the manifest among them says, which may not be verified yet; 0 where
    there is none: in the base package.
    """
    try:
        return max(_release(read_limited(paths.client_code / TEXT, LARGEST)), 0)
    except (OSError, InvalidData):
        return 0


def _trusted(client: Client, text: bytes, signature: bytes) -> tuple[Manifest, dict[str, str] | None]:
    """The manifest in `text`, and the description that vouches for it where its signature does not: a package that was
    made before the server's key was rotated has a signature of the key before. Raises PenguinDomeError.
    """
    try:
        return Manifest.load(text, signature, client.identity.server_certificate), None
    except SignatureError:
        from penguindome.client import update_record

        record = update_record.load(client.paths)
        if record is None or not record.description:
            raise
        described_by = {"text": record.description, "signature": record.description_signature}
        description, signed = (each.encode() for each in described_by.values())
        # It was verified when it was offered; the server's key may have been rotated between that and now.
        for certificate in client.identity.accepted_by:
            with suppress(PenguinDomeError):
                return trust.load_described(text, description, signed, certificate), described_by
        raise


def put_in_force(
    client: Client, manifest: Manifest, text: str, signature: str, described_by: dict[str, str] | None = None
) -> None:
    """Keep a manifest that was accepted, and remember what follows from it. Raises NoSpace."""
    state, held = client.state, installed.in_force(client)
    installed.keep(client.paths.client_state, text, signature, described_by)
    if held is not None and manifest.release > held.release:
        from penguindome.client import overlay

        # A release takes the place of all patches to those before it.
        overlay.clear(client)
    state.highest_release = max(state.highest_release, manifest.release)
    if manifest.release >= state.highest_release:
        state.went_back_to = None
    state.newest_signed_at = max(manifest.issued_at, state.newest_signed_at or manifest.issued_at)
    state.collect_requested = True
    client.save()
    log.info("a new manifest of release {} is in force", manifest.release)


def _release(text: bytes) -> int:
    """What the text, which is not verified yet, says its release is; -1 when it says none. Decides only whether it is
    worth a look.
    """
    document = json.loads_plain(text)
    release = document.get("release") if isinstance(document, dict) else None
    return release if isinstance(release, int) else -1
