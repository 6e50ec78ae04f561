"""The times of a published apt index: when it was signed, and until when apt believes it.

They are read from the published file itself (`InRelease`): whatever else the server remembers, that is what the clients
are served. Who signed it is for its readers to judge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path

from penguindome.errors import InvalidData
from penguindome.files import read_limited

LARGEST = 1 << 20
IN_RELEASE = "apt/dists/stable/InRelease"
"""Where the index lies in a publication."""

_FIELD = re.compile(r"^(Date|Valid-Until): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class IndexTimes:
    """When an index was signed, and when it expires."""

    signed_at: datetime
    expires_at: datetime


def index_times(publication: Path) -> IndexTimes | None:
    """The times of the index of this publication (`repo/current`); None when there is none.

    Raises InvalidData for what is no such index, OSError when it cannot be read.
    """
    path = publication / IN_RELEASE
    try:
        text = read_limited(path, LARGEST).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    found = dict(_FIELD.findall(text))
    try:
        signed_at, expires_at = (parsedate_to_datetime(found[name]) for name in ("Date", "Valid-Until"))
    except (KeyError, ValueError) as error:
        raise InvalidData(f"{path} does not say from when until when it is valid") from error
    if signed_at.tzinfo is None or expires_at.tzinfo is None:
        raise InvalidData(f"{path} has a date without a time zone")
    return IndexTimes(signed_at.astimezone(timezone.utc), expires_at.astimezone(timezone.utc))


def date_text(moment: datetime) -> str:
    """A date as apt's indices have it, in whole seconds."""
    return format_datetime(moment.astimezone(timezone.utc).replace(microsecond=0), usegmt=True).replace("GMT", "UTC")
