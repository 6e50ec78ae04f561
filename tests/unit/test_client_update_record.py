"""What is remembered of an update, and what reports and people are told of it."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from penguindome import json
from penguindome.client import update_record, update_words
from penguindome.client.update_record import UpdateRecord
from penguindome.errors import InvalidData
from penguindome.paths import Paths

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def test_a_record_comes_back_as_it_was_kept(paths: Paths) -> None:
    paths.client_state.mkdir(parents=True)
    record = UpdateRecord(phase="failed", release=5, reason="why", finished_at=NOW, failed={"5": "why"})
    update_record.save(paths, record)
    assert update_record.load(paths) == record


@pytest.mark.parametrize(
    "wrong", [{"phase": "asleep"}, {"release": "5"}, {"attempts": True}, {"finished_at": "today"}, {"format": 2}]
)
def test_a_record_of_other_types_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidData):
        UpdateRecord.from_document({"format": 1, **wrong})


def test_a_damaged_record_is_set_aside(paths: Paths) -> None:
    paths.client_state.mkdir(parents=True)
    path = paths.client_state / update_record.NAME
    path.write_text(json.dumps({"format": 1, "phase": 3}))
    assert update_record.load(paths) is None
    assert path.with_suffix(".json.damaged").exists()


@pytest.mark.parametrize(
    ("phase", "status"),
    [(phase, phase if phase in ("done", "failed") else "pending") for phase in update_record.PHASES],
)
def test_every_phase_is_reported_and_put_into_words(paths: Paths, phase: str, status: str) -> None:
    record = UpdateRecord(phase=phase, release=5, from_release=4, reason="waits: apt-get holds a lock")
    reported = update_record.reported(record)
    assert reported is not None
    assert (reported["release"], reported["status"]) == (5, status)
    assert "release" in update_words.standing(paths, record)


def test_what_was_refused_is_reported_until_something_else_is_under_way() -> None:
    refused = UpdateRecord(refused_release=6, refused_reason="refused: expired", refused_at=NOW)
    assert update_record.reported(refused) == {
        "release": 6, "status": "failed", "reason": "refused: expired", "finished_at": NOW,
    }  # fmt: skip
    assert update_record.reported(None) is None
    assert update_record.reported(UpdateRecord()) is None
