"""Rows of the audit trail: values, and limits."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from penguindome_server.compare import Change
from penguindome_server.trail import LONGEST_REPORT, LONGEST_VALUE, documents, limited

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
MANY = 10_000_000


def rows(*changes: Change, account: Any = None, cap: int = MANY) -> Any:
    return limited(changes, account, now=NOW, bytes_per_day=cap)


def test_values_are_kept_whole() -> None:
    value = {"a": [1, None, True], "read_at": NOW}
    assert rows(Change("p", "changed", value, {})).rows == [{"path": "p", "change": "changed", "old": value, "new": {}}]


def test_a_very_long_value_is_told_by_digest_and_length() -> None:
    (row,) = rows(Change("p", "changed", "x" * (LONGEST_VALUE + 1), "y" * LONGEST_VALUE)).rows
    assert set(row["old"]) == {"sha256", "bytes", "shortened"}
    assert row["old"]["bytes"] == LONGEST_VALUE + 1
    assert row["new"] == "y" * LONGEST_VALUE


def test_a_date_that_became_an_object_is_kept_as_text() -> None:
    (row,) = rows(Change("p.x_at", "changed", NOW, {"a": 1})).rows
    assert row["old"] == "2026-11-23T12:00:00.000Z"


def test_beyond_the_daily_cap_rows_are_left_out_and_the_trail_says_so_once_a_day() -> None:
    changes = [Change(f"p{number}", "added", new="x" * 100) for number in range(10)]
    first = rows(*changes, cap=1000)
    assert [row["path"] for row in first.rows] == ["p0", "p1", "trail"]
    assert first.rows[-1] == {"path": "trail", "change": "truncated", "old": None, "new": {"rows_left_out": 8}}
    assert first.account["truncated"]
    second = rows(*changes, cap=1000, account=first.account)
    assert second.rows == []


def test_a_new_day_begins_a_new_account() -> None:
    full = rows(*(Change("p", "added", new="x" * 900) for _ in range(2)), cap=1000).account
    tomorrow = limited([Change("p", "added", new=1)], full, now=NOW + timedelta(days=1), bytes_per_day=1000)
    assert len(tomorrow.rows) == 1
    assert not tomorrow.account["truncated"]


def test_one_report_cannot_fill_the_clients_document_with_its_rows() -> None:
    found = rows(*(Change(f"p{number}", "added", new="x" * 60_000) for number in range(50)))
    assert sum(len(str(row)) for row in found.rows) < LONGEST_REPORT * 1.1
    assert found.rows[-1]["change"] == "truncated"


def test_ids_of_rows_are_the_same_each_time_and_those_of_another_client_or_report_differ() -> None:
    outbox = {
        "generation": 3,
        "report_id": "r",
        "hostname": "h",
        "sequence": 1,
        "received_at": NOW,
        "collected_at": NOW,
        "trail": rows(Change("p", "added", new=1), Change("q", "added", new=1)).rows,
    }
    once = [row["_id"] for row in documents(outbox, "A")]
    assert once == [row["_id"] for row in documents(outbox, "A")]
    others = [
        row["_id"]
        for changed, client in ((outbox, "B"), ({**outbox, "generation": 4}, "A"), ({**outbox, "report_id": "s"}, "A"))
        for row in documents(changed, client)
    ]
    assert len({*once, *others}) == 8
