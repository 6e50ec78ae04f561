"""Measurements for Prometheus, counted by each worker and added up over all of them when they are read.

With several workers the counts lie in files of one directory (PROMETHEUS_MULTIPROC_DIR, set before this module is
imported); without it, in this process. What can be looked up (clients by state, issues by severity) is looked up when
it is asked for, at most four times a minute.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter as Count
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from penguindome.errors import PenguinDomeError
from penguindome.logging import get_logger
from penguindome_server.enrolment import STATES
from penguindome_server.metrics_directory import DIRECTORY_VARIABLE, UNREADABLE
from penguindome_server.store import Store

log = get_logger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LOOK_SECONDS = 15.0
SEVERITIES = ("low", "medium", "high", "critical")
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one process."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "penguindome_requests", "Requests answered.", ["endpoint", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "penguindome_request_seconds",
            "Time from the whole request to its answer.",
            ["endpoint"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._reports = Counter("penguindome_reports_stored", "Reports stored.", registry=self._registry)
        self._duplicates = Counter(
            "penguindome_reports_resent", "Reports that were stored before.", registry=self._registry
        )
        self._store_errors = Counter(
            "penguindome_store_errors", "Requests for which the store was away.", registry=self._registry
        )
        self._downloads = Counter(
            "penguindome_downloads",
            "Requests for releases and repositories.",
            ["kind", "outcome"],
            registry=self._registry,
        )
        self._download_bytes = Counter(
            "penguindome_download_bytes", "Bytes sent of releases and repositories.", ["kind"], registry=self._registry
        )
        self._look = StoreLook(store)
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one request."""
        found = self._children.get((endpoint, status))
        if found is None:
            found = (self._requests.labels(endpoint, str(status)), self._seconds.labels(endpoint))
            self._children[endpoint, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def report_received(self, *, duplicate: bool) -> None:
        """Count one report that was acknowledged."""
        (self._duplicates if duplicate else self._reports).inc()

    def downloaded(self, kind: str, outcome: str, sent: int = 0) -> None:
        """Count one request for a file of a release or repository, and how many bytes of it were sent."""
        self._downloads.labels(kind, outcome).inc()
        if sent:
            self._download_bytes.labels(kind).inc(sent)

    def store_failed(self) -> None:
        """Count one request that the store could not serve."""
        self._store_errors.inc()

    def text(self) -> bytes:
        """All measurements of all workers, in Prometheus's text format."""
        registry = CollectorRegistry()
        registry.register(self._look)
        directory = os.environ.get(DIRECTORY_VARIABLE)
        if directory:
            MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]  # the library does not type it
            return _patiently(registry)
        return generate_latest(registry) + generate_latest(self._registry)


def _patiently(registry: CollectorRegistry) -> bytes:
    """The text of a registry whose files come and go while they are read, because workers begin and end."""
    for _attempt in range(3):
        try:
            return generate_latest(registry)
        except (FileNotFoundError, *UNREADABLE):
            time.sleep(0.05)
    return generate_latest(registry)


class StoreLook(Collector):
    """Gauges that are looked up in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._until = 0.0
        self._clients: dict[str, int] | None = None
        self._issues: dict[str, int] | None = None

    def describe(self) -> list[Metric]:
        """Nothing is looked up for the sake of names alone."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges; those that the store cannot tell now are left out."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._read()
                self._until = time.monotonic() + LOOK_SECONDS
            clients, issues = self._clients, self._issues
        up = GaugeMetricFamily("penguindome_store_up", "Whether the store answers.")
        up.add_metric([], 1 if clients is not None else 0)
        yield up
        yield from _gauges("penguindome_clients", "Clients by state.", "state", clients)
        yield from _gauges("penguindome_issues_open", "Open issues by severity.", "severity", issues)

    def _read(self) -> None:
        try:
            clients = self._store.collection("clients")
            self._clients = {state: clients.count({"state": state}) for state in STATES}
            found = self._store.collection("issues").find({"state": "open"}, fields=("severity",))
            counted = Count(str(issue.get("severity")) for issue in found)
            self._issues = {severity: counted.get(severity, 0) for severity in SEVERITIES}
        except PenguinDomeError as error:
            log.warning("the store cannot be looked at for metrics: {}", error)
            self._clients = self._issues = None


def _gauges(name: str, text: str, label: str, values: dict[str, int] | None) -> Iterator[Metric]:
    if values is None:
        return
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    yield family
