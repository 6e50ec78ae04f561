"""Property tests: whatever the embedded engine is asked, it answers what a real mongod answers."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import needs
from penguindome_server.store import Collection, Document, Store, StoreError, open_store

if TYPE_CHECKING:
    from penguindome_tools.development.mongod import Deployment

EXAMPLES = 1500 if needs.testing_all() else 60
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

Engines = tuple[Store, Store]


@pytest.fixture(scope="module")
def engines(mongod: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """The embedded engine, and MongoDB."""
    file = tmp_path_factory.mktemp("equality") / "store.sqlite"
    name = f"equality_{uuid.uuid4().hex[:12]}"
    with closing(open_store(f"sqlite://{file}")) as embedded, closing(open_store(mongod.uri(name))) as mongodb:
        yield embedded, mongodb
        mongodb._client.drop_database(name)


moments = st.sampled_from([NOON, NOON + timedelta(milliseconds=1), datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)])
integers = st.one_of(st.integers(-3, 3), st.sampled_from([2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]))
floats = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, float(2**53), 1e300, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False, width=64),
)
texts = st.one_of(st.sampled_from(["", "a", "A", "ä", "z", "\0", "a\0b", "｡", "🐧", "10", "9"]), st.text(max_size=4))
scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts)
indexed = st.one_of(scalars, st.just("a"), st.none())

FIELDS = ("hostname", "state", "last_seen_at", "reported_at")


@st.composite
def found_documents(draw: st.DrawFn) -> list[Document]:
    keys = draw(st.lists(texts.filter(bool), min_size=1, max_size=8, unique=True))
    documents = []
    for key in keys:
        document: Document = {"_id": key}
        for field in FIELDS:
            if draw(st.booleans()):
                plain = indexed.filter(lambda value: type(value) is not str) if field.endswith("_at") else indexed
                document[field] = draw(st.one_of(moments, plain) if field.endswith("_at") else plain)
        documents.append(document)
    return documents


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    where: dict[str, Any] = {}
    for field in draw(st.lists(st.sampled_from([*FIELDS, "_id"]), max_size=3, unique=True)):
        values = texts if field == "_id" else st.one_of(indexed, moments)
        operator = draw(
            st.sampled_from(["=", "$eq", "$ne", "$in", "$nin", "$lt", "$lte", "$gt", "$gte", "$exists", "range"])
        )
        if operator == "=":
            where[field] = draw(values)
        elif operator in ("$in", "$nin"):
            where[field] = {operator: draw(st.lists(values, max_size=4))}
        elif operator == "$exists":
            where[field] = {operator: draw(st.booleans())}
        elif operator == "range":
            some = values.filter(lambda value: value is not None)
            where[field] = {"$gte": draw(some), "$lt": draw(some)}
        else:
            some = values.filter(lambda value: value is not None) if operator[1] in "lg" else values
            where[field] = {operator: draw(some)}
    return where


def _fill(engines: Engines, documents: list[Document]) -> tuple[Collection, Collection]:
    first, second = (engine.collection("clients") for engine in engines)
    for collection in (first, second):
        collection.delete({})
        collection.load([{**document, "_version": 1} for document in documents])
    return first, second


def _exactly(value: Any) -> Any:
    """A form in which 1, 1.0 and True, and 0.0 and -0.0, are different."""
    if isinstance(value, dict):
        return {key: _exactly(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_exactly(child) for child in value]
    return (type(value), value, math.copysign(1, value) if type(value) is float else 0)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(documents=found_documents(), wheres=st.lists(conditions(), min_size=1, max_size=8), data=st.data())
def test_the_same_documents_are_found_counted_and_ordered(
    engines: Engines, documents: list[Document], wheres: list[dict[str, Any]], data: st.DataObject
) -> None:
    embedded, mongodb = _fill(engines, documents)
    for where in wheres:
        sort = data.draw(st.sampled_from([None, *FIELDS, *(f"-{field}" for field in FIELDS), "_id", "-_id"]))
        limit = data.draw(st.sampled_from([None, None, 1, 3]))
        expected = list(mongodb.find(where, sort=sort, limit=limit))
        assert _exactly(list(embedded.find(where, sort=sort, limit=limit))) == _exactly(expected), (where, sort)
        assert embedded.count(where) == mongodb.count(where), where


@settings(max_examples=EXAMPLES // 3, suppress_health_check=list(HealthCheck))
@given(documents=found_documents(), sort=st.sampled_from([*FIELDS, "-hostname", "-last_seen_at", "-_id"]))
def test_pages_of_one_key_come_in_the_order_of_one_page(engines: Engines, documents: list[Document], sort: str) -> None:
    collections = _fill(engines, documents)
    whole = [document["_id"] for document in collections[1].find({}, sort=sort)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penguindome_server.store.paging.KEYS_AT_ONCE", 1)
        for collection in collections:
            assert [document["_id"] for document in collection.find({}, sort=sort)] == whole


@settings(max_examples=EXAMPLES // 3, suppress_health_check=list(HealthCheck))
@given(documents=found_documents(), where=conditions())
def test_the_same_documents_are_deleted(engines: Engines, documents: list[Document], where: dict[str, Any]) -> None:
    embedded, mongodb = _fill(engines, documents)
    assert embedded.delete(where) == mongodb.delete(where)
    assert list(embedded.find()) == list(mongodb.find())


names = st.sampled_from(["a", "b", "plugins", "x_at", "a b", "ü", "0", "outbox"])
trees: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda children: st.one_of(
        st.lists(children, max_size=3), st.dictionaries(names | st.just(""), children, max_size=3)
    ),
    max_leaves=12,
)
bad = st.sampled_from(
    [
        float("nan"),
        float("inf"),
        2**63,
        -(2**63) - 1,
        "\ud800",
        NOON,
        b"x",
        (1,),
        {"$a": 1},
        {"a.b": 1},
        {"\0": 1},
        {1: 1},
    ]
)
wholes = st.dictionaries(names, trees | moments | st.lists(st.one_of(bad, scalars), max_size=2), max_size=5)


def _inserted(collection: Collection, content: dict[str, Any]) -> Document:
    """What comes back of a document. Raises StoreError when it is refused, and then nothing is there."""
    try:
        collection.insert({"_id": "A", **deepcopy(content)})
    except StoreError:
        assert collection.count() == 0
        raise
    found = collection.get("A")
    assert _exactly(found) == _exactly({"_id": "A", "_version": 1, **content})
    assert found is not None
    return found


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StoreError as error:
        return error.message


@settings(max_examples=EXAMPLES * 2, suppress_health_check=list(HealthCheck))
@given(content=wholes)
def test_the_same_documents_are_refused_and_the_others_come_back_exactly(
    engines: Engines, content: dict[str, Any]
) -> None:
    embedded, mongodb = _fill(engines, [])
    assert _outcome(lambda: _exactly(_inserted(embedded, content))) == _outcome(
        lambda: _exactly(_inserted(mongodb, content))
    )


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(old=wholes, new=wholes, shared=st.sets(names), fields=st.lists(st.lists(names, min_size=1, max_size=3)))
def test_a_swap_has_the_same_result(
    engines: Engines, old: dict[str, Any], new: dict[str, Any], shared: set[str], fields: list[list[str]]
) -> None:
    paths = [".".join(path) for path in fields]

    def swap(collection: Collection) -> Any:
        before = _inserted(collection, old)
        after = {"_id": "A", **deepcopy(new), **{name: before[name] for name in shared & before.keys()}}
        assert collection.replace(before, after)
        assert _exactly(collection.get("A")) == _exactly(after)
        part = collection.get("A", fields=paths)
        assert list(collection.find({}, fields=paths)) == [part]
        return _exactly(after), _exactly(part)

    embedded, mongodb = _fill(engines, [])
    assert _outcome(lambda: swap(embedded)) == _outcome(lambda: swap(mongodb))
