"""The yardstick: a Flask view that only reads a body and answers, under the server's own settings of gunicorn.

Run as `python -m penguindome_tools.bench.bare ANSWER_FILE`, with the settings root of the server that is measured.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import flask

from penguindome.paths import Paths
from penguindome_server.gunicorn_runner import Server, serve


class BareServer(Server):
    """The server's master and workers with another application in them."""

    def load(self) -> Any:
        """An application whose one view reads the body whole and answers with the file's contents as JSON."""
        answer = Path(sys.argv[1]).read_bytes()
        application = flask.Flask("bare")

        @application.post("/penguindome/v1/<endpoint>")
        def view(endpoint: str) -> flask.Response:
            del endpoint  # every endpoint answers the same
            flask.request.get_data(cache=False)
            return flask.Response(answer, mimetype="application/json")

        return application


if __name__ == "__main__":
    serve(Paths.from_environment(), BareServer)
