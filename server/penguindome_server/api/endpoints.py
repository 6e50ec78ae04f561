"""The endpoints of the wire protocol, answered in front of Flask, and how every outcome of a view becomes an answer.

A poll is one small signature to check and a few lines of JSON. Flask's routing, contexts and request objects, of which
these views use nothing, would be the larger part of its cost; so the paths of the protocol, all known in advance, are
looked up here, and everything else goes to Flask.

A refusal has its own status and code, never 200. What nobody foresaw is a 500 with an id that stands in the log beside
the traceback; nothing that a client can send causes one on purpose.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penguindome.errors import InvalidData
from penguindome.logging import get_logger
from penguindome_server.answers import Answer, json_answer, refusal_answer
from penguindome_server.api import (
    acknowledge_patch,
    download_release,
    enroll,
    healthz,
    metrics,
    repo,
    server_certificate,
    submit,
    update,
)
from penguindome_server.refusals import Refusal
from penguindome_server.store import StoreUnavailable
from penguindome_server.web import Web

log = get_logger(__name__)

PREFIXES = ("/penguindome/v1/", "/PenguinDome/v1/")
STORE_RETRY_SECONDS = 15

View = Callable[[Web, Mapping[str, Any]], "dict[str, Any] | Answer"]
Wsgi = Callable[..., Iterable[bytes]]

# Endpoint: method and view. A signed body is good for the endpoint of that name only.
VIEWS: Mapping[str, tuple[str, View]] = {
    "enroll": ("POST", enroll.view),
    "submit": ("POST", submit.view),
    "update": ("POST", update.view),
    "acknowledge_patch": ("POST", acknowledge_patch.view),
    "healthz": ("GET", healthz.view),
    "metrics": ("GET", metrics.view),
    "server_certificate": ("GET", server_certificate.view),
    "download_release": ("GET", download_release.view),
}
# These answer for every path that goes on from theirs.
TREES: Mapping[str, tuple[str, View]] = {"repo/": ("GET", repo.view)}


class Endpoints:
    """A WSGI application: the protocol's endpoints, and `otherwise` for every other path."""

    def __init__(self, web: Web, otherwise: Wsgi) -> None:
        self._web = web
        self._otherwise = otherwise
        self._trees = tuple(
            (prefix + name, (name.rstrip("/"), *found)) for name, found in TREES.items() for prefix in PREFIXES
        )
        self._paths = {prefix + name: (name, *found) for name, found in VIEWS.items() for prefix in PREFIXES}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        found = self._paths.get(environ["PATH_INFO"]) or self._tree(environ["PATH_INFO"])
        if found is None:
            return self._otherwise(environ, start_response)
        name, method, view = found
        given = environ["REQUEST_METHOD"]
        if given != method and not (given == "HEAD" and method == "GET"):
            refusal = Refusal("method-not-allowed", f"this endpoint is asked with {method}")
            answer = refusal_answer(refusal, (("Allow", method),))
        else:
            answer = self._answer(name, view, environ)
        start_response(answer.status_line, answer.header_list())
        if answer.region is not None:
            if given != "HEAD":
                return answer.region
            answer.region.close()
        return [b"" if given == "HEAD" else answer.body]

    def _tree(self, path: str) -> tuple[str, str, View] | None:
        return next((found for beginning, found in self._trees if path.startswith(beginning)), None)

    def _answer(self, name: str, view: View, environ: Mapping[str, Any]) -> Answer:
        start = time.perf_counter()
        try:
            outcome = view(self._web, environ)
            answer = outcome if isinstance(outcome, Answer) else json_answer(outcome)
        except Refusal as refusal:
            answer = self._refuse(name, refusal, environ)
        except InvalidData as error:
            answer = self._refuse(name, Refusal("invalid", error.message), environ)
        except StoreUnavailable as error:
            self._web.metrics.store_failed()
            log.error("{}: the store is not available: {}", name, error)
            message = "the server cannot reach its store"
            answer = refusal_answer(Refusal("store-unavailable", message, retry_after=STORE_RETRY_SECONDS))
        except Exception as error:
            answer = incident(name, error)
        self._web.metrics.answered(name, answer.status, time.perf_counter() - start)
        return answer

    def _refuse(self, name: str, refusal: Refusal, environ: Mapping[str, Any]) -> Answer:
        address = self._web.peers.address(environ)
        log.info("refused {} from {}: {} ({})", name, address, refusal.reason, refusal.message)
        return refusal_answer(refusal)


def incident(name: str, error: Exception) -> Answer:
    """The answer to what nobody foresaw, after the traceback was logged under an id."""
    number = secrets.token_hex(6)
    log.error("{}: incident {}: {}", name, number, type(error).__name__, exc_info=error)
    return json_answer({"error": {"code": "internal", "message": f"something broke here; incident {number}"}}, 500)
