"""What a plugin's output may look like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome import json
from penguindome.client import outputs
from penguindome.errors import InvalidData
from penguindome.processes import Completed


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "value", [None, True, 0, -(2**63), 2**63 - 1, 1.5, "", "ü", [], {}, {"a": {}}, [None], "unknown"]
)
def test_plain_values_are_taken_as_they_are(value: Any) -> None:
    outputs.check(value)
    assert outputs.outcome(Completed(0, json.dumps(value).encode(), b"")) == value


@pytest.mark.parametrize(
    "value",
    [
        2**63, -(2**63) - 1, "a\0b", {"a\0b": 1}, "\ud800", {"\udfff": 1}, {"k" * 201: 1}, [0] * 20_001,
        {"a.b": 1, "a\uff0eb": 2},
    ],
)  # fmt: skip
def test_what_the_server_would_refuse_is_an_error(value: Any) -> None:
    with pytest.raises(InvalidData):
        outputs.check(value)


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (b"", "printed nothing"), (b" \n", "printed nothing"), (b"{", "not JSON"), (b"NaN", "NaN"),
        (b"[1e999]", "too large"),
        (b"{} {}", "not JSON"), (b"\xff\xfe\x00", "not UTF-8"), (nested(25).encode(), "nested"),
        (nested(100_000).encode(), "nested"), (b'"\\ud800"', "surrogate"), (b"9" * 400, "64 bits"),
        (b"9" * 5000, "not JSON"),
    ],
)  # fmt: skip
def test_output_that_is_not_usable_is_a_failure_with_a_reason(printed: bytes, reason: str) -> None:
    outcome = outputs.outcome(Completed(0, printed, b""))
    assert outcome["plugin_failed"] is True
    assert reason in outcome["reason"]
    assert outcome["exit_status"] == 0


@pytest.mark.parametrize(
    ("completed", "reason", "exit_status"),
    [
        (Completed(3, b"{}", b""), "exit status 3", 3),
        (Completed(-9, b"{}", b""), "killed by signal 9", None),
        (Completed(-15, b"{}", b"", timed_out=True), "timed out", None),
        (Completed(-15, b"{}", b"", truncated=True), "printed too much", None),
    ],
)
def test_a_program_that_did_not_end_well_is_a_failure_whatever_it_printed(
    completed: Completed, reason: str, exit_status: int | None
) -> None:
    assert outputs.outcome(completed) == {"plugin_failed": True, "reason": reason, "exit_status": exit_status}


def test_a_deep_but_allowed_output_passes() -> None:
    assert outputs.outcome(Completed(0, nested(24).encode(), b"")) == json.loads(nested(24))


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=8), st.text(max_size=3000), max_size=12), st.integers(500, 9000)
)
def test_a_report_always_fits_and_the_largest_outputs_go_first(found: dict[str, str], limit: int) -> None:
    fitting = outputs.fit(found, limit)
    assert set(fitting) == set(found)
    left_out = [name for name in found if fitting[name] != found[name]]
    kept = {name: found[name] for name in found if name not in left_out}
    assert sum(len(json.dumps(value)) for value in kept.values()) <= limit
    sizes = {name: len(json.dumps(value)) for name, value in found.items()}
    # Keys count too: a few bytes may decide between two of almost the same size.
    assert all(sizes[gone] + 8 >= sizes[stays] for gone in left_out for stays in kept)


def test_no_report_holds_more_values_than_the_server_takes() -> None:
    fitting = outputs.fit({"a": [0] * 19_000, "b": [0] * 18_000, "c": [0] * 17_000, "d": {"x": 1}}, 1 << 30)
    assert [name for name, value in fitting.items() if "plugin_failed" in value] == ["a"]
    assert fitting["d"] == {"x": 1}
