"""Servers for the tests of the web: shared by a module, once for each engine, or a test's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from web_server import Server


@pytest.fixture(params=["sqlite", "mongodb"], scope="module")
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that enrols automatically, for all tests of a module: once for each engine. Tests leave it working."""
    root = tmp_path_factory.mktemp("site")
    if request.param == "sqlite":
        uri = f"sqlite://{root}/var/lib/penguindome/server/store.sqlite"
    else:
        uri = request.getfixturevalue("mongod").uri(f"web_{uuid.uuid4().hex[:12]}")
    server = Server(root, uri)
    try:
        yield server.start(enrolment__policy="automatic", enrolment__automatic_ranges=["127.0.0.0/8"])
    finally:
        server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, not started, with the embedded store."""
    root = tmp_path / "site"
    made = Server(root, f"sqlite://{root}/var/lib/penguindome/server/store.sqlite")
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def any_server(store_uri: str, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, not started: once for each engine."""
    made = Server(tmp_path / "site", store_uri)
    try:
        yield made
    finally:
        made.kill()
