"""What a client reports, what it gets back, and how much of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from penguindome.errors import InvalidData
from penguindome_server import packages
from penguindome_server.store import Document

MAX_AGE = timedelta(days=366)

_TYPES: Mapping[str, type] = {
    "report_id": str,
    "sequence": int,
    "hostname": str,
    "collected_at": datetime,
    "sent_at": datetime,
    "plugins": dict,
    "commands": dict,
}


@dataclass(frozen=True)
class Report:
    """A report, as its signature and its form have been checked. Raises InvalidData when a value is of another type,
    so that no object of JSON can reach a search as an operator.

    `size` is the bytes of JSON that it came as.
    """

    report_id: str
    sequence: int
    hostname: str
    collected_at: datetime
    sent_at: datetime
    plugins: dict[str, Any]
    commands: dict[str, Any]
    exchange_token: str | None
    size: int = 0

    def __post_init__(self) -> None:
        for name, expected in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, expected) or isinstance(value, bool):
                raise InvalidData(f"{name} is not of type {expected.__name__}")
        if not self.report_id or not self.hostname:
            raise InvalidData("report_id and hostname must not be empty")
        if self.exchange_token is not None and not isinstance(self.exchange_token, str):
            raise InvalidData("exchange_token is not of type str")
        if self.collected_at.utcoffset() is None or self.sent_at.utcoffset() is None:
            raise InvalidData("collected_at and sent_at need a time zone")

    @cached_property
    def package_list(self) -> Document | None:
        """The output of the plugin `packages`, if it is a list of packages."""
        output = self.plugins.get(packages.PLUGIN)
        return output if packages.is_list(output) else None

    @cached_property
    def package_digest(self) -> str | None:
        """The digest of that list; it costs most of a millisecond, once."""
        return None if self.package_list is None else packages.digest(self.package_list)

    def collected_by_our_clock(self, now: datetime) -> datetime:
        """When the data was collected, told by the server's clock: only the age, a difference of two times of one
        clock, is the client's word.

        Never later than `now`, and never more than a year before it.
        """
        age = min(max(self.sent_at - self.collected_at, timedelta(0)), MAX_AGE)
        return now - age


@dataclass(frozen=True)
class Receipt:
    """The answer to a report: the next exchange token. `duplicate` says that it had been received before, and nothing
    was stored.
    """

    exchange_token: str
    duplicate: bool


@dataclass(frozen=True)
class Limits:
    """How much a client may make the server keep: audit trail a day."""

    trail_bytes_per_day: int = 8 << 20
