"""Business time: hours, weekdays, holidays, and days that are 23 or 25 hours long."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penguindome.errors import SettingsError
from penguindome_server.business_time import BusinessTime, from_settings

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = BusinessTime(BERLIN, (time(9), time(17)), range(5), holidays={date(2026, 12, 25)}, yearly_holidays={(1, 1)})
WHOLE_DAYS = BusinessTime(BERLIN)


def berlin(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=BERLIN)  # type: ignore[arg-type,misc]  # parts are year to minute


def test_only_working_hours_count() -> None:
    assert OFFICE.elapsed(berlin(2026, 11, 23, 8), berlin(2026, 11, 23, 10, 30)) == timedelta(hours=1.5)


def test_a_weekend_does_not_count() -> None:
    assert OFFICE.elapsed(berlin(2026, 11, 20, 16), berlin(2026, 11, 23, 10)) == timedelta(hours=2)


def test_holidays_do_not_count() -> None:
    assert OFFICE.elapsed(berlin(2026, 12, 24, 16), berlin(2026, 12, 28, 9, 30)) == timedelta(hours=1.5)
    assert OFFICE.elapsed(berlin(2025, 12, 31, 16), berlin(2026, 1, 2, 10)) == timedelta(hours=2)


def test_a_day_whose_clock_is_put_forward_has_23_hours() -> None:
    zone = BusinessTime(BERLIN, holidays={date(2000, 1, 1)})
    assert zone.elapsed(berlin(2026, 3, 29), berlin(2026, 3, 30)) == timedelta(hours=23)
    assert zone.elapsed(berlin(2026, 10, 25), berlin(2026, 10, 26)) == timedelta(hours=25)


def test_a_working_night_counts_the_hour_that_comes_twice_twice() -> None:
    night = BusinessTime(BERLIN, (time(1), time(4)))
    assert night.elapsed(berlin(2026, 10, 25), berlin(2026, 10, 26)) == timedelta(hours=4)
    assert night.elapsed(berlin(2026, 3, 29), berlin(2026, 3, 30)) == timedelta(hours=2)


def test_hours_that_the_clock_skips_do_not_go_backwards() -> None:
    skipped = BusinessTime(BERLIN, (time(2, 10), time(2, 50)))
    assert skipped.elapsed(berlin(2026, 3, 29), berlin(2026, 3, 30)) == timedelta(minutes=40)


def test_adding_a_working_day_on_friday_afternoon_ends_on_monday_afternoon() -> None:
    assert OFFICE.add(berlin(2026, 11, 20, 15), timedelta(hours=8)) == berlin(2026, 11, 23, 15)


def test_adding_from_a_weekend_begins_with_monday() -> None:
    assert OFFICE.add(berlin(2026, 11, 21, 12), timedelta(hours=1)) == berlin(2026, 11, 23, 10)


def test_without_rules_all_time_counts() -> None:
    moment = datetime(2026, 11, 23, 22, 30, tzinfo=timezone.utc)
    assert BusinessTime().is_all_time
    assert BusinessTime().elapsed(moment, moment + timedelta(days=400)) == timedelta(days=400)
    assert BusinessTime().add(moment, timedelta(days=1)) == moment + timedelta(days=1)


def test_times_far_from_now_do_not_crash() -> None:
    first, last = datetime(1, 1, 2, tzinfo=timezone.utc), datetime(9999, 12, 30, tzinfo=timezone.utc)
    assert OFFICE.elapsed(first, last) > timedelta(days=10_000)
    assert OFFICE.elapsed(last, first) == timedelta(0)
    with pytest.raises(ValueError, match="2200"):
        OFFICE.add(datetime(2199, 12, 1, tzinfo=timezone.utc), timedelta(days=10_000))


@pytest.mark.parametrize(
    "rules",
    [
        {"hours": (time(9), time(9))},
        {"hours": (time(17), time(9))},
        {"weekdays": ()},
        {"yearly_holidays": {(1 + day // 31, 1 + day % 31) for day in range(372)}},
    ],
)
def test_rules_that_leave_no_time_are_refused(rules: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="business"):
        BusinessTime(**rules)  # type: ignore[arg-type]  # wrong on purpose


MOMENTS = st.integers(0, 10 * 366 * 86_400 * 1000).map(
    lambda milliseconds: datetime(2020, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)
)
CALENDARS = st.builds(
    lambda zone, start, end, days, holidays: BusinessTime(
        ZoneInfo(zone), (time(start), time(end % 24)), days, frozenset(holidays)
    ),
    st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kolkata"]
    ),
    st.integers(0, 11),
    st.integers(12, 24),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.frozensets(st.dates(date(2020, 1, 1), date(2030, 1, 1)), max_size=5),
)


@given(CALENDARS, MOMENTS, MOMENTS, MOMENTS)
def test_time_passed_is_additive_and_never_more_than_ordinary_time(
    calendar: BusinessTime, one: datetime, two: datetime, three: datetime
) -> None:
    first, middle, last = sorted((one, two, three))
    whole = calendar.elapsed(first, last)
    assert timedelta(0) <= whole <= last - first
    assert calendar.elapsed(first, middle) + calendar.elapsed(middle, last) == whole


@given(CALENDARS, MOMENTS, st.timedeltas(timedelta(0), timedelta(days=40)))
def test_adding_gives_the_first_moment_at_which_that_much_has_passed(
    calendar: BusinessTime, since: datetime, duration: timedelta
) -> None:
    moment = calendar.add(since, duration)
    assert moment >= since
    assert calendar.elapsed(since, moment) == duration
    if duration:
        assert calendar.elapsed(since, moment - timedelta(microseconds=1)) < duration


@given(CALENDARS, MOMENTS, MOMENTS, st.timedeltas(timedelta(0), timedelta(days=40)))
def test_subtracting_tells_since_when_that_much_has_passed(
    calendar: BusinessTime, since: datetime, until: datetime, duration: timedelta
) -> None:
    limit = calendar.subtract(until, duration)
    assert limit <= until
    assert calendar.elapsed(limit, until) == duration
    if since <= until:
        assert (calendar.elapsed(since, until) >= duration) == (since <= limit)


def test_subtracting_more_than_there_is_ends_in_1970() -> None:
    assert OFFICE.subtract(berlin(2026, 11, 23, 12), timedelta(days=40_000)).year == 1970


@settings(max_examples=40)
@given(CALENDARS, MOMENTS, st.integers(1, 5))
def test_it_agrees_with_counting_quarters_of_an_hour(calendar: BusinessTime, since: datetime, days: int) -> None:
    since = since.replace(minute=0, second=0, microsecond=0)
    step, start, end = timedelta(minutes=15), calendar.hours[0], calendar.hours[1]
    counted = timedelta(0)
    for number in range(days * 96):
        local = (since + number * step).astimezone(calendar.timezone)
        if local.weekday() in calendar.weekdays and local.date() not in calendar.holidays:
            counted += step if local.time() >= start and (end == time(0) or local.time() < end) else timedelta(0)
    # Where the clock is put forward at midnight, a day begins at one o'clock; a day that ends then is the same by
    # either count.
    assert abs(calendar.elapsed(since, since + days * timedelta(days=1)) - counted) <= step


SETTINGS = {
    "business_time.timezone": "Europe/Berlin",
    "business_time.hours": ["09:00", "17:30"],
    "business_time.weekdays": ["mon", "Tuesday"],
    "business_time.holidays": ["2026-12-25", "05-01"],
}


def test_settings_become_business_time() -> None:
    calendar = from_settings(SETTINGS)
    assert calendar.hours == (time(9), time(17, 30))
    assert calendar.weekdays == {0, 1}
    assert calendar.holidays == {date(2026, 12, 25)}
    assert calendar.yearly_holidays == {(5, 1)}


def test_an_hour_that_yaml_reads_as_minutes_is_understood() -> None:
    assert from_settings({**SETTINGS, "business_time.hours": [540, 1050]}).hours == (time(9), time(17, 30))


def test_a_day_may_end_at_24_o_clock() -> None:
    assert from_settings({**SETTINGS, "business_time.hours": ["08:00", "24:00"]}).hours == (time(8), time(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timezone", "Europe/Bielefeld"),
        ("timezone", "../../etc/passwd"),
        ("hours", ["09:00"]),
        ("hours", ["9 o'clock", "17:00"]),
        ("hours", ["17:00", "09:00"]),
        ("weekdays", ["noday"]),
        ("weekdays", ["mo"]),
        ("holidays", ["2026-02-30"]),
        ("holidays", ["13-01"]),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match="business_time"):
        from_settings({**SETTINGS, f"business_time.{name}": value})
