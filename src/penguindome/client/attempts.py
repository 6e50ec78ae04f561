"""When an accepted action is begun, and what its end means. Pure.

A command is tried until it exits 0, its attempts are used up or it expires. A wipe that left something is tried twice
more; one that was interrupted goes on, however often that happens.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from penguindome.client import backoff
from penguindome.client.action_records import Record

WIPE_ATTEMPTS = 3
INTERRUPTED = "it was interrupted: the machine went down, or the process was killed"


def is_due(record: Record, now: datetime) -> bool:
    """Whether it may be begun now."""
    return not record.is_final and not record.running and backoff.is_over(record.not_before_at, now)


def has_expired(record: Record, newest_signed_at: datetime | None) -> bool:
    """Whether its time is over for good: the newest signed time says so, and not just a clock that may be set right."""
    return record.expires_at is not None and newest_signed_at is not None and newest_signed_at >= record.expires_at


def begin(record: Record) -> None:
    """An attempt begins: on disk before anything is done, so that its end, or that it had none, is known."""
    record.attempt += 1
    record.running = True


def end(record: Record, *, now: datetime, seed: str, reason: str | None, **details: Any) -> None:
    """An attempt ended: successfully when there is no `reason`. `details` go into the result."""
    record.running = False
    record.not_before_at = None
    limit = WIPE_ATTEMPTS if record.kind == "wipe" else record.attempts
    if reason is None:
        status = "done"
    elif limit is not None and record.attempt >= limit:
        status = "failed"
    else:
        status = "trying"
        record.not_before_at = now + backoff.delay(record.attempt, f"{seed}:{record.id}")
    record.conclude(status, reason, attempt=record.attempt, finished_at=now, **details)


def note_interrupted(record: Record, *, now: datetime, seed: str) -> None:
    """An attempt was begun, and nobody is at it any more."""
    if record.kind == "wipe":
        record.running = False
        record.attempt -= 1
        return
    end(record, now=now, seed=seed, reason=INTERRUPTED, exit_status=None, output="", error="", truncated=False)


def expire(record: Record, now: datetime) -> None:
    """It is over. The last attempt's output stays in the result."""
    last = {} if record.result is None else dict(record.result)
    before = f"; the last time: {last['reason']}" if last.get("reason") else ""
    times = f"{record.attempt} attempt{'' if record.attempt == 1 else 's'}"
    last.update({"status": "failed", "reason": f"it expired after {times}{before}", "attempt": record.attempt})
    record.result = {"finished_at": now, **last}
    record.acknowledged = False
