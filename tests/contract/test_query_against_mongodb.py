"""For every document and query `query` answers as a real mongod does, and it refuses what that refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from bson.regex import Regex
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

import needs
from penguindome_server.query import QueryError, compile_query

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # said only when a claim fails

DOCUMENTS = 40
EXAMPLES = 20 if needs.testing_all() else 5


def thorough(examples: int) -> settings:
    """One example holds many cases, and the assertion names the one that fails: shrinking would only cost time."""
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    return settings(max_examples=examples, phases=phases, suppress_health_check=list(HealthCheck))


# A small alphabet, so that queries and documents meet often.
MOMENT = datetime(2026, 1, 1, tzinfo=timezone.utc)
SCALARS = st.sampled_from(
    [
        None, None, True, False, 0, 1, 1, 2, 3, -1, -4, 1.0, 1.5, -1.5, 2.0, 1e300, float("inf"), float(2**63),
        2**31, 2**31 - 1, -(2**31) - 1, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63),
        "", "a", "a", "b", "ab", "A", "a\nb", "b\n", "é", "0", MOMENT, MOMENT + timedelta(milliseconds=1),
    ]
)  # fmt: skip
KEYS = st.sampled_from(["a", "a", "b", "b", "c", "0", "1", "00"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
ARRAYS = st.lists(VALUES, max_size=3) | st.lists(SCALARS, max_size=4)
DOCUMENT = st.dictionaries(st.sampled_from(["a", "a", "b", "c"]), VALUES | ARRAYS, max_size=3)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(".".join) | st.sampled_from(
    ["a", "a", "b", "a.b", "a.a", "a.0", "b.a"]
)

PATTERNS = st.sampled_from(["a", "^a", "b$", "A", "a.b", "^$", "[^a]", "é|b", "^b*$", "B", r"^\w+$", "^ b"])
OPTIONS = st.lists(st.sampled_from("imsx"), unique=True, max_size=3).map("".join)
REGEXES = st.fixed_dictionaries({"$regex": PATTERNS}, optional={"$options": OPTIONS})
NUMBERS = st.sampled_from([0, 1, 2, -1, 1.5, 2.0])
TYPES = st.sampled_from(
    [
        "double",
        "string",
        "object",
        "array",
        "bool",
        "date",
        "null",
        "int",
        "long",
        "number",
        "objectId",
        "regex",
        1,
        2.0,
        -1,
    ]
)
COMPARED = VALUES | ARRAYS | st.just(float("nan"))


def conditions(inner: st.SearchStrategy[dict[str, Any]] | None) -> dict[str, st.SearchStrategy[dict[str, Any]]]:
    """For each operator below a field, the conditions that use it; `inner` may stand inside `$not` and `$elemMatch`."""
    plain: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(("$eq", "$ne", "$gt", "$gte", "$lt", "$lte"), COMPARED)
    for name in ("$in", "$nin", "$all"):
        plain[name] = st.lists(COMPARED | REGEXES, max_size=3)
    plain["$all"] |= st.lists(st.sampled_from([None, 1, "a"]), min_size=1, max_size=2)
    plain["$exists"] = SCALARS
    plain["$type"] = TYPES | st.lists(TYPES, min_size=1, max_size=3)
    plain["$mod"] = st.tuples(st.sampled_from([1, 2, 3, -2, 2.5]), NUMBERS).map(list)
    plain["$size"] = st.sampled_from([0, 1, 2, 3, 2.0])
    if inner is not None:
        plain["$not"] = inner
        plain["$elemMatch"] = inner | QUERY_INSIDE
        plain["$all with $elemMatch"] = st.lists(
            st.fixed_dictionaries({"$elemMatch": inner | QUERY_INSIDE}), min_size=1, max_size=2
        )
    found = {name: argument.map(lambda value, name=name: {name.split()[0]: value}) for name, argument in plain.items()}
    return found | {"$regex": REGEXES}


def several(strategies: Mapping[str, st.SearchStrategy[dict[str, Any]]]) -> st.SearchStrategy[dict[str, Any]]:
    """Conditions with one or two operators."""
    one = st.one_of(*strategies.values())
    return one | st.tuples(one, one).map(lambda pair: pair[0] | pair[1])


def queries(condition: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Queries with a few fields and, below them, logical operators."""
    fields = st.dictionaries(PATHS, condition | VALUES, max_size=2)
    return st.recursive(
        fields,
        lambda inner: st.dictionaries(
            st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2
        ),
        max_leaves=4,
    )


FLAT = several(conditions(None))
QUERY_INSIDE = queries(FLAT)
NESTED = several(conditions(FLAT))
CONDITIONS = conditions(NESTED)
ANY_QUERY = queries(several(CONDITIONS))
LOGICAL = {
    name: st.lists(ANY_QUERY, min_size=1, max_size=3).map(lambda parts, name=name: {name: parts})
    for name in ("$and", "$or", "$nor")
}


# In each batch beside what is generated, so that each operator is sure to match something and to leave something out.
FIXED_DOCUMENTS: list[dict[str, Any]] = [
    {}, {"a": None}, {"a": 1}, {"a": 2.5}, {"a": "ab"},
    {"a": [1, "a"]}, {"a": [{"b": 1}, {"b": [2]}]}, {"a": {"b": MOMENT}},
]  # fmt: skip
FIXED_CONDITIONS: dict[str, dict[str, Any]] = {
    "$eq": {"$eq": 1}, "$ne": {"$ne": 1},
    "$gt": {"$gt": 1}, "$gte": {"$gte": 1}, "$lt": {"$lt": 2}, "$lte": {"$lte": 1},
    "$in": {"$in": [1, None]}, "$nin": {"$nin": ["a", {"$regex": "b$"}]}, "$exists": {"$exists": True},
    "$type": {"$type": "number"}, "$mod": {"$mod": [2, 0]}, "$size": {"$size": 2}, "$not": {"$not": {"$gt": 1}},
    "$all": {"$all": [1, "a"]}, "$all with $elemMatch": {"$all": [{"$elemMatch": {"b": 1}}]},
    "$elemMatch": {"$elemMatch": {"$gt": 0}}, "$regex": {"$regex": "^A", "$options": "i"},
}  # fmt: skip
FIXED_QUERIES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"a": condition}) for name, condition in FIXED_CONDITIONS.items()),
    ("$and", {"$and": [{"a": 1}, {"a": "a"}]}),
    ("$or", {"$or": [{"a": 1}, {"a.b": 2}]}),
    ("$nor", {"$nor": [{"a": 1}, {"a.b": 2}]}),
    ("a value", {"a.b": MOMENT}),
]


@st.composite
def one_for_each_operator(draw: st.DrawFn) -> list[tuple[str, dict[str, Any]]]:
    """A query for each operator, named by it, and some in which everything is mixed."""
    found = [(name, {draw(PATHS): draw(condition)}) for name, condition in CONDITIONS.items() for _ in range(2)]
    found += [(name, draw(query)) for name, query in LOGICAL.items()]
    found.append(("a value", {draw(PATHS): draw(VALUES)}))
    found += [("mixed", query) for query in draw(st.lists(ANY_QUERY, min_size=8, max_size=12))]
    return found


@pytest.fixture
def collection(mongodb_uri: str) -> Iterator[Collection[dict[str, Any]]]:
    """An empty collection of a real mongod."""
    with MongoClient[dict[str, Any]](mongodb_uri) as client:
        yield client.get_default_database()["documents"]


def for_mongod(query: Any, *, in_list: bool = False) -> Any:
    """The query as a driver sends it: a regular expression as a value has a BSON type of its own."""
    if isinstance(query, dict):
        if in_list and "$regex" in query:
            return Regex(query["$regex"], query.get("$options", ""))
        return {
            key: [for_mongod(item, in_list=key in ("$in", "$nin", "$all")) for item in value]
            if isinstance(value, list)
            else for_mongod(value)
            for key, value in query.items()
        }
    return query


def found_by_mongod(collection: Collection[dict[str, Any]], query: dict[str, Any]) -> set[int]:
    return {document["_id"] for document in collection.find(for_mongod(query), {"_id": True})}


def store(collection: Collection[dict[str, Any]], documents: list[dict[str, Any]]) -> None:
    collection.delete_many({})
    collection.insert_many([{"_id": number, **document} for number, document in enumerate(documents)])


def test_every_query_finds_what_mongod_finds(collection: Collection[dict[str, Any]]) -> None:
    hits: Counter[str] = Counter()
    misses: Counter[str] = Counter()

    @thorough(EXAMPLES)
    @given(st.lists(DOCUMENT, min_size=DOCUMENTS, max_size=DOCUMENTS), one_for_each_operator())
    def compare(documents: list[dict[str, Any]], named_queries: list[tuple[str, dict[str, Any]]]) -> None:
        documents = documents + FIXED_DOCUMENTS
        store(collection, documents)
        for name, query in (*FIXED_QUERIES, *named_queries):
            expected = found_by_mongod(collection, query)
            matches = compile_query(query)
            found = {number for number, document in enumerate(documents) if matches(document)}
            assert found == expected, (query, [documents[number] for number in sorted(found ^ expected)])
            hits[name] += len(found)
            misses[name] += len(documents) - len(found)

    compare()
    assert hits.total() + misses.total() >= (20_000 if needs.testing_all() else 3_000)
    for name in (*CONDITIONS, *LOGICAL, "a value", "mixed"):
        assert hits[name], f"no document matched a query with {name}"
        assert misses[name], f"every document matched every query with {name}"


# Operators with arguments that are mostly wrong.
ANY_NAME = st.sampled_from(
    [*CONDITIONS, "$and", "$or", "$nor", "$options", "$comment", "$foo", "$ref", "$id", "$db", "a"]
).map(lambda name: name.split()[0])
ANYTHING = st.recursive(
    SCALARS | st.sampled_from([2.5, 20, 127, "int", "missing", "(", "(?=a)", float("nan")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_NAME, inner, max_size=2),
    max_leaves=5,
)
BAD_QUERIES = st.dictionaries(ANY_NAME | st.just("b.0"), ANYTHING, min_size=1, max_size=2)
# What mongod supports and we say that we do not.
UNSUPPORTED = ("(?=a)",)


def holds_regex_in_list(query: Any) -> bool:
    """Whether our own notation for a regular expression as a value is used: mongod has nothing to compare it with."""
    if isinstance(query, dict):
        return any(
            (isinstance(value, list) and any(isinstance(item, dict) and "$regex" in item for item in value))
            or holds_regex_in_list(value)
            for value in query.values()
        )
    return isinstance(query, list) and any(map(holds_regex_in_list, query))


def test_every_query_that_mongod_refuses_is_refused_and_no_other(collection: Collection[dict[str, Any]]) -> None:
    verdicts: Counter[bool] = Counter()
    store(collection, [{"a": 1}, {"a": [1, {"b": 2}]}])

    @thorough(EXAMPLES * 30)
    @given(BAD_QUERIES)
    def compare(query: dict[str, Any]) -> None:
        if holds_regex_in_list(query) or any(pattern in repr(query) for pattern in UNSUPPORTED):
            return
        try:
            collection.find_one(query)
            accepted = True
        except OperationFailure:
            accepted = False
        verdicts[accepted] += 1
        if accepted:
            compile_query(query)
        else:
            with pytest.raises(QueryError):
                compile_query(query)

    compare()
    assert verdicts[True] >= EXAMPLES
    assert verdicts[False] >= EXAMPLES


ATOMS = st.sampled_from(
    [
        *("a", "b", "c", ".", "[ab]", "[^a]", "[a-c]", "[[:upper:]]", "k", " ", "\n", "#x\n", "-", "é"),
        *(r"\w", r"\W", r"\n", r"\s", r"\x41", r"[^\W]", r"\Q.\E", r"\h"),
    ]
)
ANCHORS = st.sampled_from(["^", "$", r"\b", r"\B", r"\A", r"\z", r"\Z", "(?i)", "(?m)", "(?s)", "(?x)", "(?-i)"])
COUNTS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,1}", "{2,}", "*?", "+?"])
EXPRESSIONS = st.recursive(
    st.tuples(ATOMS, COUNTS).map("".join) | ANCHORS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map("".join)
        | st.tuples(inner, inner).map("|".join)
        | st.tuples(st.sampled_from(["(", "(?:", "(?i:", "(?m:"]), inner, st.just(")"), COUNTS).map("".join)
    ),
    max_leaves=8,
)
TEXTS = st.text("abAc\nk\u212a é.x-", max_size=6)


def test_every_regular_expression_matches_what_mongod_matches(collection: Collection[dict[str, Any]]) -> None:
    verdicts: Counter[bool] = Counter()
    refused = 0

    @thorough(EXAMPLES)
    @given(
        st.lists(TEXTS, min_size=DOCUMENTS, max_size=DOCUMENTS),
        st.lists(st.tuples(EXPRESSIONS, OPTIONS), min_size=20, max_size=30),
    )
    def compare(texts: list[str], expressions: list[tuple[str, str]]) -> None:
        nonlocal refused
        documents = [{"a": text} for text in texts]
        store(collection, documents)
        for pattern, options in expressions:
            query = {"a": {"$regex": pattern, "$options": options}}
            try:
                matches = compile_query(query)
            except QueryError:
                refused += 1
                continue
            found = {number for number, document in enumerate(documents) if matches(document)}
            assert found == found_by_mongod(collection, query), query
            verdicts[True] += len(found)
            verdicts[False] += len(documents) - len(found)

    compare()
    assert min(verdicts.values()) >= 100
    assert refused < EXAMPLES * 10
