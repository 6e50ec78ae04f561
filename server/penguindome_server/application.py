"""The application factory: a Flask application, with the endpoints of the wire protocol in front of it."""

from __future__ import annotations

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from penguindome_server.answers import Answer, json_answer
from penguindome_server.api.endpoints import Endpoints, incident
from penguindome_server.services import Services
from penguindome_server.web import Web

_HTTP_CODES = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 429: "rate-limited"}


def create_application(services: Services) -> Flask:
    """The application over these services. Its `extensions["penguindome"]` is the `Web` that the views share."""
    app = Flask("penguindome_server", static_folder=None, template_folder=None)
    # `//` is no other way to write `/`, and no request is answered by a redirection.
    app.url_map.merge_slashes = False
    web = Web.of(services)
    app.extensions["penguindome"] = web
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unforeseen)
    app.wsgi_app = Endpoints(web, app.wsgi_app)  # type: ignore[method-assign]  # Flask's way to put something before it
    return app


def _http_error(error: HTTPException) -> Response:
    """What Flask itself refuses: no such path, another method, a request that it cannot read."""
    status = error.code or 500
    code = _HTTP_CODES.get(status, "malformed" if 400 <= status < 500 else "internal")
    allow = tuple((name, value) for name, value in error.get_headers() if name.lower() == "allow")
    return _response(json_answer({"error": {"code": code, "message": error.name.lower()}}, status, allow))


def _unforeseen(error: Exception) -> Response:
    return _response(incident(request.path, error))


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, headers=answer.header_list())
