"""The rules of documents: which parts a swap writes."""

from __future__ import annotations

from typing import Any

from penguindome_server.store.rules import MAX_CHANGES, Changes, checked_changes
from penguindome_server.store.schema import SCHEMA

CLIENTS = SCHEMA["clients"]


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Changes | None:
    return checked_changes({"_id": "A", "_version": 1, **before}, {"_id": "A", **after}, CLIENTS)


def test_a_swap_writes_only_the_parts_that_are_not_shared() -> None:
    before = {"plugins": {"a": {"x": [1]}, "b": [1, 2], "gone": 1}, "hostname": "h", "n": 1000, "old": None}
    after = {"plugins": {"a": before["plugins"]["a"], "b": [1], "new": {}}, "hostname": "h", "n": 1001, "fresh": True}
    changes = _changes(before, after)
    assert changes is not None
    assert changes.written == {"plugins.b": [1], "plugins.new": {}, "n": 1001, "fresh": True}
    assert sorted(changes.removed) == ["old", "plugins.gone"]


def test_equal_numbers_of_different_types_are_a_change() -> None:
    for old, new in ((1, True), (1, 1.0), (0, False), (0.0, -0.0)):
        changes = _changes({"n": old}, {"n": new})
        assert changes is not None
        assert type(changes.written["n"]) is type(new)


def test_nothing_changed_is_nothing_to_write() -> None:
    document = {"plugins": {"a": [1]}, "text": "x", "none": None}
    changes = _changes(document, dict(document))
    assert changes is not None
    assert (dict(changes.written), list(changes.removed)) == ({}, [])


def test_what_cannot_be_said_in_parts_is_written_whole() -> None:
    assert _changes({}, {"a b": 1}) is None
    assert _changes({"a": {"": 1}}, {"a": {"": 2}}) is None
    assert _changes({}, {f"n{number}": number for number in range(MAX_CHANGES + 1)}) is None
    same = {"_id": "A", "_version": 1}
    assert checked_changes(same, same, CLIENTS) is None
