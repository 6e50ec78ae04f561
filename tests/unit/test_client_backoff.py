"""When the client tries again."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome.client import backoff

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


@given(st.integers(1, 500), st.text())
def test_a_delay_lies_between_half_of_and_the_whole_of_a_doubling_time_up_to_an_hour(failures: int, seed: str) -> None:
    whole = min(timedelta(minutes=2 ** min(failures - 1, 30)), timedelta(hours=1))
    assert whole / 2 <= backoff.delay(failures, seed) <= whole


def test_without_a_failure_there_is_no_delay() -> None:
    assert backoff.delay(0, "seed") == timedelta(0)


def test_clients_do_not_come_back_in_step_and_each_is_predictable() -> None:
    delays = [backoff.delay(6, f"client {number}") for number in range(200)]
    assert len(set(delays)) == 200
    assert delays == [backoff.delay(6, f"client {number}") for number in range(200)]


@pytest.mark.parametrize("asked", [-5, 0, 120, 3600, 1e9])
def test_what_the_server_asks_for_is_honoured_and_bounded(asked: float) -> None:
    delay = backoff.after_refusal(1, "seed", asked)
    assert delay >= min(timedelta(seconds=asked), timedelta(hours=1))
    assert delay <= timedelta(hours=1.25)


def test_a_waiting_client_asks_every_minute_at_first_and_every_quarter_of_an_hour_in_the_end() -> None:
    assert all(backoff.pending_delay(asked, "seed") == timedelta(0) for asked in range(1, 6))
    assert timedelta(minutes=7) < backoff.pending_delay(100, "seed") <= timedelta(minutes=15)


def test_a_waiting_time_from_a_clock_that_was_years_ahead_does_not_silence_the_client() -> None:
    assert backoff.is_over(NOW + timedelta(days=3650), NOW)
    assert not backoff.is_over(NOW + timedelta(minutes=50), NOW)
    assert backoff.is_over(NOW, NOW)
    assert backoff.is_over(None, NOW)


@given(st.text(), st.floats(0, 3600))
def test_the_place_in_a_spread_start_lies_within_it(seed: str, seconds: float) -> None:
    assert 0 <= backoff.spread(seed, seconds) <= seconds
