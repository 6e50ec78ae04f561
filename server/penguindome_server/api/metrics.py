"""`GET metrics`: measurements for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from penguindome_server.metrics import CONTENT_TYPE
from penguindome_server.web import Web


def view(web: Web, environ: Mapping[str, Any]) -> Response:
    """All measurements, for those whom the settings allow."""
    web.metrics_access.require(environ, web.peers.address(environ))
    return Response(web.metrics.text(), content_type=CONTENT_TYPE)
