"""`query` where no mongod is needed: what a refusal says, what a hostile text costs, why a query matches."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from penguindome_server.query import QueryError, compile_query, explain
from penguindome_server.query.regex import MAXIMUM_TEXT

MOMENT = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"a.b": {"$gtx": 1}}, "a.b.$gtx: unknown operator $gtx"),
        ({"$or": [{"a": 1}, {"b": {"$near": 1}}]}, "$or[1].b.$near: unknown operator $near"),
        ({"$where": "true"}, "$where: unknown operator $where at the top"),
        ({"$expr": {"$gt": ["$a", "$b"]}}, "$expr: unknown operator $expr"),
        ({"$and": []}, "$and: $and needs a list"),
        ({"$or": [1]}, "$or[0]: a query must be a mapping"),
        ({"a": {"$in": 1}}, "a.$in: $in needs a list"),
        ({"a": {"$nin": [{"$gt": 1}]}}, "a.$nin[0]: operators cannot stand inside $nin"),
        ({"a": {"$size": -1}}, "a.$size: $size needs a whole number"),
        ({"a": {"$mod": [0, 1]}}, "a.$mod: $mod cannot divide by 0"),
        ({"a": {"$type": "integer"}}, "a.$type: $type knows no type 'integer'"),
        ({"a": {"$not": 1}}, "a.$not: $not needs operators"),
        ({"a": {"$elemMatch": {"b": {"$all": 1}}}}, "a.$elemMatch.b.$all: $all needs a list"),
        ({"a": {"$options": "i"}}, "a.$options: $options needs a $regex"),
        ({"a": {"$regex": "(a"}}, "a.$regex: missing )"),
        ({"a": {"$regex": "a", "$options": "q"}}, "a.$regex: unknown option 'q'"),
        ({"a..b": 1}, "a..b: the path has an empty part"),
        ({"a.": 1}, "a.: the path has an empty part"),
        ({"": 1}, "the path is empty"),
        ({1: 1}, "the key 1 is not text"),
        ({"a": 2**63}, "a: the number does not fit into 64 bits"),
        ({"a": [{"b": {1, 2}}]}, "a[0].b: a document cannot hold a value of type set"),
        ({"a": "\ud800"}, "a: the text holds half a character"),
        ({"a": {"b\0": 1}}, "a: a key cannot hold NUL"),
    ],
)
def test_a_refusal_names_the_operator_and_its_place(query: Any, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        compile_query(query)
    assert message in caught.value.message


def test_a_query_nested_too_deeply_is_refused_instead_of_exhausting_the_stack() -> None:
    query: dict[str, Any] = {"a": 1}
    for _ in range(5000):
        query = {"$and": [query]}
    with pytest.raises(QueryError, match="nested more than 100 levels"):
        compile_query(query)


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)", "(?!a)", "(?<=a)b", r"(a)\1", "a++", "(?>a)", r"\p{L}", "(?R)", "(*UTF8)a", r"\Ga", "(?(1)a)", r"\K"],
)
def test_a_regular_expression_that_cannot_be_answered_alike_is_refused(pattern: str) -> None:
    with pytest.raises(QueryError, match="not supported"):
        compile_query({"a": {"$regex": pattern}})


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)+$", "(.*a){9}$", "(a?){40}a{40}$", "^(a|b|ab)*c$"])
@pytest.mark.timeout(20)
def test_no_text_makes_a_regular_expression_run_for_ever(pattern: str) -> None:
    matches = compile_query({"a": {"$regex": pattern}})
    assert not matches({"a": "a" * 50_000 + "!"})


def test_a_pattern_that_would_grow_too_large_is_refused() -> None:
    with pytest.raises(QueryError, match="too large"):
        compile_query({"a": {"$regex": "(a{100}){100}"}})


@pytest.mark.timeout(20)
def test_a_pattern_of_empty_groups_costs_nothing() -> None:
    assert compile_query({"a": {"$regex": "(((){60000}){60000}){60000}b"}})({"a": "b"})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", [2.5, 1e300, float("inf"), float("nan"), 2**31, 2.0**31])
def test_a_size_that_no_list_has_is_refused_at_once(size: float) -> None:
    with pytest.raises(QueryError, match="whole number"):
        compile_query({"a": {"$size": size}})


def test_text_beyond_the_limit_has_no_match() -> None:
    matches = compile_query({"a": {"$regex": "a"}})
    assert matches({"a": "a" * MAXIMUM_TEXT})
    assert not matches({"a": "a" * (MAXIMUM_TEXT + 1)})


def test_many_different_characters_do_not_fill_the_memory() -> None:
    matches = compile_query({"a": {"$regex": "(x|y)[a-z]{12}z"}})
    everything = "".join(map(chr, range(0xE000, 0x10000)))
    assert not matches({"a": everything})
    assert matches({"a": everything + "y" + "q" * 12 + "z"})


def test_a_regular_expression_stands_in_a_list_of_values() -> None:
    matches = compile_query({"a": {"$in": [1, {"$regex": "^x", "$options": "i"}]}})
    assert [matches({"a": value}) for value in (1, "Xy", "yx", ["no", "xx"])] == [True, True, False, True]


def test_the_integers_of_the_mongodb_driver_are_numbers() -> None:
    class Int64(int):
        pass

    matches = compile_query({"a": {"$gt": 1, "$in": [2], "$type": "number"}})
    assert matches({"a": Int64(2)})


def test_a_date_is_midnight_and_a_moment_is_compared_in_milliseconds() -> None:
    assert compile_query({"a": date(2026, 11, 23)})({"a": MOMENT - timedelta(hours=12)})
    assert compile_query({"a": MOMENT.replace(microsecond=1999)})({"a": MOMENT.replace(microsecond=1000)})
    assert compile_query({"a": {"$lt": MOMENT.replace(tzinfo=None)}})({"a": MOMENT - timedelta(seconds=1)})


def test_changing_the_query_afterwards_changes_nothing() -> None:
    wanted = [1]
    matches = compile_query({"a": {"$eq": wanted}})
    wanted.append(2)
    assert matches({"a": [1]})


def test_an_explanation_says_which_part_fails_and_what_was_found() -> None:
    query = {"a.b": {"$gt": 1, "$lt": 5}, "$or": [{"c": "x y"}, {"d": {"$regex": "^z", "$options": "i"}}]}
    parts = explain(query, {"a": [{"b": 7}, {"b": 3}], "d": "Zoo"})
    assert [(part.depth, part.part, part.matches, part.found) for part in parts] == [
        (0, "a.b: {$gt: 1}", True, (7, 3)),
        (0, "a.b: {$lt: 5}", True, (7, 3)),
        (0, "$or", True, ()),
        (1, "c: x y", False, ()),
        (1, 'd: {$regex: "^z", $options: i}', True, ("Zoo",)),
    ]


def test_an_explanation_shows_the_element_that_matched() -> None:
    (part,) = explain({"a": {"$elemMatch": {"b": 1}}}, {"a": [{"b": 2}, {"b": 1, "c": 3}]})
    assert part.found == ({"b": 1, "c": 3},)
