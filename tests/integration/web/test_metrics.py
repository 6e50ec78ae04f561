"""The metrics: what they count, and who may read them."""

from __future__ import annotations

import re
import time

import pytest
import requests

from penguindome_server.passwords import password_context
from web_server import PREFIX, Device, Server, refused, until


def scrape(server: Server, **options: object) -> requests.Response:
    return requests.get(f"{server.url}{PREFIX}metrics", timeout=60, **options)  # type: ignore[arg-type]  # passed through


def value(server: Server, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} ([0-9.e+]+)$", scrape(server).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture
def device(shared_server: Server) -> Device:
    return shared_server.enrolled(f"host-{time.monotonic_ns()}")


def test_requests_of_all_workers_are_added_up(shared_server: Server, device: Device) -> None:
    sample = 'penguindome_requests_total{endpoint="update",status="200"}'
    before = value(shared_server, sample)
    for _ in range(30):
        assert device.update().status_code == 200
    assert value(shared_server, sample) == before + 30
    assert value(shared_server, 'penguindome_request_seconds_count{endpoint="update"}') >= 30


def test_reports_and_resends_and_refusals_are_counted_apart(shared_server: Server, device: Device) -> None:
    stored, resent = (
        value(shared_server, "penguindome_reports_stored_total"),
        value(shared_server, "penguindome_reports_resent_total"),
    )
    refusals = value(shared_server, 'penguindome_requests_total{endpoint="submit",status="401"}')
    document = device.report()
    device.send("submit", document)
    device.send("submit", document)
    device.send("submit", document, key=shared_server.enrolment_key)
    assert value(shared_server, "penguindome_reports_stored_total") == stored + 1
    assert value(shared_server, "penguindome_reports_resent_total") == resent + 1
    assert value(shared_server, 'penguindome_requests_total{endpoint="submit",status="401"}') == refusals + 1


def test_clients_by_state_and_the_store_are_told(shared_server: Server, device: Device) -> None:
    assert value(shared_server, "penguindome_store_up") == 1
    until(lambda: value(shared_server, 'penguindome_clients{state="enrolled"}') >= 1)


def test_only_addresses_or_passwords_of_the_settings_may_read(server: Server) -> None:
    hashed = password_context().hash("right")
    server.start(
        metrics__ipranges=["10.0.0.0/8"],
        metrics__passwords={"prometheus": hashed},
        workers=1,
        trusted_proxies=["127.0.0.1"],
    )
    answer = scrape(server)
    refused(answer, 401, "unauthorised")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    refused(scrape(server, auth=("prometheus", "wrong")), 401, "unauthorised")
    refused(scrape(server, auth=("nobody", "right")), 401, "unauthorised")
    assert scrape(server, headers={"X-Forwarded-For": "10.1.1.1"}).status_code == 200
    for _ in range(2):
        assert scrape(server, auth=("prometheus", "right")).status_code == 200
    assert "right" not in server.log()


def test_without_passwords_other_addresses_are_refused(server: Server) -> None:
    server.start(metrics__ipranges=["10.0.0.0/8"], workers=1)
    refused(scrape(server), 403, "not-allowed")
