"""Requests per second and latency of `update` and `submit`, beside a bare view under the same settings of gunicorn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.bundle import Bundle
from penguindome.settings import write_fragment
from penguindome_server.store import open_store
from penguindome_tools.fleet.connection import Connection
from penguindome_tools.fleet.devices import Device
from penguindome_tools.fleet.simulator import (
    Plan,
    Request,
    Tally,
    drive,
    enrol,
    learn_manifest,
    missing_reports,
    poll,
    signed,
    summary,
)
from penguindome_tools.scratch_site import ScratchSite, free_port

CLIENTS = 200
CONCURRENCIES = (8, 32)
_fleets = itertools.count(1)


def prepare_site(root: Path, database: str | None, *, tls: bool = False) -> ScratchSite:
    """A scratch site as packages would set it up, but for its enrolment policy: the fleet enrols at once."""
    site = ScratchSite(root)
    site.install_plugins()
    port = free_port()
    words = ["penguindome", "setup", "--address", "127.0.0.1", "--port", str(port)]
    words += ["--url", f"{'https' if tls else 'http'}://localhost:{port}", *(["--self-signed"] if tls else [])]
    words += ["--enrolment-policy", "automatic", *(["--database", database] if database else [])]
    site.command(*words)
    values = {"enrolment.automatic_ranges": ["127.0.0.0/8", "::1/128"]}
    write_fragment(site.paths.settings / "server.d/20-bench.yml", values, mode=0o640)
    return site


def export_bundle(site: ScratchSite) -> Bundle:
    """The bundle of the site's server."""
    return Bundle.from_text(site.command("penguindome", "enrolment", "export", "-"))


def fleet(bundle: Bundle, clients: int = CLIENTS) -> list[Device]:
    """So many enrolled devices that each have reported once: first reports are another matter than everyday ones."""
    devices = [Device(number, next(_fleets)) for number in range(clients)]
    enrol(devices, bundle)
    learn_manifest(devices, bundle)
    drive(Plan(bundle=bundle, seconds=clients / 40, concurrency=4), devices)
    return devices


def measure(bundle: Bundle, devices: Sequence[Device], request: Request, concurrency: int, seconds: float) -> Tally:
    """One measurement: `seconds` of one kind of request over so many connections."""
    plan = Plan(bundle=bundle, seconds=seconds, concurrency=concurrency, request=request, pre_signed=True)
    return drive(plan, devices)


def measure_server(site: ScratchSite, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each request and concurrency from the real server; then every acknowledged report is looked up."""
    acknowledged = Tally()
    with site.server():
        bundle = export_bundle(site)
        devices = fleet(bundle)
        for request, concurrency in itertools.product(("update", "submit"), CONCURRENCIES):
            tally = measure(bundle, devices, "update" if request == "update" else "submit", concurrency, seconds)
            acknowledged.add(tally)
            yield {"request": request, "concurrency": concurrency, **summary(tally, seconds)}
    from penguindome_server.settings import load_server_settings

    store = open_store(load_server_settings(site.paths)["database.uri"])
    missing = missing_reports(acknowledged, store)
    store.close()
    yield {"acknowledged": len(acknowledged.acknowledged), "missing": len(missing)}


@contextmanager
def bare_server(site: ScratchSite, request: Request, device: Device, bundle: Bundle) -> Iterator[None]:
    """The bare view, answering what the real server answered to the same request."""
    answer_file = site.paths.root / f"answer-{request}.json"
    with site.server():
        connection = Connection(bundle.server_url, bundle.ca_certificate)
        answer = connection.post(request, signed(device.key, body_of(device, request)))
        connection.close()
    answer_file.write_text(json.dumps(answer.body))
    with site.server("penguindome_tools.bench.bare", str(answer_file)):
        yield


def body_of(device: Device, request: Request) -> dict[str, Any]:
    """The `data` of the next request of `device`."""
    from penguindome.times import utc_now

    if request == "update":
        return poll(device)
    return {**device.next_report(utc_now()), "exchange_token": device.exchange_token}


def measure_bare(site: ScratchSite, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each request and concurrency, from the bare view."""
    with site.server():
        bundle = export_bundle(site)
        devices = fleet(bundle, 32)
    for request in ("update", "submit"):
        kind: Request = "update" if request == "update" else "submit"
        with bare_server(site, kind, devices[0], bundle):
            for concurrency in CONCURRENCIES:
                tally = measure_bare_once(bundle, devices, kind, concurrency, seconds)
                yield {"request": request, "concurrency": concurrency, **summary(tally, seconds)}


def measure_bare_once(
    bundle: Bundle, devices: Sequence[Device], kind: Request, concurrency: int, seconds: float
) -> Tally:
    """The same load as on the real server, made and signed in the same way."""
    return drive(Plan(bundle=bundle, seconds=seconds, concurrency=concurrency, request=kind, pre_signed=True), devices)
