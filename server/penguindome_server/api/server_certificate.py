"""`GET server_certificate`: the certificate of the server key, for a machine that is set up without a bundle; and the
statements by which each server key named the next, for one that knows an older key.

Whoever asks must not believe it: the full fingerprint, which a person typed there, decides, or the chain of signatures
that begins at the key that is pinned there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penguindome_server.web import Web


def view(web: Web, _environ: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenPGP certificate, armoured, and all statements of rotations, oldest first."""
    services = web.services
    return {"server_certificate": services.server_certificate.text, "statements": services.rotations.current}
