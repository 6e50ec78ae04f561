"""Fixtures that all tests share. What a test needs of the machine is asked for with `needs.require`.

A test marked `long` runs only in `make test-all`. Sockets reach loopback and unix addresses only (pytest-socket).
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import hypothesis.configuration
import pytest

from needs import require, testing_all
from penguindome.paths import ROOT_VARIABLE, Paths

if TYPE_CHECKING:
    from penguindome_server.store import Store
    from penguindome_tools.development.mongod import Deployment

# Examples are not timed: the machine may be busy. Where CI is set, hypothesis' own profile `ci` repeats the same ones.
hypothesis.configuration.set_hypothesis_home_dir(Path(__file__).parents[1] / ".cache/hypothesis")
hypothesis.settings.register_profile("penguindome", parent=hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("penguindome")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name tests after bytes by number: bytes that are made anew (gzip holds the time) differ between workers."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let workers report what tests printed, lone surrogates too, which xdist cannot send."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


# The server wants Python 3.11, the client 3.10: there, tests that look at the server are left out.
HAS_SERVER = sys.version_info >= (3, 11)
SERVER_WORDS = (b"penguindome_server", b"penguindome_tools", b"web_server")
SERVER_FIXTURES = {"mongod", "mongodb_uri", "sqlite_uri", "store_uri", "store", "sqlite_store"}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out files that name the server, or whose fixtures do, where it cannot run."""
    if HAS_SERVER or collection_path.suffix != ".py":
        return None
    fixtures = collection_path.with_name("conftest.py")
    contents = collection_path.read_bytes() + (fixtures.read_bytes() if fixtures.exists() else b"")
    return any(word in contents for word in SERVER_WORDS) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `long` (but not in `make test-all`), and what needs a server that cannot run here."""
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _is_left_out(item)]


def _is_left_out(item: pytest.Item) -> bool:
    if item.get_closest_marker("long") and not testing_all():
        return True
    return not HAS_SERVER and not SERVER_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own PenguinDome, keyring and Python settings are not part of any test."""
    for name in (ROOT_VARIABLE, "GNUPGHOME", "PYTHONWARNINGS", "PYTHONPATH", "RUST_BACKTRACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """The places of a machine, all below a root of the test's own."""
    root = tmp_path / "root"
    root.mkdir()
    return Paths(root)


@pytest.fixture(scope="session")
def mongod() -> Iterator[Deployment]:
    """A standalone mongod for the session (one for each worker of pytest-xdist)."""
    from penguindome_tools.development.mongod import locate, running_mongod

    require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    with running_mongod() as server:
        yield server


@pytest.fixture(scope="session")
def _mongo_client(mongod: Deployment) -> Iterator[Any]:
    from pymongo import MongoClient

    with MongoClient(mongod.uri()) as client:
        yield client


@pytest.fixture
def mongodb_uri(mongod: Deployment, _mongo_client: Any) -> Iterator[str]:
    """`database.uri` of an empty database, which is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield mongod.uri(name)
    _mongo_client.drop_database(name)


@pytest.fixture
def sqlite_uri(tmp_path: Path) -> str:
    """`database.uri` of an embedded store that is not there yet."""
    return f"sqlite://{tmp_path / 'store.sqlite'}"


@pytest.fixture(params=["sqlite", "mongodb"])
def store_uri(request: pytest.FixtureRequest) -> str:
    """`database.uri` of an empty store: once for each engine."""
    return str(request.getfixturevalue(f"{request.param}_uri"))


@pytest.fixture
def store(store_uri: str) -> Iterator[Store]:
    """An empty, open store: once for each engine."""
    yield from _open(store_uri)


@pytest.fixture
def sqlite_store(sqlite_uri: str) -> Iterator[Store]:
    """An empty, open store of the embedded engine, where the engine does not matter to the test."""
    yield from _open(sqlite_uri)


def _open(uri: str) -> Iterator[Store]:
    from penguindome_server.store import open_store

    opened = open_store(uri)
    yield opened
    opened.close()
