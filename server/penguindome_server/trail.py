"""The audit trail: one row for each change of what a client reported, with the value before and after.

Values are kept whole up to 64 kB of JSON; of a longer one the row has `{"sha256", "bytes", "shortened": true}`
instead. A row that has no old (or new) value has null there; `change` tells that apart from a reported null.

What one client may write in a day, and with one report, is limited. Rows beyond that are left out; the data itself
is stored, and one row a day with the path `trail` and the change `truncated` says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penguindome import json
from penguindome.times import isoformat
from penguindome_server.compare import Change
from penguindome_server.store import Document

LONGEST_VALUE = 64 * 1024
LONGEST_REPORT = 512 * 1024
ROW_OVERHEAD = 256
TRUNCATED = "truncated"


@dataclass(frozen=True)
class Limited:
    """The rows that may be written, and the client's account (`{"day", "bytes", "truncated"}`) after them."""

    rows: list[Document]
    account: Document


def limited(changes: Iterable[Change], account: Document | None, *, now: datetime, bytes_per_day: int) -> Limited:
    """The rows for these changes, as many as the day's account and the limit of one report allow."""
    day = now.date().isoformat()
    if not account or account.get("day") != day:
        account = {"day": day, "bytes": 0, "truncated": False}
    room = min(bytes_per_day - account["bytes"], LONGEST_REPORT)
    rows: list[Document] = []
    used = dropped = 0
    for change in changes:
        row, size = _row(change)
        if dropped or used + size > room:
            dropped += 1
        else:
            rows.append(row)
            used += size
    truncated = bool(account.get("truncated"))
    if dropped and not truncated:
        rows.append({"path": "trail", "change": TRUNCATED, "old": None, "new": {"rows_left_out": dropped}})
    if not used and not dropped:
        return Limited(rows, account)
    return Limited(rows, {"day": day, "bytes": account["bytes"] + used, "truncated": truncated or dropped > 0})


def documents(outbox: Document, client_id: str) -> list[Document]:
    """The rows of an outbox as documents, whose ids are the same whenever this is asked for the same outbox.

    Ids are made of the server's count of the client's reports, too: a `report_id` is chosen by a client, and must
    not hide the rows of another report.
    """
    cause = f"{client_id}:{outbox['generation']}:{outbox['report_id']}".encode()
    key = hashlib.blake2b(cause, digest_size=12).hexdigest()
    common = {name: outbox[name] for name in ("hostname", "report_id", "sequence", "received_at", "collected_at")}
    return [
        {"_id": f"{key}:{number}", "client_id": client_id, **common, **row}
        for number, row in enumerate(outbox["trail"])
    ]


def _row(change: Change) -> tuple[Document, int]:
    old, old_size = _value(change.old)
    new, new_size = _value(change.new)
    row = {"path": change.path, "change": change.kind, "old": old, "new": new}
    return row, ROW_OVERHEAD + len(change.path) + old_size + new_size


def _value(value: Any) -> tuple[Any, int]:
    """What is kept of a value, and its size in bytes."""
    if value is None or isinstance(value, (bool, int, float)):
        return value, 8
    if isinstance(value, datetime):
        # `old` and `new` are no keys for dates.
        return isoformat(value), 24
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= LONGEST_VALUE:
        return value, len(text)
    return _digest(text), 128


def shortened(value: Any) -> Document:
    """What stands for a value that is too long to keep."""
    return _digest(value if isinstance(value, str) else json.dumps(value))


def _digest(text: str) -> Document:
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return {"sha256": digest, "bytes": len(text), "shortened": True}
