"""A simulated fleet reports while things break: whatever was acknowledged is in the store, and is there once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from needs import require
from penguindome.bundle import Bundle
from penguindome.times import utc_now
from penguindome_server.store import Store, open_store
from penguindome_tools.development.mongod import Deployment, locate, running_mongod
from penguindome_tools.fleet.devices import Device
from penguindome_tools.fleet.simulator import Plan, Tally, drive, enrol, missing_reports
from web_server import Server, until

SECONDS = 6.0
DEVICES = 12
KILLS_IN_ALL_TESTS = 50


@pytest.fixture
def mongod_of_its_own(tmp_path: Path) -> Iterator[Deployment]:
    require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    with running_mongod(directory=tmp_path) as deployment:
        yield deployment


@pytest.fixture
def server(tmp_path: Path, store_uri: str) -> Iterator[Server]:
    yield from _serving(tmp_path, store_uri)


def _serving(tmp_path: Path, uri: str) -> Iterator[Server]:
    server = Server(tmp_path / "root", uri)
    try:
        yield server.start(enrolment__policy="automatic", workers=2)
    finally:
        server.kill()


def bundle_of(server: Server) -> Bundle:
    return Bundle(
        server_url=server.url,
        server_certificate=server.server_key.certificate.text,
        ca_certificate=None,
        enrolment_key=server.enrolment_key.text,
        token=None,
        created_at=utc_now(),
    )


def fleet_reports_while(server: Server, breaking: Callable[[], None], *, failure_odds: float = 0.1) -> Tally:
    """Let the fleet report for some seconds, with `breaking` called again and again beside it."""
    bundle = bundle_of(server)
    devices = [Device(number, 5) for number in range(DEVICES)]
    enrol(devices, bundle)
    plan = Plan(bundle=bundle, seconds=SECONDS, concurrency=6, failure_odds=failure_odds)
    pick = random.Random()
    # Trouble is made by this thread: what it starts would be killed by the kernel with a thread that ends.
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(drive, plan, devices)
        while not driving.done():
            wait([driving], timeout=pick.uniform(0.2, 1.5))
            breaking()
        return driving.result()


def assert_nothing_lost_or_doubled(store: Store, tally: Tally) -> None:
    assert len(tally.acknowledged) > DEVICES
    assert missing_reports(tally, store) == []
    rows = Counter((row["report_id"], row["path"]) for row in store.collection("audit_trail").find())
    assert [key for key, count in rows.items() if count > 1] == []
    clients = list(store.collection("clients").find())
    assert len(clients) == DEVICES
    for client in clients:
        recent = client["recent_reports"]
        assert len(set(recent)) == len(recent)
    open_issues = Counter(
        (issue["client_id"], issue["name"]) for issue in store.collection("issues").find({"state": "open"})
    )
    assert [key for key, count in open_issues.items() if count > 1] == []


@pytest.mark.timeout(120)
def test_workers_killed_under_load_lose_nothing(server: Server, store_uri: str) -> None:
    def kill_a_worker() -> None:
        workers = server.workers()
        if workers:
            os.kill(random.choice(workers), signal.SIGKILL)

    tally = fleet_reports_while(server, kill_a_worker)
    until(server.answers, what="answer of a new worker")
    store = open_store(store_uri)
    assert_nothing_lost_or_doubled(store, tally)
    assert store.check() == []
    store.close()


@pytest.mark.timeout(180)
def test_the_whole_server_killed_under_load_loses_nothing(server: Server, store_uri: str) -> None:
    def kill_and_start() -> None:
        assert server.process is not None
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        server.start()
        time.sleep(0.5)  # long enough to take reports before it is killed again

    tally = fleet_reports_while(server, kill_and_start)
    store = open_store(store_uri)
    assert_nothing_lost_or_doubled(store, tally)
    assert store.check() == []
    store.close()


@pytest.mark.timeout(180)
def test_mongod_killed_under_load_loses_nothing(tmp_path: Path, mongod_of_its_own: Deployment) -> None:
    member = mongod_of_its_own.members[0]

    def kill_and_start() -> None:
        member.kill()
        member.start()
        time.sleep(1.0)  # the server comes back to a database that was away within a second

    for server in _serving(tmp_path, mongod_of_its_own.uri("faults")):
        tally = fleet_reports_while(server, kill_and_start, failure_odds=0.0)
        assert set(tally.outcomes) & {"503 store-unavailable", "ok"}
        store = open_store(mongod_of_its_own.uri("faults"))
        assert_nothing_lost_or_doubled(store, tally)
        assert store.check() == []
        store.close()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_fifty_kills_of_workers_and_servers_lose_nothing(server: Server, store_uri: str) -> None:
    kills = 0
    total = Tally()

    def kill_something() -> None:
        nonlocal kills
        kills += 1
        if kills % 5:
            workers = server.workers()
            if workers:
                os.kill(random.choice(workers), signal.SIGKILL)
        else:
            assert server.process is not None
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
            server.start()

    bundle = bundle_of(server)
    devices = [Device(number, 5) for number in range(DEVICES)]
    enrol(devices, bundle)
    while kills < KILLS_IN_ALL_TESTS:
        plan = Plan(bundle=bundle, seconds=random.uniform(0.2, 1.0), concurrency=6)
        total.add(drive(plan, devices))
        kill_something()
    until(server.answers, what="answer of a new worker")
    store = open_store(store_uri)
    assert_nothing_lost_or_doubled(store, total)
    assert store.check() == []
    store.close()
