"""Simulated devices report what laptops would."""

from __future__ import annotations

import copy

import pytest

from penguindome import json
from penguindome.times import utc_now
from penguindome_server.compare import compare_plugins
from penguindome_tools.fleet.devices import Device


def test_a_seed_decides_what_is_reported() -> None:
    first, again, other = Device(3, 1), Device(3, 1), Device(3, 2)
    now = utc_now()
    assert first.next_report(now) == again.next_report(now)
    assert first.next_report(now) == again.next_report(now)
    assert first.next_report(now) != other.next_report(now)
    assert first.key.certificate.fingerprint != again.key.certificate.fingerprint


@pytest.mark.parametrize("number", range(20))
def test_a_report_has_the_size_of_a_laptops(number: int) -> None:
    assert 10_000 < len(json.dumps(Device(number, 9).next_report(utc_now()))) < 20_000


def test_a_list_of_packages_has_the_size_of_a_laptops() -> None:
    report = Device(1, 9, with_packages=True).next_report(utc_now())
    assert 120_000 < len(json.dumps(report["plugins"]["packages"])) < 180_000


@pytest.mark.parametrize("number", range(20))
def test_three_fields_or_more_change_from_report_to_report(number: int) -> None:
    device = Device(number, 9)
    before = copy.deepcopy(device.next_report(utc_now()))
    for _ in range(20):
        after = copy.deepcopy(device.next_report(utc_now()))
        changes = list(compare_plugins(before["plugins"], after["plugins"]))
        assert len(changes) >= 3
        assert after["sequence"] == before["sequence"] + 1
        before = after
