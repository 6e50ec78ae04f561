"""`GET metrics`: measurements for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penguindome_server.answers import Answer
from penguindome_server.metrics import CONTENT_TYPE
from penguindome_server.web import Web


def view(web: Web, environ: Mapping[str, Any]) -> Answer:
    """All measurements, for those whom the settings allow."""
    web.metrics_access.require(environ, web.peers.address(environ))
    return Answer(200, web.metrics.text(), CONTENT_TYPE)
