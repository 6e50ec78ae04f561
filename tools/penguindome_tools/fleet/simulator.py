"""Drives simulated devices against a real server: enrolment, reports, polls, failures, and the final count."""

from __future__ import annotations

import hashlib
import http.client
import json as standard_json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from penguindome import json
from penguindome.bundle import Bundle
from penguindome.errors import PenguinDomeError
from penguindome.openpgp import DeviceKey
from penguindome.times import isoformat, utc_now
from penguindome_server.store import Store
from penguindome_tools.fleet.connection import Answer, Connection, encode_form
from penguindome_tools.fleet.devices import Device

Request = Literal["submit", "update"]
Failure = Literal["cut-off", "unread", "forged"]
FAILURES: Sequence[Failure] = ("cut-off", "unread", "forged")


@dataclass(frozen=True)
class Plan:
    """What the fleet does: `seconds` of `request`s over `concurrency` connections that start within `ramp` seconds.

    `failure_odds` (0 to 1) is the probability that a request is cut off, its answer left unread, or its signature
    forged. `pre_signed` signs each device's poll once, before the clock starts (`update` only: reports carry a token
    that only the last answer tells).
    """

    bundle: Bundle
    seconds: float
    concurrency: int
    request: Request = "submit"
    ramp: float = 0.0
    failure_odds: float = 0.0
    pre_signed: bool = False
    seed: int = 0


@dataclass
class Tally:
    """What one or several connections saw. Latencies are seconds."""

    latencies: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    acknowledged: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add what another connection saw."""
        self.latencies += other.latencies
        self.outcomes += other.outcomes
        self.acknowledged += other.acknowledged


def signed(key: DeviceKey, data: Mapping[str, Any]) -> bytes:
    """The request body for `data`, stamped with the present time and signed by `key`."""
    # Not by penguindome.json, whose checks would make the simulator, on the same machine, the bottleneck.
    text = standard_json.dumps({**data, "sent_at": utc_now()}, default=isoformat, separators=(",", ":")).encode()
    return encode_form(data=text, signature=key.sign(text))


def enrol(devices: Iterable[Device], bundle: Bundle) -> None:
    """Enrol each device by a real request. Raises PenguinDomeError when the server does not enrol at once."""
    enrolment_key = DeviceKey.from_text(bundle.enrolment_key) if bundle.enrolment_key else None
    connection = Connection(bundle.server_url, bundle.ca_certificate)
    for device in devices:
        data = {
            "hostname": device.hostname,
            "request": "enroll",
            "machine_id": device.machine_id,
            "public_key": device.key.certificate.text,
            "sent_at": utc_now(),
            **({"token": bundle.token} if bundle.token else {}),
        }
        text = json.dumps(data).encode()
        device_signature = device.key.sign(text)
        signature = enrolment_key.sign(text) if enrolment_key else device_signature
        answer = connection.post(
            "enroll", encode_form(data=text, signature=signature, device_signature=device_signature)
        )
        if answer.body.get("status") != "enrolled":
            raise PenguinDomeError(
                f"{device.hostname} was not enrolled: {answer.status} {json.dumps(answer.body)}",
                hint="a simulated fleet wants enrolment.policy automatic for its address",
            )
        device.exchange_token = answer.body["exchange_token"]
    connection.close()


def learn_manifest(devices: Sequence[Device], bundle: Bundle) -> None:
    """Let one device ask for the manifest that all of them then say they hold, as a fleet does in its everyday."""
    connection = Connection(bundle.server_url, bundle.ca_certificate)
    answer = connection.post("update", signed(devices[0].key, poll(devices[0])))
    connection.close()
    manifest = answer.body.get("manifest")
    if manifest:
        digest = hashlib.sha256(manifest["text"].encode()).hexdigest()
        for device in devices:
            device.manifest_sha256 = digest


class Driver(threading.Thread):
    """One connection that works through its share of the devices until the time is up."""

    def __init__(self, plan: Plan, devices: Sequence[Device], *, start: float, number: int) -> None:
        super().__init__(daemon=True)
        self.plan = plan
        self.devices = devices
        self.begin_at = start
        self.end_at = start + plan.seconds
        self.tally = Tally()
        self.random = random.Random(f"{plan.seed}:driver:{number}")
        self.connection = Connection(plan.bundle.server_url, plan.bundle.ca_certificate)
        self.unanswered: dict[str, dict[str, Any]] = {}
        self.ready_made: dict[str, bytes] = {}
        if plan.pre_signed and plan.request == "update":
            self.ready_made = {device.hostname: signed(device.key, poll(device)) for device in devices}

    def run(self) -> None:
        """Work until the end of the plan; every outcome, failed connections too, goes into the tally."""
        time.sleep(max(0.0, self.begin_at - time.monotonic()))
        while time.monotonic() < self.end_at:
            for device in self.devices:
                if time.monotonic() >= self.end_at:
                    break
                self._one_request(device)
        self.connection.close()

    def _one_request(self, device: Device) -> None:
        data, body = self._body(device)
        if self.random.random() < self.plan.failure_odds:
            self._fail(device, data, body)
            return
        began = time.monotonic()
        try:
            answer = self.connection.post(self.plan.request, body)
        except (OSError, http.client.HTTPException) as error:
            self.tally.outcomes[type(error).__name__] += 1
            self.unanswered[device.hostname] = data
            return
        self.tally.latencies.append(time.monotonic() - began)
        self._take(device, data, answer)

    def _body(self, device: Device) -> tuple[dict[str, Any], bytes]:
        if self.plan.request == "update":
            data = poll(device)
            return data, self.ready_made.get(device.hostname) or signed(device.key, data)
        if device.hostname in self.unanswered:
            data = self.unanswered.pop(device.hostname)
        else:
            data = {**device.next_report(utc_now()), "exchange_token": device.exchange_token}
        return data, signed(device.key, data)

    def _take(self, device: Device, data: dict[str, Any], answer: Answer) -> None:
        if answer.status == 200:
            self.tally.outcomes["ok"] += 1
            if self.plan.request == "submit":
                device.exchange_token = answer.body["exchange_token"]
                self.tally.acknowledged.append(data["report_id"])
            return
        code = answer.body.get("error", {}).get("code", "no-json")
        self.tally.outcomes[f"{answer.status} {code}"] += 1
        self.unanswered[device.hostname] = data

    def _fail(self, device: Device, data: dict[str, Any], body: bytes) -> None:
        failure = self.random.choice(FAILURES)
        self.tally.outcomes[f"simulated {failure}"] += 1
        if self.plan.request == "submit":
            self.unanswered[device.hostname] = data
        try:
            if failure == "forged":
                answer = self.connection.post(self.plan.request, signed(_stranger(), data))
                if answer.status != 401:
                    self.tally.outcomes[f"forged request got {answer.status}"] += 1
            else:
                self.connection.post_and_hang_up(self.plan.request, body, half=failure == "cut-off")
        except (OSError, http.client.HTTPException) as error:
            self.tally.outcomes[f"{type(error).__name__} while failing on purpose"] += 1


_strangers: list[DeviceKey] = []


def _stranger() -> DeviceKey:
    if not _strangers:
        _strangers.append(DeviceKey.generate("stranger"))
    return _strangers[0]


def poll(device: Device) -> dict[str, Any]:
    """The `data` of an `update` request, without `sent_at`."""
    return {
        "hostname": device.hostname,
        "request": "update",
        "old_release": 0,
        "package_version": "0.1.0",
        "package_kind": "deb",
        "manifest_sha256": device.manifest_sha256,
    }


def drive(plan: Plan, devices: Sequence[Device]) -> Tally:
    """Run the plan over `devices` (already enrolled) and return what all connections saw together."""
    start = time.monotonic() + 0.2
    connections = min(plan.concurrency, len(devices))
    drivers = [
        Driver(plan, devices[n::connections], start=start + plan.ramp * n / connections, number=n)
        for n in range(connections)
    ]
    for driver in drivers:
        driver.start()
    total = Tally()
    for driver in drivers:
        driver.join()
        total.add(driver.tally)
    return total


def summary(tally: Tally, seconds: float) -> dict[str, Any]:
    """Requests per second, latency percentiles in milliseconds, and outcomes by kind."""
    ordered = sorted(tally.latencies)

    def percentile(share: float) -> float | None:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2) if ordered else None

    return {
        "requests_per_second": round(tally.outcomes["ok"] / seconds, 1),
        "p50_ms": percentile(0.5),
        "p95_ms": percentile(0.95),
        "p99_ms": percentile(0.99),
        "outcomes": dict(tally.outcomes),
    }


def missing_reports(tally: Tally, store: Store) -> list[str]:
    """The acknowledged report ids that the store knows nothing of: empty unless something was lost.

    A report shows in the audit trail (each has changes) or among the recent reports of its client.
    """
    known = {row["report_id"] for row in store.collection("audit_trail").find(fields=["report_id"])}
    for client in store.collection("clients").find(fields=["recent_reports"]):
        known.update(client.get("recent_reports") or [])
    return [report_id for report_id in tally.acknowledged if report_id not in known]
