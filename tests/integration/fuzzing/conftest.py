"""One server of each engine for all hostile requests. Tests leave it working."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile_requests import Target
from penguindome_server.passwords import password_context
from published import publish, release
from web_server import Server

SETTINGS = {
    "enrolment__policy": "automatic",
    "enrolment__automatic_ranges": ["127.0.0.0/8"],
    "metrics__ipranges": ["10.0.0.0/8"],
}
PUBLISHED = {"apt/dists/stable/InRelease": bytes(range(256)) * 4, "arch/penguindome.db": b"db"}


def _target(root: Path, uri: str) -> Iterator[Target]:
    server = Server(root, uri)
    passwords = {"prometheus": password_context().hash("right")}
    try:
        tree = publish(server.paths.repository, 1, PUBLISHED)
        (tree / "apt/link").symlink_to("/etc/passwd")
        (tree / "apt/up").symlink_to("../../..")
        (tree / "apt/device").symlink_to("/dev/zero")
        (server.paths.repository / "secret").write_text("secret")
        server.start(metrics__passwords=passwords, **SETTINGS)
        release(server, 1)
        yield Target(server, server.enrolled("good"))
    finally:
        server.kill()


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with the embedded store."""
    root = tmp_path_factory.mktemp("fuzzed")
    yield from _target(root, f"sqlite://{root}/store.sqlite")


@pytest.fixture(scope="session")
def mongodb_target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with MongoDB."""
    uri = request.getfixturevalue("mongod").uri(f"fuzzed_{uuid.uuid4().hex[:12]}")
    yield from _target(tmp_path_factory.mktemp("fuzzed"), uri)


@pytest.fixture(params=["target", "mongodb_target"])
def any_target(request: pytest.FixtureRequest) -> Target:
    """Once for each engine."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Target)
    return found
