"""A database that is away: 503 with Retry-After, soon, and everything works again by itself once it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from needs import require
from penguindome_tools.development.mongod import Mongod, locate, running_mongod
from web_server import PREFIX, Device, Server, refused, until


@pytest.fixture
def database() -> Iterator[tuple[Mongod, str]]:
    """A mongod of the test's own, and the `database.uri` of a database on it."""
    require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    with running_mongod() as deployment:
        yield deployment.members[0], deployment.uri("away")


def start(tmp_path: Path, uri: str) -> Server:
    return Server(tmp_path / "site", uri).start(enrolment__policy="automatic", workers=1)


def healthz(server: Server) -> requests.Response:
    return requests.get(f"{server.url}{PREFIX}healthz", timeout=30)


def assert_away(device: Device) -> None:
    """Reports and the health check are refused, within the time that a client waits."""
    start_time = time.monotonic()
    answer = device.send("submit", device.report())
    refused(answer, 503, "store-unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    refused(healthz(device.server), 503, "store-unavailable")
    assert time.monotonic() - start_time < 20


def test_a_database_that_went_away_comes_back(database: tuple[Mongod, str], tmp_path: Path) -> None:
    mongod, uri = database
    server = start(tmp_path, uri)
    try:
        device = server.enrolled()
        assert device.submit().status_code == 200
        mongod.kill()
        until(lambda: device.update().status_code == 503, seconds=30, what="refusal of a poll")
        assert_away(device)
        mongod.start()
        until(lambda: healthz(server).status_code == 200, seconds=30, what="recovery")
        assert device.submit().status_code == 200
        assert device.update().status_code == 200
        assert "Traceback" not in server.log()
    finally:
        server.kill()


def test_a_database_that_hangs_is_noticed(database: tuple[Mongod, str], tmp_path: Path) -> None:
    mongod, uri = database
    server = start(tmp_path, uri)
    try:
        device = server.enrolled()
        mongod.pause()
        until(lambda: device.send("submit", device.report()).status_code == 503, seconds=60, what="refusal of a report")
        mongod.resume()
        until(lambda: device.submit().status_code == 200, seconds=60, what="recovery")
    finally:
        mongod.resume()
        server.kill()


def test_a_server_starts_before_its_database(database: tuple[Mongod, str], tmp_path: Path) -> None:
    mongod, uri = database
    mongod.kill()
    server = start(tmp_path, uri)
    try:
        assert_away(server.device())
        mongod.start()
        until(lambda: healthz(server).status_code == 200, seconds=30, what="recovery")
        assert server.enrolled().submit().status_code == 200
    finally:
        server.kill()
