"""The Flask application: which view answers where, and how every outcome, good or bad, becomes an answer.

All answers but the metrics are JSON. A refusal has its own status and code, never 200. What nobody foresaw is a 500
with an id that stands in the log beside the traceback; nothing that a client can send causes one on purpose.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from penguindome import json
from penguindome.errors import InvalidData
from penguindome.logging import get_logger
from penguindome_server.api import acknowledge_patch, enroll, healthz, metrics, submit, update
from penguindome_server.refusals import Refusal
from penguindome_server.services import Services
from penguindome_server.store import StoreUnavailable
from penguindome_server.web import Web

log = get_logger(__name__)

PREFIXES = {"v1": "/penguindome/v1", "v1_capitalised": "/PenguinDome/v1"}
STORE_RETRY_SECONDS = 15

View = Callable[[Web, Mapping[str, Any]], "dict[str, Any] | Response"]

# Endpoint, method, view. A signed body is good for the endpoint of that name only.
VIEWS: tuple[tuple[str, str, View], ...] = (
    ("enroll", "POST", enroll.view),
    ("submit", "POST", submit.view),
    ("update", "POST", update.view),
    ("acknowledge_patch", "POST", acknowledge_patch.view),
    ("healthz", "GET", healthz.view),
    ("metrics", "GET", metrics.view),
)

_HTTP_CODES = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 429: "rate-limited"}


def create_application(services: Services) -> Flask:
    """The application over these services. Its `extensions["penguindome"]` is the `Web` that the views share."""
    app = Flask("penguindome_server", static_folder=None, template_folder=None)
    # `//` is no other way to write `/`, and no request is answered by a redirection.
    app.url_map.merge_slashes = False
    web = Web.of(services)
    app.extensions["penguindome"] = web
    for name, prefix in PREFIXES.items():
        for endpoint, method, view in VIEWS:
            app.add_url_rule(
                f"{prefix}/{endpoint}",
                endpoint=f"{name}.{endpoint}",
                view_func=_answering(web, endpoint, view),
                methods=[method],
                provide_automatic_options=False,
            )
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unforeseen)
    return app


def _answering(web: Web, endpoint: str, view: View) -> Callable[[], Response]:
    """A Flask view that runs `view`, turns its outcome into an answer, and counts it."""

    def answer() -> Response:
        start = time.perf_counter()
        try:
            outcome = view(web, request.environ)
            response = outcome if isinstance(outcome, Response) else json_response(outcome)
        except Refusal as refusal:
            response = _refused(refusal)
        except InvalidData as error:
            response = _refused(Refusal("invalid", error.message))
        except StoreUnavailable as error:
            web.metrics.store_failed()
            log.error("{}: the store is not available: {}", endpoint, error)
            response = _refused(
                Refusal("store-unavailable", "the server cannot reach its store", retry_after=STORE_RETRY_SECONDS)
            )
        except Exception as error:
            response = _unforeseen(error)
        web.metrics.answered(endpoint, response.status_code, time.perf_counter() - start)
        return response

    return answer


def json_response(document: Mapping[str, Any], status: int = 200) -> Response:
    """A JSON answer."""
    return Response(json.dumps(document), status, content_type="application/json")


def _refused(refusal: Refusal) -> Response:
    response = json_response(refusal.body(), refusal.status)
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 401 and refusal.reason == "unauthorised":
        response.headers["WWW-Authenticate"] = 'Basic realm="PenguinDome"'
    log.info("refused {}: {} ({})", request.path, refusal.reason, refusal.message)
    return response


def _http_error(error: HTTPException) -> Response:
    """What Flask itself refuses: no such path, another method, a request that it cannot read."""
    status = error.code or 500
    code = _HTTP_CODES.get(status, "malformed" if 400 <= status < 500 else "internal")
    response = json_response({"error": {"code": code, "message": error.name.lower()}}, status)
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers[name] = value
    return response


def _unforeseen(error: Exception) -> Response:
    incident = secrets.token_hex(6)
    log.error("{}: incident {}: {}", request.path, incident, type(error).__name__, exc_info=error)
    return json_response({"error": {"code": "internal", "message": f"something broke here; incident {incident}"}}, 500)
