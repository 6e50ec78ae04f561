"""Points in time and durations."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome import times

MOMENTS = st.datetimes(timezones=st.timezones()).filter(lambda moment: 1 < moment.year < 9999)


def test_now_is_aware_in_utc_and_in_whole_milliseconds() -> None:
    now = times.utc_now()
    assert now.tzinfo is timezone.utc
    assert now.microsecond % 1000 == 0


def test_a_moment_is_written_in_utc_with_three_digits() -> None:
    moment = datetime(2026, 11, 23, 23, 30, 0, 123_999, timezone(timedelta(hours=1)))
    assert times.isoformat(moment) == "2026-11-23T22:30:00.123Z"
    assert times.isoformat(datetime(2026, 1, 1, tzinfo=timezone.utc)) == "2026-01-01T00:00:00.000Z"


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(TypeError, match="no time zone"):
        times.isoformat(datetime(2026, 11, 23))  # noqa: DTZ001  # what is refused


@given(MOMENTS)
def test_what_is_written_is_read_as_the_same_millisecond(moment: datetime) -> None:
    assert times.parse_iso(times.isoformat(moment)) == times.to_milliseconds(moment)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23",
        "2026-11-23T22:30:00",
        "2026-11-23 22:30:00Z",
        "2026-13-23T22:30:00Z",
        "2026-11-23T25:30:00Z",
        "2026-11-23T22:30:60Z",
        "2026-11-23T22:30:00+24:00",
        "2026-11-23T22:30:00+01:60",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-11-23T22:30:00Z\n",
        "٢٠٢٦-11-23T22:30:00Z",
        "٢٠٢٦-11-23T22:30:00.123Z",
        "2026-W1-23T22:30:00.123Z",
        "2026-11-23T22:30:00.12xZ",
        "2026-11-23T24:30:00.123Z",
        "2026-11-23T22:30:00,123Z",
        "2026-11-23 22:30:00.123Z",
        "",
    ],
)
def test_what_is_no_moment_is_not_read_as_one(text: str) -> None:
    assert times.parse_iso(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("3h", 10_800), ("2d", 172_800), ("1w", 604_800), ("1h30m", 5400), (45, 45), ("0", 0)],
)
def test_durations_are_read(text: str | int, seconds: int) -> None:
    assert times.parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "x", "1y", "-1h", "1.5h", "h", "1h-", "999999999999w", -1, True, None, "٣h"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|hundred years"):
        times.parse_duration(text)  # type: ignore[arg-type]  # wrong types are the point


@given(st.integers(0, 10**9))
def test_a_duration_that_is_written_is_read_as_the_same(seconds: int) -> None:
    duration = timedelta(seconds=seconds)
    assert times.parse_duration(times.format_duration(duration)) == duration


def test_durations_are_written_short() -> None:
    texts = [times.format_duration(timedelta(seconds=seconds)) for seconds in (0, 90, 900, 5400, 604_800, 3661)]
    assert texts == ["0s", "1m30s", "15m", "90m", "1w", "1h1m1s"]
