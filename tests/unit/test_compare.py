"""What counts as a change between two reports, and what does not."""

from __future__ import annotations

import copy
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome_server.compare import Change, compare, compare_plugins, same

THEN = datetime(2026, 11, 22, tzinfo=timezone.utc)
NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)


def changes(old: Any, new: Any) -> list[Change]:
    return list(compare_plugins({"p": old}, {"p": new}))


@pytest.mark.parametrize(
    ("old", "new"),
    [(True, 1), (1, 1.0), (False, 0), ({}, None), ([], None), ("", None), ({}, []), ("1", 1), (0.0, False)],
)
def test_values_of_two_types_are_two_values(old: Any, new: Any) -> None:
    assert changes({"x": old}, {"x": new}) == [Change("plugins.p.x", "changed", old, new)]
    assert changes({"x": [{"name": "a", "y": old}]}, {"x": [{"name": "a", "y": new}]}) == [
        Change("plugins.p.x[a].y", "changed", old, new)
    ]
    assert not same({"x": [old]}, {"x": [new]})


def test_a_missing_key_differs_from_null() -> None:
    assert changes({"x": None}, {}) == [Change("plugins.p.x", "removed", old=None)]
    assert changes({}, {"x": None}) == [Change("plugins.p.x", "added", new=None)]


def test_dates_do_not_count_wherever_they_stand() -> None:
    old = {
        "z": 1,
        "read_at": THEN,
        "list": [{"name": "a", "seen_at": THEN}],
        "bag": [{"n": 1, "at_at": THEN}, {"n": 1}],
    }
    new = {"z": 1, "read_at": None, "list": [{"name": "a", "seen_at": NOW}], "bag": [{"n": 1}, {"n": 1, "at_at": NOW}]}
    assert changes(old, new) == []
    assert changes({"a": 1}, {"a": 1, "read_at": NOW}) == []


def test_what_hides_below_a_key_for_dates_does_count() -> None:
    assert changes({"x_at": {"a": 1}}, {"x_at": {"a": 2}}) == [Change("plugins.p.x_at.a", "changed", 1, 2)]
    assert [change.path for change in changes({"x_at": THEN}, {"x_at": {"a": 2}})] == ["plugins.p.x_at"]


def test_order_does_not_count() -> None:
    old = {"a": 1, "b": [3, 1, 2, 2], "c": [{"name": "x", "v": 1}, {"name": "y", "v": 2}], "d": [[1, 2], [3]]}
    new = {"d": [[3], [2, 1]], "c": [{"v": 2, "name": "y"}, {"name": "x", "v": 1}], "b": [2, 1, 2, 3], "a": 1}
    assert changes(old, new) == []


def test_elements_of_lists_are_told_apart_by_what_identifies_them() -> None:
    old = {"volumes": [{"path": "/dev/a", "encrypted": True}, {"path": "/dev/b", "encrypted": False}]}
    new = {"volumes": [{"path": "/dev/c", "encrypted": True}, {"path": "/dev/b", "encrypted": True}]}
    assert changes(old, new) == [
        Change("plugins.p.volumes[/dev/a]", "removed", old={"path": "/dev/a", "encrypted": True}),
        Change("plugins.p.volumes[/dev/b].encrypted", "changed", False, True),
        Change("plugins.p.volumes[/dev/c]", "added", new={"path": "/dev/c", "encrypted": True}),
    ]


def test_two_fields_identify_where_one_does_not() -> None:
    old = [
        {"interface": "a", "address": "fe80::1", "prefix": 64},
        {"interface": "b", "address": "fe80::1", "prefix": 64},
    ]
    new = [
        {"interface": "a", "address": "fe80::1", "prefix": 64},
        {"interface": "b", "address": "fe80::1", "prefix": 48},
    ]
    assert changes(old, new) == [Change("plugins.p[b fe80::1].prefix", "changed", 64, 48)]


def test_elements_without_identity_come_and_go_as_wholes() -> None:
    assert changes({"ports": [22, 80]}, {"ports": [80, 2222]}) == [
        Change("plugins.p.ports[]", "removed", old=22),
        Change("plugins.p.ports[]", "added", new=2222),
    ]
    assert changes([{"name": "a"}, {"name": "a"}], [{"name": "a"}]) == [
        Change("plugins.p[]", "removed", old={"name": "a"})
    ]


def test_an_identity_that_is_true_is_not_taken_for_1() -> None:
    found = changes([{"id": True, "v": 1}, {"id": 2, "v": 1}], [{"id": 1, "v": 1}, {"id": 2, "v": 1}])
    assert [change.kind for change in found] == ["removed", "added"]


def test_a_plugin_that_comes_or_goes_is_one_change() -> None:
    assert list(compare_plugins({}, {"p": {"a": 1, "b": 2}})) == [Change("plugins.p", "added", new={"a": 1, "b": 2})]
    assert list(compare_plugins({"p": {"a": 1}}, {})) == [Change("plugins.p", "removed", old={"a": 1})]


def test_a_plugin_that_fails_is_one_change_and_one_when_it_works_again() -> None:
    good = {"a": 1, "b": {"c": 2}}
    bad = {"plugin_failed": True, "reason": "timeout", "stderr": "after 30 s"}
    assert changes(good, bad) == [Change("plugins.p", "changed", good, bad)]
    assert changes(bad, good) == [Change("plugins.p", "changed", bad, good)]
    assert changes(bad, {**bad, "stderr": "after 31 s"}) == []
    assert len(changes(bad, {**bad, "reason": "exit status 1"})) == 1


def test_a_very_long_identity_is_shortened_in_the_path() -> None:
    found = changes([{"name": "x" * 10_000, "v": 1}], [{"name": "x" * 10_000, "v": 2}])
    assert len(found[0].path) < 200


SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 2.5]) | st.sampled_from(["", "a", "b"])
)
KEYS = st.sampled_from(["a", "b", "name", "x_at"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.fixed_dictionaries({"read_at": st.sampled_from([THEN, NOW])})
    ),
    max_leaves=12,
)


@given(VALUES)
def test_nothing_differs_from_its_copy(value: Any) -> None:
    twin = copy.deepcopy(value)
    assert same(value, twin)
    assert list(compare(value, twin, "p")) == []


@given(VALUES, VALUES)
def test_what_is_the_same_has_no_changes_and_changes_are_found_from_both_sides(old: Any, new: Any) -> None:
    there, back = list(compare(old, new, "p")), list(compare(new, old, "p"))
    assert bool(there) == bool(back)
    if same(old, new):
        assert there == []
    opposite = {"added": "removed", "removed": "added", "changed": "changed"}
    assert sorted((one.path, one.kind) for one in there) == sorted((one.path, opposite[one.kind]) for one in back)


@given(VALUES, VALUES)
def test_neither_side_is_modified(old: Any, new: Any) -> None:
    before = copy.deepcopy((old, new))
    list(compare(old, new, "p"))
    assert same(list(before), [old, new])
