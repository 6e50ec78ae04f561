"""`GET server_certificate`: the certificate of the server key, for a machine that is set up without a bundle.

Whoever asks must not believe it: the full fingerprint, which a person typed there, decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penguindome_server.web import Web


def view(web: Web, _environ: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenPGP certificate, armoured."""
    return {"server_certificate": web.services.server_certificate.text}
