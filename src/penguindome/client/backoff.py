"""When to try again: doubling delays with a jitter that is different for each client and the same each time.

Without jitter a fleet that lost its server would come back in step; with a random one nothing could be foretold in
tests or explained to a person.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

FIRST = timedelta(minutes=1)
LONGEST = timedelta(hours=1)
LONGEST_WHILE_PENDING = timedelta(minutes=15)
# An administrator who sits there and approves should see the machine within its next minute.
EAGER_QUESTIONS = 5


def fraction(seed: str) -> float:
    """A number in [0, 1) that depends on nothing but `seed`."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:6], "big") / (1 << 48)


def delay(failures: int, seed: str, *, longest: timedelta = LONGEST) -> timedelta:
    """How long to wait after so many failures in a row: between half of and the whole of 1, 2, 4, ... minutes, up to
    `longest`.
    """
    if failures <= 0:
        return timedelta(0)
    whole = min(FIRST * (1 << min(failures - 1, 20)), longest)
    return whole * (0.5 + fraction(f"{seed}:{failures}") / 2)


def pending_delay(asked: int, seed: str) -> timedelta:
    """How long a client that waits for its approval leaves the server alone after its question number `asked`."""
    return delay(asked - EAGER_QUESTIONS, seed, longest=LONGEST_WHILE_PENDING)


def after_refusal(failures: int, seed: str, retry_after: float | None) -> timedelta:
    """The delay after a failure: at least what the server asked for (an hour at the most), spread so that not all come
    at once.
    """
    own = delay(failures, seed)
    if retry_after is None:
        return own
    asked = min(timedelta(seconds=max(retry_after, 0)), LONGEST)
    return max(own, asked * (1 + fraction(f"{seed}:{failures}:retry") / 4))


def is_over(not_before: datetime | None, now: datetime) -> bool:
    """Whether a waiting time has passed. One that lies further ahead than any delay is of a clock that was wrong, and
    over.
    """
    return not_before is None or now >= not_before or not_before - now > LONGEST * 1.25


def spread(seed: str, seconds: float) -> float:
    """This client's own place in a window of `seconds`."""
    return fraction(f"{seed}:spread") * seconds
