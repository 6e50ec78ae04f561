"""What a thread of the worker does with a request that is here whole: it parses it, runs the application, and makes of
the outcome an answer that is ready to be sent.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gunicorn.http import RequestParser, wsgi  # type: ignore[import-untyped]  # gunicorn carries no types
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, NoMoreData, ParseException  # type: ignore[import-untyped]  # gunicorn carries no types

from penguindome.logging import get_logger
from penguindome_server.connections import Connection, Output, refusal_answer
from penguindome_server.framing import BadRequest
from penguindome_server.publication import CONNECTION_KEY
from penguindome_server.sending import FileRegion, Outgoing

log = get_logger(__name__)


class Answering:
    """Makes answers. `stays` tells whether connections may stay open."""

    def __init__(
        self, cfg: Any, application: Callable[..., Any], access_log: Any, *, stays: Callable[[], bool]
    ) -> None:
        self._cfg = cfg
        self._application = application
        self._access_log = access_log
        self._stays = stays

    def answer(self, connection: Connection) -> None:
        """Make the answer to the connection's pending request its `outgoing`, and send what the socket takes at once.

        A large file is left to the loop, which knows how many are being read.
        """
        connection.outgoing = outgoing = self._outgoing(connection)
        if not outgoing.is_large:
            outgoing.push(connection.sock)

    def _outgoing(self, connection: Connection) -> Outgoing:
        try:
            parser = RequestParser(self._cfg, iter([connection.pending]), connection.peer)
            return self._run(next(parser), connection)
        except (NoMoreData, StopIteration):
            refusal = BadRequest(400, "malformed", "this is not a whole HTTP request")
        except ParseException as error:
            refusal = _parse_refusal(error)
        except Exception:
            log.exception("a request was not answered")
            refusal = BadRequest(500, "internal", "something broke here")
        return Outgoing(refusal_answer(refusal), keep=False)

    def _run(self, request: Any, connection: Connection) -> Outgoing:
        start = datetime.now() if self._access_log.access_log_enabled else None  # noqa: DTZ005  gunicorn subtracts two local times
        output = Output()
        response, environ = wsgi.create(request, output, connection.peer, connection.server, self._cfg)
        environ["wsgi.multithread"] = True
        # gunicorn knows one scheme for all sockets.
        environ["wsgi.url_scheme"] = "https" if isinstance(connection.sock, ssl.SSLSocket) else "http"
        # All of it is here: what is wrong with its chunks and trailers is found before the application, not within.
        environ["wsgi.input"] = io.BytesIO(request.body.read())
        environ[CONNECTION_KEY] = connection.memory
        if not self._stays():
            response.force_close()
        body = self._application(environ, response.start_response)
        region: FileRegion | None = None
        try:
            if isinstance(body, FileRegion):
                response.send_headers()
                response.sent = body.left
            else:
                for piece in body:
                    response.write(piece)
                response.close()
            if start is not None:
                self._access_log.access(response, request, environ, datetime.now() - start)  # noqa: DTZ005  as above
            region = body if isinstance(body, FileRegion) else None
        finally:
            if region is None and hasattr(body, "close"):
                body.close()
        return Outgoing(output.answer(), region, keep=not response.should_close())


def _parse_refusal(error: ParseException) -> BadRequest:
    if isinstance(error, LimitRequestLine):
        return BadRequest(414, "malformed", "the request line is too long")
    if isinstance(error, LimitRequestHeaders):
        return BadRequest(431, "malformed", "there are too many headers, or one is too long")
    return BadRequest(400, "malformed", "this is not an HTTP request that is understood here")
