"""The fleet simulator as its user starts it, against a real server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penguindome import json
from penguindome.bundle import Bundle
from penguindome.times import utc_now
from penguindome_server.store import open_store
from penguindome_tools.fleet.simulator import Tally, missing_reports
from web_server import Server


@pytest.fixture
def server(tmp_path: Path, store_uri: str) -> Iterator[Server]:
    server = Server(tmp_path / "root", store_uri)
    try:
        yield server.start(enrolment__policy="automatic")
    finally:
        server.kill()


@pytest.fixture
def bundle_file(server: Server, tmp_path: Path) -> Path:
    bundle = Bundle(
        server_url=server.url, server_certificate=server.server_key.certificate.text, ca_certificate=None,
        enrolment_key=server.enrolment_key.text, token=None, created_at=utc_now(),
    )  # fmt: skip
    file = tmp_path / "bundle.json"
    file.write_text(bundle.to_text())
    return file


def simulate(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penguindome_tools.fleet_simulator", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_acknowledged_report_is_found_in_the_store(bundle_file: Path, store_uri: str) -> None:
    done = simulate(
        "--bundle", bundle_file, "--clients", 5, "--seconds", 2, "--concurrency", 3, "--ramp", 0.5, "--seed", 7,
        "--failure-odds", 0.2, "--packages", "--store", store_uri,
    )  # fmt: skip
    found = figures(done)
    assert found["acknowledged"] == found["outcomes"]["ok"] > 5
    assert found["missing"] == []
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
    assert any(name.startswith("simulated") for name in found["outcomes"])
    assert not any("forged request got" in name for name in found["outcomes"])


def test_polls_signed_beforehand_are_answered(bundle_file: Path) -> None:
    done = simulate("--bundle", bundle_file, "--clients", 3, "--seconds", 1, "--request", "update", "--pre-signed")
    assert figures(done)["outcomes"].keys() == {"ok"}


def test_a_report_that_the_store_lost_is_missed(bundle_file: Path, store_uri: str) -> None:
    figures(simulate("--bundle", bundle_file, "--clients", 2, "--seconds", 1, "--store", store_uri))
    store = open_store(store_uri)
    (some, *_) = (row["report_id"] for row in store.collection("audit_trail").find())
    assert missing_reports(Tally(acknowledged=[some, "never-sent"]), store) == ["never-sent"]
    store.close()


def test_a_server_that_does_not_enrol_at_once_is_one_clear_line(tmp_path: Path, bundle_file: Path) -> None:
    bundle = Bundle.from_text(bundle_file.read_text())
    other = Server(tmp_path / "other", f"sqlite://{tmp_path / 'other.sqlite'}")
    try:
        other.start(enrolment__policy="approve")
        file = tmp_path / "other.json"
        file.write_text(
            Bundle(
                server_url=other.url, server_certificate=bundle.server_certificate, ca_certificate=None,
                enrolment_key=other.enrolment_key.text, token=None, created_at=utc_now(),
            ).to_text()
        )  # fmt: skip
        done = simulate("--bundle", file, "--clients", 1, "--seconds", 1)
    finally:
        other.kill()
    assert done.returncode == 1
    assert "enrolment.policy automatic" in done.stderr
    assert "Traceback" not in done.stderr
