"""Points in time and durations. Every datetime of PenguinDome is aware, in UTC, with whole milliseconds."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

Clock = Callable[[], datetime]
"""What is handed to code that needs the time, so that a test can hand it another."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,12})([smhdw])", re.ASCII)
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
_MARKS = ("-", "-", "T", ":", ":", ".", "Z")
_LONGEST_SECONDS = 100 * 366 * 86_400


def to_milliseconds(moment: datetime) -> datetime:
    """The same moment in UTC, truncated to milliseconds. A naive datetime is a TypeError."""
    if moment.utcoffset() is None:
        raise TypeError(f"{moment!r} has no time zone")
    moment = moment.astimezone(timezone.utc)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def utc_now() -> datetime:
    """Now, in UTC, truncated to milliseconds: the clock of everything that is not a test."""
    now = datetime.now(timezone.utc)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def isoformat(moment: datetime) -> str:
    """`2026-11-23T22:30:00.123Z`: UTC, always three digits of milliseconds. A naive datetime is a TypeError."""
    if moment.tzinfo is not timezone.utc:
        moment = to_milliseconds(moment)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def parse_iso(text: str) -> datetime | None:
    """The moment that an ISO 8601 text with a time zone names (UTC, milliseconds), or None when it is anything else.

    Dates alone, and times without a zone, are not moments.
    """
    # What `isoformat` writes, a dozen times as fast: every stored document has dozens of them.
    if len(text) == 24 and (text[4], text[7], text[10], text[13], text[16], text[19], text[23]) == _MARKS:
        try:
            return datetime.fromisoformat(text[:-1]).replace(tzinfo=timezone.utc)
        except ValueError:
            return None
    found = _ISO.fullmatch(text)
    if not found:
        return None
    year, month, day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = found.groups()
    try:
        microsecond = int((fraction or "0")[:3].ljust(3, "0")) * 1000
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond, timezone.utc
        )
        if sign:
            offset = timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
            if int(zone_minutes) > 59 or offset >= timedelta(days=1):
                return None
            moment = moment - offset if sign == "+" else moment + offset
    except (ValueError, OverflowError):
        return None
    return moment


def parse_duration(value: str | int) -> timedelta:
    """A duration such as `90s`, `15m`, `3h`, `2d`, `1w` or `1h30m`; a bare number is seconds.

    Raises ValueError with a text for the person who wrote it.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{value!r} is not a duration (examples: 90s, 15m, 3h, 2d, 1w)")
    text = str(value).strip().replace(" ", "").lower()
    if text.isascii() and text.isdigit() and len(text) <= 12:
        seconds = int(text)
    else:
        parts = list(_DURATION.finditer(text))
        if not parts or "".join(part.group() for part in parts) != text:
            raise ValueError(f"{value!r} is not a duration (examples: 90s, 15m, 3h, 2d, 1w)")
        seconds = sum(int(part[1]) * _UNITS[part[2]] for part in parts)
    if seconds > _LONGEST_SECONDS:
        raise ValueError(f"{value!r} is longer than a hundred years")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads as this duration, in whole seconds: `15m`, `1h30m`, `0s`."""
    seconds = int(duration.total_seconds())
    if seconds < 0:
        return "-" + format_duration(-duration)
    for unit in ("w", "d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, seconds = divmod(seconds, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
