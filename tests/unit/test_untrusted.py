"""The walk over what a client sent: what passes, what is mapped, what is refused."""

from __future__ import annotations

import json as plain_json
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome_server.refusals import Refusal
from penguindome_server.untrusted import Limits, hostname_field, integer_field, parse, text_field

LIMITS = Limits(depth=8, keys=200, key_length=32)


def reason(data: bytes | str, limits: Limits = LIMITS) -> str:
    with pytest.raises(Refusal) as caught:
        parse(data.encode() if isinstance(data, str) else data, limits)
    return caught.value.reason


def clean(text: str, limits: Limits = LIMITS) -> dict[str, Any]:
    return parse(text.encode(), limits)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"nothing", b"\xff\xfe{}", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": Infinity}', b"{} {}"]
)
def test_what_is_not_json_is_malformed(data: bytes) -> None:
    assert reason(data) == "malformed"


@pytest.mark.parametrize("data", ["[]", "null", "1", '"text"', "true"])
def test_json_that_is_no_object_is_invalid(data: str) -> None:
    assert reason(data) == "invalid"


def test_nesting_up_to_the_limit_passes_and_beyond_is_invalid() -> None:
    assert clean('{"a":' * 7 + "[]" + "}" * 7)
    assert reason('{"a":' * 8 + "[]" + "}" * 8) == "invalid"
    assert reason('{"a":' + "[" * 100_000 + "]" * 100_000 + "}") == "invalid"


def test_the_number_of_keys_and_items_is_limited() -> None:
    assert clean(plain_json.dumps({"a": [1] * 199}))
    assert reason(plain_json.dumps({"a": [1] * 200})) == "invalid"
    assert reason(plain_json.dumps({"a": {str(n): n for n in range(200)}})) == "invalid"


def test_the_length_of_a_key_is_limited() -> None:
    assert clean(plain_json.dumps({"k" * 32: {"é" * 32: 1}}))
    assert reason(plain_json.dumps({"a": [{"k" * 33: 1}]})) == "invalid"


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0, 1234567890123456789])
def test_integers_of_64_bits_pass(number: int) -> None:
    assert clean(f'{{"a": [{number}]}}') == {"a": [number]}


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_integers_beyond_64_bits_are_invalid(number: int) -> None:
    assert reason(f'{{"a": [{{"b": {number}}}]}}') == "invalid"


def test_an_integer_of_thousands_of_digits_is_refused() -> None:
    assert reason('{"a": ' + "9" * 10_000 + "}") in ("malformed", "invalid")


@pytest.mark.parametrize("text", [r"\u0000", r"a\u0000b", r"\ud800", r"\udfff", r"\udc00\ud800"])
def test_nul_and_half_surrogates_are_invalid_in_values_and_keys(text: str) -> None:
    assert reason(f'{{"a": ["{text}"]}}') == "invalid"
    assert reason(f'{{"a": {{"{text}": 1}}}}') == "invalid"


def test_escapes_that_make_whole_characters_pass() -> None:
    assert clean(r'{"a": "\ud83d\udc27 \u00e9"}') == {"a": "🐧 é"}


def test_dots_and_leading_dollars_in_keys_are_mapped() -> None:
    assert clean('{"$gt": {"a.b": 1, "c$": 2}}') == {"\uff04gt": {"a\uff0eb": 1, "c$": 2}}


def test_an_escaped_dollar_is_mapped_too() -> None:
    assert clean(r'{"\u0024gt": {"a\u002eb": 1}}') == {"\uff04gt": {"a\uff0eb": 1}}


def test_keys_that_become_the_same_are_invalid() -> None:
    assert reason('{"a.b": 1, "a\uff0eb": 2}') == "invalid"


def test_times_under_at_keys_are_revived_at_any_depth_and_place() -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
    value = clean(
        '{"x": [{"first": 1, "seen_at": "2026-11-23T12:00:00Z"}], "other": "2026-11-23T12:00:00Z", "bad_at": "noon"}'
    )
    assert value == {"x": [{"first": 1, "seen_at": noon}], "other": "2026-11-23T12:00:00Z", "bad_at": "noon"}


def test_empty_objects_and_lists_stay_what_they_are() -> None:
    assert clean('{"a": {}, "b": [], "c": null}') == {"a": {}, "b": [], "c": None}


keys = st.text(max_size=10)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=30,
)


@given(st.dictionaries(keys, values, max_size=5), st.booleans())
def test_what_passes_holds_nothing_that_breaks_a_rule(document: dict[str, Any], ascii_only: bool) -> None:
    text = plain_json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with suppress(Refusal):
        _check(parse(text, LIMITS), 1)


def _check(value: Any, depth: int) -> None:
    assert depth <= LIMITS.depth + 1
    if isinstance(value, dict):
        for key, child in value.items():
            assert len(key) <= LIMITS.key_length
            assert "." not in key
            assert not key.startswith("$")
            assert "\0" not in key
            key.encode()
            _check(child, depth + 1)
    elif isinstance(value, list):
        for child in value:
            _check(child, depth + 1)
    elif isinstance(value, int):
        assert -(2**63) <= value < 2**63
    elif isinstance(value, str):
        assert "\0" not in value
        value.encode()


@pytest.mark.parametrize("name", ["laptop7", "a", "LAPTOP-7.example.org", "3com", "x" * 63, ".".join(["x" * 62] * 4)])
def test_host_names_of_rfc_1123_pass_in_lower_case(name: str) -> None:
    assert hostname_field({"hostname": name}) == name.lower()


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "a..b", ".a", "a.", "a_b", "a b", "a\n", "a\0b", "x" * 64, "é",
      ".".join(["x" * 63] * 4) + "x", "x" * 100_000,
     None, 1, True, [], {"$gt": ""}, {"\uff04gt": ""}],
)  # fmt: skip
def test_other_host_names_are_invalid(name: Any) -> None:
    with pytest.raises(Refusal) as caught:
        hostname_field({"hostname": name})
    assert caught.value.reason == "invalid"


@pytest.mark.parametrize("value", [None, True, -1, 1.0, "1", 2**63, [], {}])
def test_an_integer_field_takes_integers_from_zero_only(value: Any) -> None:
    with pytest.raises(Refusal):
        integer_field({"n": value}, "n")


@pytest.mark.parametrize("value", [None, "", 1, [], {}, "a\nb", "a\x1b[0m", "x" * 11])
def test_a_text_field_takes_one_printable_line_only(value: Any) -> None:
    with pytest.raises(Refusal):
        text_field({"t": value}, "t", longest=10)
