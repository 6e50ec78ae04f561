"""Business time: the hours that count when a grace period runs out.

A site says in which time zone, hours and weekdays people work, and which days are holidays; elsewhere time stands
still. Working days are turned into intervals of UTC once, so that a change of daylight saving time is counted as
the hours that really passed: a working day from 00:00 to 24:00 has 23 or 25 hours then. A time that the clock skips
is read as if it had not been changed yet; of a time that comes twice, the first starts a day and the second ends
it.

Everything here is pure. Between 1970 and 2200 every instant has a position in business time; earlier and later ones
are taken for the ends of that span.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from functools import cached_property
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from penguindome.errors import SettingsError

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
FIRST_YEAR, LAST_YEAR = 1970, 2200

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_MIDNIGHT = time(0)


class Values(Protocol):
    """Settings, looked up by their full names."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True)
class _Intervals:
    """Working intervals of the years `first` to `last`, in microseconds since 1970; `before[i]` is the business time
    before interval i.
    """

    first: int
    last: int
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    before: tuple[int, ...]
    total: int


@dataclass(eq=False)
class BusinessTime:
    """A site's working hours. An `end` of 00:00 means midnight at the end of the day; without arguments all time
    counts.

    `holidays` holds dates; `yearly_holidays` pairs of month and day. Raises ValueError when no time at all would be
    left.
    """

    timezone: tzinfo = timezone.utc
    hours: tuple[time, time] = (_MIDNIGHT, _MIDNIGHT)
    weekdays: Collection[int] = frozenset(range(7))
    holidays: Collection[date] = frozenset()
    yearly_holidays: Collection[tuple[int, int]] = frozenset()
    _table: _Intervals | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        start, end = self.hours
        if end != _MIDNIGHT and end <= start:
            raise ValueError(f"business hours end at {end:%H:%M}, which is not after {start:%H:%M}")
        if not self.weekdays:
            raise ValueError("business time needs at least one weekday")
        if len(set(self.yearly_holidays)) >= 365:
            raise ValueError("business time needs at least one day that is no holiday")

    @cached_property
    def is_all_time(self) -> bool:
        """Whether every hour counts, so that business time is ordinary time."""
        whole_days = self.hours == (_MIDNIGHT, _MIDNIGHT) and set(self.weekdays) >= set(range(7))
        return whole_days and not self.holidays and not self.yearly_holidays

    def elapsed(self, since: datetime, until: datetime) -> timedelta:
        """How much business time passed from `since` to `until` (both aware); zero when `until` is not later."""
        if until <= since:
            return timedelta(0)
        if self.is_all_time:
            return until - since
        first, last = _instant(since), _instant(until)
        table = self._covering(since.year, until.year)
        return timedelta(microseconds=_position(table, last) - _position(table, first))

    def add(self, since: datetime, duration: timedelta) -> datetime:
        """The earliest moment (UTC) at which `duration` of business time has passed since `since`.

        `since` itself when `duration` is not positive. Raises ValueError when that moment would lie past the year 2200.
        """
        start = since.astimezone(timezone.utc)
        if duration <= timedelta(0):
            return start
        if self.is_all_time:
            return start + duration
        last_year = start.year
        while True:
            table = self._covering(start.year, last_year)
            target = _position(table, _instant(start)) + duration // _MICROSECOND
            if target <= table.total:
                index = bisect_left(table.before, target) - 1
                return _EPOCH + timedelta(microseconds=table.starts[index] + target - table.before[index])
            if table.last >= LAST_YEAR:
                raise ValueError(f"no {duration} of business time are left before the year {LAST_YEAR}")
            last_year = table.last + 1

    def subtract(self, until: datetime, duration: timedelta) -> datetime:
        """The latest moment (UTC) since which `duration` of business time has passed at `until`.

        So `elapsed(since, until) >= duration` is `since <= subtract(until, duration)`: quicker for many `since`.
        Not before 1970.
        """
        end = until.astimezone(timezone.utc)
        if duration <= timedelta(0) or self.is_all_time:
            return end - max(duration, timedelta(0))
        first_year = end.year
        while True:
            table = self._covering(first_year, end.year)
            target = _position(table, _instant(end)) - duration // _MICROSECOND
            if target >= 0:
                index = bisect_right(table.before, target) - 1
                return _EPOCH + timedelta(microseconds=table.starts[index] + target - table.before[index])
            if table.first <= FIRST_YEAR:
                return _EPOCH
            first_year = table.first - 1

    def _covering(self, first_year: int, last_year: int) -> _Intervals:
        """The table, widened if needed so that it covers these years with one to spare on both sides (local dates
        differ from UTC).
        """
        first = max(FIRST_YEAR, first_year - 1)
        last = min(LAST_YEAR, max(last_year + 1, first))
        table = self._table
        if table is None or first < table.first or last > table.last:
            if table is not None:
                first, last = min(first, table.first), max(last, table.last)
            # Readers in other threads go on with the table that they hold.
            table = self._table = self._build(min(first, LAST_YEAR), last)
        return table

    def _build(self, first: int, last: int) -> _Intervals:
        starts: list[int] = []
        ends: list[int] = []
        before: list[int] = []
        total = 0
        day, stop = date(first, 1, 1), date(last, 12, 31)
        while day <= stop:
            if self._is_working_day(day):
                start, end = self._interval(day)
                if ends:
                    start = max(start, ends[-1])
                if end > start:
                    starts.append(start)
                    ends.append(end)
                    before.append(total)
                    total += end - start
            day += timedelta(days=1)
        return _Intervals(first, last, tuple(starts), tuple(ends), tuple(before), total)

    def _is_working_day(self, day: date) -> bool:
        return (
            day.weekday() in self.weekdays
            and day not in self.holidays
            and (day.month, day.day) not in self.yearly_holidays
        )

    def _interval(self, day: date) -> tuple[int, int]:
        start, end = self.hours
        began = datetime.combine(day, start, tzinfo=self.timezone)
        if end == _MIDNIGHT:
            ended = datetime.combine(day + timedelta(days=1), end, tzinfo=self.timezone)
        else:
            ended = datetime.combine(day, end, tzinfo=self.timezone)
            if not _is_skipped(ended):
                ended = ended.replace(fold=1)
        return _instant(began), _instant(ended)


def from_settings(settings: Values) -> BusinessTime:
    """Business time from the settings `business_time.timezone`, `.hours`, `.weekdays` and `.holidays`.

    `hours` is a pair such as `["09:00", "17:30"]` (`["00:00", "24:00"]` for whole days); `weekdays` are English
    names, at least three letters of each; `holidays` are `2026-12-25`, or `12-25` for every year. Raises
    SettingsError that names the setting.
    """
    name = settings["business_time.timezone"]
    try:
        zone = ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise SettingsError(
            f"business_time.timezone: there is no time zone {name!r}", hint="use a name such as Europe/Berlin"
        ) from error
    once, yearly = _parse_holidays(settings["business_time.holidays"])
    hours = _parse_hours(settings["business_time.hours"])
    weekdays = frozenset(_parse_weekday(str(day)) for day in settings["business_time.weekdays"])
    try:
        return BusinessTime(zone, hours, weekdays, once, yearly)
    except ValueError as error:
        raise SettingsError(f"business_time: {error}") from error


def _parse_hours(pair: Sequence[Any]) -> tuple[time, time]:
    try:
        start, end = pair
        return _parse_time(start), _MIDNIGHT if str(end) in ("24:00", "1440") else _parse_time(end)
    except ValueError as error:
        raise SettingsError(f"business_time.hours: {pair!r} is not like [09:00, 17:30]") from error


def _parse_time(value: Any) -> time:
    if isinstance(value, int) and 0 <= value < 24 * 60:
        # YAML 1.1 reads an unquoted 17:30 as a number to base 60: minutes.
        return time(value // 60, value % 60)
    return time.fromisoformat(str(value).strip())


def _parse_weekday(name: str) -> int:
    matches = [number for number, full in enumerate(WEEKDAYS) if len(name) >= 3 and full.startswith(name.lower())]
    if not matches:
        raise SettingsError(f"business_time.weekdays: {name!r} is no weekday", hint="use names such as monday or mon")
    return matches[0]


def _parse_holidays(days: Iterable[Any]) -> tuple[frozenset[date], frozenset[tuple[int, int]]]:
    once: set[date] = set()
    yearly: set[tuple[int, int]] = set()
    for text in map(str, days):
        try:
            if text.count("-") == 1:
                # 2000 was a leap year, so that 02-29 is a day too.
                day = date.fromisoformat(f"2000-{text}")
                yearly.add((day.month, day.day))
            else:
                once.add(date.fromisoformat(text))
        except ValueError as error:
            raise SettingsError(f"business_time.holidays: {text!r} is not like 2026-12-25 or 12-25") from error
    return frozenset(once), frozenset(yearly)


def _is_skipped(moment: datetime) -> bool:
    """Whether the clock skips this local time: it does not survive the way to UTC and back."""
    back = moment.astimezone(timezone.utc).astimezone(moment.tzinfo)
    return back.replace(tzinfo=None) != moment.replace(tzinfo=None)


def _instant(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def _position(table: _Intervals, instant: int) -> int:
    """The business time from the beginning of the table to `instant`, in microseconds."""
    index = bisect_right(table.starts, instant) - 1
    if index < 0:
        return 0
    return table.before[index] + min(instant, table.ends[index]) - table.starts[index]
