"""What every engine of the store does: one suite, run against SQLite and against a real mongod."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from penguindome_server.store import DuplicateKey, Store, StoreError, open_store
from penguindome_server.store.rules import MAX_DEPTH
from penguindome_server.store.schema import SCHEMA

NOON = datetime(2026, 11, 23, 12, 0, 0, 123000, tzinfo=UTC)

EVERYTHING: dict[str, Any] = {
    "_id": "A1",
    "hostname": "laptop",
    "enrolled_at": NOON,
    "nothing": None,
    "yes": True,
    "no": False,
    "one": 1,
    "one_float": 1.0,
    "largest": 2**63 - 1,
    "smallest": -(2**63),
    "beyond_32_bits": 2**40,
    "tiny": 5e-324,
    "text": 'quotes " and \\, NUL \0, line\nends, Zürich, 漢字, 🐧, trailing.dot.',
    "empty": "",
    "list": [1, [2, {"name": "x", "seen_at": NOON}], {}, []],
    "dict": {"": "empty key", "a b": 1, "ü": 2, "0": 3, "inner": {"started_at": NOON, "no_moment_at": "yesterday"}},
    "empty_dict": {},
    "empty_list": [],
}


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _types(child) for key, child in value.items()}
    return [_types(child) for child in value] if isinstance(value, list) else type(value)


def _ids(store: Store, where: dict[str, Any], **options: Any) -> list[str]:
    return [document["_id"] for document in store.collection("clients").find(where, **options)]


def _issue(key: str, **values: Any) -> dict[str, Any]:
    return {"_id": key, "client_id": "A", "name": "firewall", "state": "open", **values}


def test_a_document_comes_back_as_it_was_stored_value_for_value_and_type_for_type(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert(dict(EVERYTHING))
    found = clients.get("A1")
    assert found == {**EVERYTHING, "_version": 1}
    assert _types(found) == _types({**EVERYTHING, "_version": 1})


def test_a_document_that_is_not_there_is_none(store: Store) -> None:
    assert store.collection("clients").get("nobody") is None


def test_moments_are_kept_in_utc_to_the_millisecond(store: Store) -> None:
    clients = store.collection("clients")
    elsewhere = datetime(2026, 11, 23, 14, 0, 0, 123999, tzinfo=timezone(timedelta(hours=2)))
    clients.insert({"_id": "A", "seen_at": elsewhere, "list": [{"until_at": elsewhere}]})
    found = clients.get("A")
    assert found is not None
    assert found["seen_at"] == NOON
    assert found["seen_at"].utcoffset() == timedelta(0)
    assert found["list"] == [{"until_at": NOON}]


def test_dates_before_1970_and_far_ahead_are_kept(store: Store) -> None:
    clients = store.collection("clients")
    moments = {"early_at": datetime(1, 1, 1, tzinfo=UTC), "late_at": datetime(9999, 12, 31, 23, 59, 59, 999000, UTC)}
    clients.insert({"_id": "A", **moments})
    assert clients.get("A") == {"_id": "A", "_version": 1, **moments}


def test_a_second_document_with_the_same_id_is_refused_and_the_first_stays(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "n": 1})
    with pytest.raises(DuplicateKey):
        clients.insert({"_id": "A", "n": 2})
    assert clients.get("A") == {"_id": "A", "_version": 1, "n": 1}


def test_insert_new_adds_what_is_not_there_and_counts_it(store: Store) -> None:
    trail = store.collection("audit_trail")
    trail.insert({"_id": "r:1", "n": "first"})
    assert trail.insert_new([{"_id": f"r:{number}", "n": "second"} for number in range(40)]) == 39
    assert trail.insert_new([{"_id": "r:3"}, {"_id": "r:4"}]) == 0
    assert trail.insert_new([]) == 0
    assert trail.count() == 40
    assert trail.get("r:1") == {"_id": "r:1", "_version": 1, "n": "first"}


def test_insert_new_refuses_a_conflict_in_a_unique_index(store: Store) -> None:
    issues = store.collection("issues")
    issues.insert(_issue("1"))
    with pytest.raises(DuplicateKey):
        issues.insert_new([_issue("2")])
    assert issues.get("2") is None


def test_a_replace_swaps_only_what_has_not_changed_meanwhile(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "n": 1, "plugins": {"sshd": {"x": 1}, "gone": 1}, "gone": True})
    before = clients.get("A")
    other = clients.get("A")
    assert before is not None
    assert other is not None
    after = {"_id": "A", "n": 2, "plugins": {"sshd": before["plugins"]["sshd"], "new": [1]}, "fresh_at": NOON}
    assert clients.replace(before, after)
    assert after["_version"] == 2
    assert clients.get("A") == after
    assert not clients.replace(other, {**other, "n": 3})
    assert clients.get("A") == after


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (1, True),
        (1, 1.0),
        (0, False),
        (None, {}),
        ({}, None),
        ([], {}),
        ({"a": 1}, {}),
        ({}, {"a": 1}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}),
        ({"a": 1}, [1]),
        ("1", 1),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": True}),
        ({"a b": 1, "": 2}, {"a b": 2, "": 3}),
        ({"0": 1}, {"1": 1}),
    ],
)
def test_a_replace_writes_changes_of_type_and_shape(store: Store, old: Any, new: Any) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "value": old, "rest": [1]})
    before = clients.get("A")
    assert before is not None
    after = {**before, "value": new}
    assert clients.replace(before, after)
    found = clients.get("A")
    assert found == after
    assert _types(found) == _types(after)


def test_a_replace_of_everything_at_once_is_written(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", **{f"field{number}": number for number in range(80)}})
    before = clients.get("A")
    assert before is not None
    after = {"_id": "A", **{f"field{number}": str(number) for number in range(40, 120)}}
    assert clients.replace(before, after)
    assert clients.get("A") == after


def test_a_replace_keeps_searches_right(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "hostname": "old", "state": "pending", "reported_at": NOON})
    before = clients.get("A")
    assert before is not None
    assert clients.replace(before, {"_id": "A", "hostname": "new", "state": "pending"})
    assert _ids(store, {"hostname": "old"}) == []
    assert _ids(store, {"hostname": "new"}) == ["A"]
    assert _ids(store, {"reported_at": None}) == ["A"]
    assert store.check() == []


def test_a_replace_by_a_document_changed_in_place_keeps_searches_right(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "hostname": "old"})
    document = clients.get("A")
    assert document is not None
    document["hostname"] = "new"
    assert clients.replace(document, document)
    assert _ids(store, {"hostname": "new"}) == ["A"]


def test_a_replace_of_a_document_that_went_is_no_swap(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A"})
    before = clients.get("A")
    assert before is not None
    clients.delete({"_id": "A"})
    assert not clients.replace(before, {**before, "n": 1})
    assert clients.count() == 0


def test_a_replace_cannot_change_the_id(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A"})
    before = clients.get("A")
    assert before is not None
    with pytest.raises(StoreError):
        clients.replace(before, {"_id": "B"})


def test_a_replace_against_a_unique_index_is_refused(store: Store) -> None:
    issues = store.collection("issues")
    issues.insert(_issue("1"))
    issues.insert(_issue("2", state="closed"))
    before = issues.get("2")
    assert before is not None
    with pytest.raises(DuplicateKey):
        issues.replace(before, {**before, "state": "open"})
    assert issues.get("2") == before


def test_a_document_that_was_not_read_from_the_store_cannot_be_swapped(store: Store) -> None:
    with pytest.raises(StoreError, match="_version"):
        store.collection("clients").replace({"_id": "A"}, {"_id": "A"})


def test_clear_removes_one_field_by_version(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "outbox": {"x": [1, 2]}, "hostname": "h", "kept_at": NOON, "text": 'a"\\\0'})
    document = clients.get("A")
    stale = clients.get("A")
    assert document is not None
    assert stale is not None
    assert clients.clear(document, "outbox")
    assert document == {"_id": "A", "_version": 2, "hostname": "h", "kept_at": NOON, "text": 'a"\\\0'}
    assert clients.get("A") == document
    assert not clients.clear(stale, "hostname")
    assert clients.clear(document, "hostname")
    assert _ids(store, {"hostname": None}) == ["A"]
    assert clients.get("A") == document


def test_update_hands_out_a_copy_and_returns_before_and_after(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "list": [1]})

    def change(document: dict[str, Any] | None) -> dict[str, Any]:
        assert document is not None
        document["list"].append(2)
        return document

    updated = clients.update("A", change)
    assert updated.before == {"_id": "A", "_version": 1, "list": [1]}
    assert updated.after == {"_id": "A", "_version": 2, "list": [1, 2]}
    assert clients.get("A") == updated.after


def test_update_makes_a_document_that_was_not_there(store: Store) -> None:
    state = store.collection("server_state")
    updated = state.update("audit", lambda document: {"n": 1} if document is None else None)
    assert updated.before is None
    assert updated.after == {"_id": "audit", "_version": 1, "n": 1}
    assert state.get("audit") == updated.after


def test_update_leaves_alone_what_change_leaves_alone(store: Store) -> None:
    state = store.collection("server_state")
    state.insert({"_id": "A", "n": 1})

    def spoil(document: dict[str, Any] | None) -> None:
        assert document is not None
        document["n"] = 2

    updated = state.update("A", spoil)
    assert updated.before == updated.after == {"_id": "A", "_version": 1, "n": 1} == state.get("A")
    assert state.update("B", lambda document: None).after is None


def test_an_error_in_change_leaves_the_document_as_it_was(store: Store) -> None:
    state = store.collection("server_state")
    state.insert({"_id": "A"})
    with pytest.raises(ZeroDivisionError):
        state.update("A", lambda document: {"n": 1 // 0})
    assert state.get("A") == {"_id": "A", "_version": 1}


def test_at_most_one_open_issue_for_a_client_and_a_name(store: Store) -> None:
    issues = store.collection("issues")
    issues.insert(_issue("1"))
    issues.insert(_issue("2", state="closed"))
    issues.insert(_issue("3", state="closed"))
    issues.insert(_issue("4", client_id="B"))
    with pytest.raises(DuplicateKey):
        issues.insert(_issue("5"))


def test_a_unique_index_takes_no_document_without_its_fields(store: Store) -> None:
    issues = store.collection("issues")
    with pytest.raises(StoreError, match="name is missing"):
        issues.insert({"_id": "1", "client_id": "A", "state": "open"})
    issues.insert({"_id": "1", "client_id": "A", "state": "closed"})


def test_find_orders_by_id_by_code_point(store: Store) -> None:
    keys = ["b", "a", "Z", "ä", "🐧", "｡", "10", "9", "\u0001", "é", "e\u0301", "~"]
    store.collection("clients").insert_new([{"_id": key} for key in keys])
    assert _ids(store, {}) == sorted(keys)


def test_find_orders_by_a_field_nulls_first_then_by_id(store: Store) -> None:
    clients = store.collection("clients")
    values = {"a": "x", "b": None, "c": "x", "e": "A", "f": "ä"}
    for key, value in values.items():
        clients.insert({"_id": key, "hostname": value})
    clients.insert({"_id": "d"})
    assert _ids(store, {}, sort="hostname") == ["b", "d", "e", "a", "c", "f"]
    assert _ids(store, {}, sort="-hostname") == ["f", "a", "c", "e", "b", "d"]
    assert _ids(store, {}, sort="-hostname", limit=3) == ["f", "a", "c"]
    assert _ids(store, {}, sort="-_id", limit=2) == ["f", "e"]


def test_find_goes_on_after_a_key(store: Store) -> None:
    store.collection("clients").insert_new([{"_id": f"{number:03}", "state": "enrolled"} for number in range(150)])
    first = _ids(store, {"state": "enrolled"}, limit=70)
    rest = _ids(store, {"state": "enrolled"}, after=first[-1])
    assert first + rest == [f"{number:03}" for number in range(150)]
    assert _ids(store, {}, limit=0) == []
    with pytest.raises(StoreError):
        _ids(store, {}, after="1", sort="hostname")


@pytest.mark.parametrize("sort", [None, "hostname", "-hostname", "-_id"])
def test_find_pages_over_many_documents_in_order(
    store: Store, monkeypatch: pytest.MonkeyPatch, sort: str | None
) -> None:
    monkeypatch.setattr("penguindome_server.store.paging.KEYS_AT_ONCE", 7)
    documents = [
        {"_id": f"{number:03}", "hostname": None if number % 5 == 0 else f"h{number % 3}"} for number in range(100)
    ]
    store.collection("clients").insert_new(documents)
    expected = sorted(documents, key=lambda document: str(document["_id"]), reverse=sort == "-_id")
    if sort and sort != "-_id":
        expected.sort(key=lambda document: document["hostname"] or "", reverse=sort.startswith("-"))
    assert _ids(store, {}, sort=sort) == [document["_id"] for document in expected]
    assert _ids(store, {}, sort=sort, limit=23) == [document["_id"] for document in expected[:23]]


def test_find_holds_nothing_open_and_shows_what_changed_meanwhile(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert_new([{"_id": f"{number:03}", "state": "enrolled"} for number in range(200)])
    stream = clients.find({"state": "enrolled"})
    assert next(stream)["_id"] == "000"
    clients.delete({"_id": {"$gte": "100", "$lt": "150"}})
    clients.update("199", lambda document: {"state": "revoked"})
    clients.update("198", lambda document: {"state": "enrolled", "new": True})
    rest = list(stream)
    assert [document["_id"] for document in rest] == [f"{n:03}" for n in range(1, 199) if not 100 <= n < 150]
    assert rest[-1]["new"] is True


def test_find_is_refused_at_once_not_at_the_first_document(store: Store) -> None:
    with pytest.raises(StoreError, match="not an indexed field"):
        store.collection("clients").find({"plugins.sshd.running": True})


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, "abcdef"),
        ({"hostname": "x"}, "ab"),
        ({"hostname": None}, "de"),
        ({"hostname": {"$eq": "x"}}, "ab"),
        ({"hostname": {"$ne": "x"}}, "cdef"),
        ({"hostname": {"$ne": None}}, "abcf"),
        ({"hostname": {"$in": ["x", None]}}, "abde"),
        ({"hostname": {"$in": []}}, ""),
        ({"hostname": {"$nin": ["x", "y"]}}, "def"),
        ({"hostname": {"$nin": ["x", None]}}, "cf"),
        ({"hostname": {"$nin": [None]}}, "abcf"),
        ({"hostname": {"$nin": []}}, "abcdef"),
        ({"hostname": {"$exists": True}}, "abcdf"),
        ({"hostname": {"$exists": False}}, "e"),
        ({"hostname": {"$gte": "x"}}, "abc"),
        ({"hostname": {"$gt": "x", "$lte": "y"}}, "c"),
        ({"hostname": {"$lt": "y"}}, "ab"),
        ({"hostname": 5}, "f"),
        ({"hostname": 5.0}, "f"),
        ({"hostname": {"$gt": 4}}, "f"),
        ({"hostname": {"$lt": 6.5}}, "f"),
        ({"hostname": True}, ""),
        ({"state": "s", "hostname": "x"}, "a"),
        ({"last_seen_at": {"$gte": NOON}}, "a"),
        ({"last_seen_at": NOON}, "a"),
        ({"last_seen_at": {"$lt": NOON}}, "b"),
        ({"last_seen_at": {"$lt": "2026"}}, ""),
        ({"_id": "a"}, "a"),
        ({"_id": {"$in": ["a", "f", "z"]}}, "af"),
        ({"_id": {"$gt": "b", "$lt": "e"}}, "cd"),
        ({"_id": {"$ne": "a"}}, "bcdef"),
        ({"_id": {"$exists": True}}, "abcdef"),
    ],
)
def test_find_count_and_delete_mean_the_same_by_a_condition(store: Store, where: dict[str, Any], expected: str) -> None:
    clients = store.collection("clients")
    for document in (
        {"_id": "a", "hostname": "x", "state": "s", "last_seen_at": NOON},
        {"_id": "b", "hostname": "x", "last_seen_at": NOON - timedelta(milliseconds=1)},
        {"_id": "c", "hostname": "y"},
        {"_id": "d", "hostname": None},
        {"_id": "e"},
        {"_id": "f", "hostname": 5},
    ):
        clients.insert(document)
    assert "".join(_ids(store, where)) == expected
    assert clients.count(where) == len(expected)
    assert clients.delete(where) == len(expected)
    assert "".join(_ids(store, {})) == "".join(sorted(set("abcdef") - set(expected)))


@pytest.mark.parametrize(
    "where",
    [
        {"hostname": {"$regex": ".*"}},
        {"hostname": {"$where": "1"}},
        {"hostname": {"$gt": {"$ne": 1}}},
        {"hostname": {"$eq": {"$gt": ""}}},
        {"hostname": {"nested": 1}},
        {"hostname": {}},
        {"hostname": ["x"]},
        {"hostname": {"$in": "x"}},
        {"hostname": {"$in": [["x"]]}},
        {"hostname": {"$in": [{"$gt": ""}]}},
        {"hostname": {"$exists": 1}},
        {"hostname": {"$gt": None}},
        {"hostname": float("nan")},
        {"hostname": 2**63},
        {"hostname": "\ud800"},
        {"hostname": datetime(2026, 1, 1)},  # noqa: DTZ001 - a naive one is the point
        {"hostname": b"x"},
        {"_id": 5},
        {"_id": None},
        {"_id": {"$gt": None}},
        {"_id": {"$in": ["a", 5]}},
        {"plugins.sshd": 1},
        {"$or": [{"hostname": "x"}]},
        {"_version": 1},
    ],
    ids=str,
)
def test_a_condition_that_is_none_of_the_known_is_refused(store: Store, where: dict[str, Any]) -> None:
    clients = store.collection("clients")
    for call in (clients.find, clients.count, clients.delete):
        with pytest.raises(StoreError):
            call(where)


@pytest.mark.parametrize("key", [{"$gt": ""}, {"$ne": 1}, None, 5, b"A", ["A"], "", "\ud800", True])
def test_a_key_that_is_no_text_reaches_no_query(store: Store, key: Any) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A"})
    with pytest.raises(StoreError):
        clients.get(key)
    with pytest.raises(StoreError):
        clients.update(key, lambda document: {"n": 1})
    with pytest.raises(StoreError):
        clients.insert({"_id": key})
    with pytest.raises(StoreError):
        clients.replace({"_id": key, "_version": 1}, {"_id": key})
    assert clients.count() == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"n": float("nan")},
        {"n": float("inf")},
        {"n": {"deep": [-float("inf")]}},
        {"n": 2**63},
        {"n": -(2**63) - 1},
        {"n": [{"m": 2**64}]},
        {"a.b": 1},
        {"n": {"a.b": 1}},
        {"$set": 1},
        {"n": [{"$gt": ""}]},
        {"n\0": 1},
        {"n": {"\0": 1}},
        {"": 1},
        {1: 2},
        {"n": {None: 1}},
        {"n": {True: 1}},
        {"n": "\ud800"},
        {"n": {"\udfff": 1}},
        {"n": ["x", "\ud83d"]},
        {"n": (1, 2)},
        {"n": {1, 2}},
        {"n": b"bytes"},
        {"n": 1j},
        {"seen_at": datetime(2026, 1, 1)},  # noqa: DTZ001 - a naive one is the point
        {"seen": NOON},
        {"seen_at": [NOON]},
        {"n": [NOON]},
        {"seen_at": "2026-11-23T12:00:00Z"},
        {"n": {"m": {"seen_at": "2026-11-23T12:00:00.123+01:00"}}},
        {"hostname": {"$gt": ""}},
        {"hostname": {"a": 1}},
        {"hostname": ["a"]},
    ],
    ids=ascii,
)
def test_what_both_engines_could_not_keep_is_refused_and_nothing_is_stored(store: Store, bad: dict[Any, Any]) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "there", "plugins": {"a": 1}})
    before = clients.get("there")
    assert before is not None
    with pytest.raises(StoreError):
        clients.insert({"_id": "A", **bad})
    with pytest.raises(StoreError):
        clients.insert_new([{"_id": "B"}, {"_id": "A", **bad}])
    with pytest.raises(StoreError):
        clients.update("A", lambda document: dict(bad))
    with pytest.raises(StoreError):
        clients.replace(before, {**before, **bad})
    assert list(clients.find()) == [before]


@pytest.mark.parametrize(
    "bad",
    [
        {"n": float("nan")},
        {"a.b": 1},
        {"$gt": ""},
        {"n": 2**63},
        {"n": "\ud800"},
        {"seen": NOON},
        {"n": {"$gt": ""}},
        {1: 2},
        {"seen_at": "2026-11-23T12:00:00Z"},
    ],
    ids=ascii,
)
def test_a_bad_part_below_a_shared_one_is_refused(store: Store, bad: dict[Any, Any]) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "plugins": {"sshd": {"x": 1}}})
    before = clients.get("A")
    assert before is not None
    with pytest.raises(StoreError):
        clients.replace(before, {**before, "plugins": {**before["plugins"], "bad": bad}})
    with pytest.raises(StoreError):
        clients.replace(before, {**before, "plugins": {**before["plugins"], **bad}})
    assert clients.get("A") == before


def test_a_refusal_names_the_place(store: Store) -> None:
    with pytest.raises(StoreError, match=r"clients: 'plugins\.a\[1\]\.n'.*nan"):
        store.collection("clients").insert({"_id": "A", "plugins": {"a": [0, {"n": float("nan")}]}})


def test_nesting_has_an_end(store: Store) -> None:
    clients = store.collection("clients")
    value: Any = 1
    for _ in range(MAX_DEPTH - 1):
        value = {"x": value}
    clients.insert({"_id": "A", "value": value})
    for deeper in ({"x": value}, [[value]]):
        with pytest.raises(StoreError, match="deep"):
            clients.insert({"_id": "B", "value": deeper})
    endless: dict[str, Any] = {"_id": "C"}
    endless["self"] = endless
    with pytest.raises(StoreError, match="deep"):
        clients.insert(endless)
    assert _ids(store, {}) == ["A"]


def test_documents_have_a_limit_of_one_megabyte_and_large_ones_of_four(store: Store) -> None:
    clients, packages = store.collection("clients"), store.collection("packages")
    text = "x" * (1 << 20)
    with pytest.raises(StoreError, match="bytes"):
        clients.insert({"_id": "A", "text": text})
    clients.insert({"_id": "A", "outbox": text})
    packages.insert({"_id": "A", "text": text * 3})
    with pytest.raises(StoreError, match="bytes"):
        packages.insert({"_id": "B", "text": text * 4})


def test_a_document_cannot_grow_beyond_the_limit_by_small_changes(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A", "parts": {}})
    before = clients.get("A")
    assert before is not None
    for number in range(10):
        after = {**before, "parts": {**before["parts"], f"part{number}": "ü" * 50_000}}
        assert clients.replace(before, after)
        before = after
    with pytest.raises(StoreError, match="bytes"):
        clients.replace(before, {**before, "parts": {**before["parts"], "last": "ü" * 50_000}})
    assert clients.get("A") == before


def test_fields_limit_what_is_fetched_but_id_and_version_always_come(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert(
        {
            "_id": "A",
            "hostname": "h",
            "seen_at": NOON,
            "none": None,
            "plugins": {"sshd": {"running": True, "started_at": NOON}, "list": [{"a": 1}, {"b": 2}]},
            "scalar": 5,
            "many": [{"a": 1}],
        }
    )
    base = {"_id": "A", "_version": 1}
    for fields, expected in (
        ([], {}),
        (["hostname"], {"hostname": "h"}),
        (["_id", "_version", "hostname"], {"hostname": "h"}),
        (["seen_at"], {"seen_at": NOON}),
        (["none", "absent"], {"none": None}),
        (["plugins.sshd.started_at"], {"plugins": {"sshd": {"started_at": NOON}}}),
        (["plugins.sshd"], {"plugins": {"sshd": {"running": True, "started_at": NOON}}}),
        (
            ["plugins.sshd.running", "plugins.list"],
            {"plugins": {"sshd": {"running": True}, "list": [{"a": 1}, {"b": 2}]}},
        ),
        (["plugins.list.a", "many.a", "many.0"], {}),
        (["scalar.x", "plugins.absent.x", "absent"], {}),
        (["scalar", "scalar.x"], {"scalar": 5}),
        (
            ["plugins", "plugins.sshd.running"],
            {"plugins": {"sshd": {"running": True, "started_at": NOON}, "list": [{"a": 1}, {"b": 2}]}},
        ),
    ):
        assert clients.get("A", fields=fields) == {**base, **expected}, fields
        assert list(clients.find({}, fields=fields)) == [{**base, **expected}], fields
    assert clients.get("B", fields=["hostname"]) is None


@pytest.mark.parametrize("field", ["", "$where", "a..b", ".a", "a.", 'a"b', "a\\b", "a\0", "a.$b", "\n", 5])
def test_a_field_that_is_no_path_is_refused(store: Store, field: Any) -> None:
    with pytest.raises(StoreError):
        store.collection("clients").get("A", fields=[field])


def test_together_writes_all_and_sees_its_own_writes(store: Store) -> None:
    clients, trail = store.collection("clients"), store.collection("audit_trail")
    clients.insert({"_id": "A", "n": 1})
    before = clients.get("A")
    assert before is not None

    def work() -> int:
        after = {**before, "n": 2, "outbox": {"report_id": "r"}}
        assert clients.replace(before, after)
        assert trail.insert_new([{"_id": "r:1"}, {"_id": "r:2"}]) == 2
        assert clients.get("A") == after
        assert trail.count() == 2
        assert [found["_id"] for found in trail.find()] == ["r:1", "r:2"]
        assert clients.clear(after, "outbox")
        assert clients.update("B", lambda document: {"n": 5}).before is None
        return 7

    assert store.together(work) == 7
    assert clients.get("A") == {"_id": "A", "_version": 3, "n": 2}
    assert clients.get("B") == {"_id": "B", "_version": 1, "n": 5}


def test_together_within_together_is_one(store: Store) -> None:
    clients = store.collection("clients")
    store.together(lambda: store.together(lambda: clients.insert({"_id": "A"})))
    assert clients.count() == 1


def test_what_work_raises_comes_out_of_together(store: Store) -> None:
    clients = store.collection("clients")
    clients.insert({"_id": "A"})
    with pytest.raises(ZeroDivisionError):
        store.together(lambda: 1 // 0)
    with pytest.raises(DuplicateKey):
        store.together(lambda: clients.insert({"_id": "A"}))
    store.together(lambda: clients.insert({"_id": "B"}))
    assert clients.count() == 2


def test_delete_of_many_and_of_all(store: Store) -> None:
    trail = store.collection("audit_trail")
    trail.insert_new([{"_id": f"{number:05}", "client_id": "x"} for number in range(1203)])
    assert trail.delete({"_id": {"$lt": "00003"}}) == 3
    assert trail.delete({"client_id": "y"}) == 0
    assert trail.delete({}) == 1200
    assert trail.count() == 0


def test_load_keeps_versions(store: Store) -> None:
    clients = store.collection("clients")
    clients.load([{"_id": "A", "_version": 7, "hostname": "h"}, {"_id": "B", "_version": 1}])
    assert clients.get("A") == {"_id": "A", "_version": 7, "hostname": "h"}
    with pytest.raises(DuplicateKey):
        clients.load([{"_id": "B", "_version": 2}])
    with pytest.raises(StoreError):
        clients.load([{"_id": "C"}])


def test_a_sound_store_has_no_problems(store: Store) -> None:
    store.collection("clients").insert(dict(EVERYTHING))
    store.collection("issues").insert(_issue("1"))
    assert store.check() == []
    store.ping()


def test_another_collection_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no collection"):
        store.collection("sqlite_master")


def test_a_store_is_found_again_with_all_that_is_in_it(store: Store, store_uri: str) -> None:
    store.collection("clients").insert(dict(EVERYTHING))
    again = open_store(store_uri)
    try:
        assert again.collection("clients").get("A1") == {**EVERYTHING, "_version": 1}
        assert again.check() == []
    finally:
        again.close()


def test_a_search_by_each_indexed_field_and_an_order_by_it_is_possible(store: Store) -> None:
    for name, schema in SCHEMA.items():
        for field in schema.indexed_fields:
            assert list(store.collection(name).find({field: "x"}, sort=f"-{field}")) == []


def test_another_scheme_is_refused() -> None:
    with pytest.raises(StoreError, match="no known store"):
        open_store("postgresql://localhost/x")
