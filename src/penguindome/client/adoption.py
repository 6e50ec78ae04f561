"""The manifest that lies in the installed tree: what a package of a release brings with it.

Whoever installed that package, the watcher of an update or a person with `apt install`, the next minute puts its
manifest in force if it is newer than the one that is, and may be trusted.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from penguindome import json
from penguindome.client import installed, trust
from penguindome.client.errors import NoSpace
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import read_limited
from penguindome.logging import get_logger
from penguindome.manifest import LARGEST

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.manifest import Manifest
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
    certificate, state = client.identity.server_certificate, client.state
    digest = sha256(text).hexdigest()
    if state.judged_manifest == digest:
        return False
    held = installed.in_force(client)
    try:
        if held is None or _release(text) > held.release:
            manifest = trust.accept(
                text, signature, certificate, held=held, highest_release=state.highest_release,
                went_back_to=state.went_back_to, now=trust.later(client.clock(), state.newest_signed_at),
            )  # fmt: skip
            put_in_force(client, manifest, text.decode(), signature.decode())
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


def put_in_force(client: Client, manifest: Manifest, text: str, signature: str) -> None:
    """Keep a manifest that was accepted, and remember what follows from it. Raises NoSpace."""
    state, held = client.state, installed.in_force(client)
    installed.keep(client.paths.client_state, text, signature)
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
