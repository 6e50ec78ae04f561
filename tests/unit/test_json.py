"""JSON with dates under keys that end in `_at`."""

from __future__ import annotations

import io
import json as standard_json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome import json
from penguindome.errors import InvalidData
from penguindome.times import parse_iso, to_milliseconds

MOMENT = datetime(2026, 11, 23, 22, 30, 0, 123_000, timezone.utc)
KEYS = st.text(max_size=8).filter(lambda key: not key.endswith("_at"))
DATES = st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(timezone.utc))  # noqa: DTZ001  # hypothesis adds the zone
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text().filter(lambda text: parse_iso(text) is None)
)
VALUES = st.recursive(
    SCALARS,
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(KEYS, children, max_size=4)
        | st.dictionaries(KEYS.map(lambda key: key + "_at"), DATES.map(to_milliseconds) | SCALARS, max_size=3)
    ),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """The value with the type of every part beside it, since True == 1 == 1.0."""
    if isinstance(value, dict):
        return {key: typed(child) for key, child in value.items()}
    if isinstance(value, list):
        return [typed(child) for child in value]
    return (type(value), value)


@given(VALUES)
def test_what_is_written_is_read_as_the_same(value: Any) -> None:
    text = json.dumps(value)
    assert typed(json.loads(text)) == typed(value)
    assert typed(json.loads(text.encode())) == typed(value)
    assert typed(json.revive(json.loads_plain(text))) == typed(value)


def test_a_date_is_one_wherever_its_key_stands() -> None:
    text = '{"a":1,"seen_at":"2026-11-23T22:30:00.123Z","b":[{"z":0,"boot_at":"2026-11-23T23:30:00.123456+01:00"}]}'
    value = json.loads(text)
    assert value == {"a": 1, "seen_at": MOMENT, "b": [{"z": 0, "boot_at": MOMENT}]}


def test_a_key_written_with_escapes_is_the_same_key() -> None:
    assert json.loads('{"seen\\u005fat":"2026-11-23T22:30:00.123Z"}') == {"seen_at": MOMENT}


def test_an_empty_object_stays_one() -> None:
    assert json.loads(json.dumps({"a": {}, "b": [], "c": None, "d": ""})) == {"a": {}, "b": [], "c": None, "d": ""}


@pytest.mark.parametrize("text", ["yesterday", "", "2026-11-23", "2026-11-23T22:30:00"])
def test_text_that_is_no_moment_stays_text(text: str) -> None:
    assert json.loads(standard_json.dumps({"seen_at": text})) == {"seen_at": text}


def test_a_moment_under_another_key_stays_text() -> None:
    assert json.loads('{"seen":"2026-11-23T22:30:00Z"}') == {"seen": "2026-11-23T22:30:00Z"}


@pytest.mark.parametrize("value", [{"seen": MOMENT}, {"seen_at": [MOMENT]}, [MOMENT], MOMENT, {"a": ({"b": MOMENT},)}])
def test_a_date_that_would_not_come_back_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="_at"):
        json.dumps(value)


def test_a_naive_date_is_refused() -> None:
    with pytest.raises(TypeError, match="no time zone"):
        json.dumps({"seen_at": datetime(2026, 11, 23)})  # noqa: DTZ001  # what is refused


def test_a_date_is_written_in_utc() -> None:
    local = MOMENT.astimezone(timezone(timedelta(hours=-7)))
    assert json.dumps({"seen_at": local}) == '{"seen_at":"2026-11-23T22:30:00.123Z"}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_has_not_are_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json.dumps({"a": [number]})


def test_types_that_json_has_not_are_not_written() -> None:
    with pytest.raises(TypeError, match="set"):
        json.dumps({"a": {1, 2}})


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        "-Infinity",
        '{"a":1e999}',
        "",
        "{",
        "nope",
        '{"a":1}{"b":2}',
        "\ufeff{}",
        b"\xff\xfe{}",
        b'"\xc3"',
        '"\x00"',
        "[" * 200_000,
        '{"a":' * 200_000,
        "1" * 10_000,
    ],
)
def test_what_is_no_json_is_refused_as_invalid_data(text: str | bytes) -> None:
    for read in (json.loads, json.loads_plain):
        with pytest.raises(InvalidData):
            read(text)


def test_nesting_beyond_the_interpreter_is_an_error_of_value_when_written() -> None:
    value: list[Any] = []
    for _ in range(200_000):
        value = [value]
    with pytest.raises(ValueError, match="deep"):
        json.dumps(value)
    while value:  # taken apart here: freeing it in one go would recurse
        value = value.pop()


def test_revive_walks_deep_trees_without_recursion() -> None:
    tree: dict[str, Any] = {"seen_at": "2026-11-23T22:30:00.123Z"}
    leaf = tree
    for _ in range(5_000):
        tree = {"a": [tree]}
    json.revive(tree)
    assert leaf["seen_at"] == MOMENT


def test_files_are_read_and_written() -> None:
    file = io.StringIO()
    json.dump({"seen_at": MOMENT}, file)
    file.seek(0)
    assert json.load(file) == {"seen_at": MOMENT}
