"""What becomes of outcomes that nobody foresaw, without a running server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from penguindome import json, logging
from penguindome_server.application import create_application
from penguindome_server.services import Services, load_configuration
from penguindome_server.store import Collection, StoreUnavailable
from published import publish
from web_server import PREFIX, Server

T = TypeVar("T")


class BrokenStore:
    """A store in which everything raises `error`."""

    uri = "broken"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def collection(self, name: str) -> Collection:
        raise self.error

    def together(self, work: Callable[[], T]) -> T:
        raise self.error

    def check(self) -> list[str]:
        raise self.error

    def ping(self) -> None:
        raise self.error

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "site", "sqlite:///nowhere")
    made.write_settings(logging__handler="none")
    yield made
    logging.reset()


def ask(server: Server, error: Exception, path: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    configuration = load_configuration(server.paths)
    logging.configure(configuration.settings, component="server", paths=server.paths)
    application = create_application(Services.of(configuration, BrokenStore(error)))
    answer = application.test_client().get(path)
    return answer.status_code, json.loads(answer.data), dict(answer.headers)


def test_what_nobody_foresaw_is_a_500_with_an_id_that_stands_in_the_log(server: Server) -> None:
    status, answer, _ = ask(server, RuntimeError("something secret"), f"{PREFIX}healthz")
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert "secret" not in json.dumps(answer)
    incident = answer["error"]["message"].rpartition(" ")[2]
    log = (server.paths.logs / "server/debug.log").read_text()
    assert incident in log
    assert "something secret" in log


def test_a_store_that_is_away_is_a_503_that_says_when_to_come_back(server: Server) -> None:
    status, answer, headers = ask(server, StoreUnavailable("at 192.0.2.1:27017"), f"{PREFIX}healthz")
    assert (status, answer["error"]["code"]) == (503, "store-unavailable")
    assert int(headers["Retry-After"]) > 0
    assert "192.0.2.1" not in json.dumps(answer)


def test_what_is_no_endpoint_is_left_to_flask_which_answers_in_json(server: Server) -> None:
    status, answer, _ = ask(server, RuntimeError("not asked"), "/nothing")
    assert (status, answer["error"]["code"]) == (404, "not-found")


def test_any_wsgi_server_can_serve_files_and_parts_of_them(server: Server) -> None:
    publish(server.paths.repository, 1, {"apt/pool/main/x.deb": bytes(range(200)) * 1000})
    application = create_application(Services.of(load_configuration(server.paths), BrokenStore(RuntimeError())))
    client, path = application.test_client(), f"{PREFIX}repo/apt/pool/main/x.deb"
    for method, headers, status, body in (
        ("GET", {}, 200, bytes(range(200)) * 1000),
        ("HEAD", {}, 200, b""),
        ("GET", {"Range": "bytes=5-9"}, 206, bytes(range(5, 10))),
    ):
        with client.open(path, method=method, headers=headers) as answer:
            assert (answer.status_code, answer.data) == (status, body)
    assert client.get(path.replace("x.deb", "..%2fx.deb")).status_code == 404
