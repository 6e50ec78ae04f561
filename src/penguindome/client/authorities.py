"""Whom this client trusts for TLS: those of its bundle (else the system's), and those that the release in force brings.

A release brings certificates as `settings/ca.pem` of the client's tree. They count only if the signed manifest in force
names the file, and it is as signed: so a site moves to another certificate with a release that carries the old one and
the new one. `ca_certificate` in the settings of this machine takes the place of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from penguindome.errors import ManifestError, PenguinDomeError
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.context import Client

RELEASED = "settings/ca.pem"
"""Where the certificates lie in the client's tree, and what manifests call them. No patch reaches it."""

log = get_logger(__name__)


def own(client: Client) -> Path | None:
    """The file that this machine was given, by hand or with its bundle; None: the authorities of the system."""
    chosen: Path | None = client.settings["ca_certificate"] or client.identity.ca_file
    return chosen


def released(client: Client) -> str:
    """What the release in force adds, as PEM; "" when it adds nothing, or nothing that can be trusted."""
    tree = client.release_tree
    if client.settings["ca_certificate"] or not (tree / RELEASED).exists():
        return ""
    from penguindome import manifest
    from penguindome.client import installed

    state = client.paths.client_state
    kept = state if tree == client.paths.client_code else tree
    try:
        in_force = installed.load(kept, client.identity.server_certificate, former_in=state)
        if in_force is None:
            return ""
        return manifest.open_verified(in_force, tree, RELEASED).decode("ascii")
    except (ManifestError, UnicodeDecodeError) as error:
        log.warning("certificates of the release are not trusted: {}", error)
    except PenguinDomeError as error:
        log.error("the manifest in force is damaged: {}", error.message)
    return ""
