"""`GET healthz`: whether this server can do its work, for balancers and supervisors. Tells nothing else, to anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penguindome_server.web import Web


def view(web: Web, _environ: Mapping[str, Any]) -> dict[str, Any]:
    """`ok`, when the store serves reads; 503 otherwise."""
    web.health.check()
    return {"status": "ok"}
