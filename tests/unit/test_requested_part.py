"""Which part of a file a request gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome_server.requested_part import Part, choose, http_date

ETAG, THEN = '"abc"', 1_700_000_000
WHOLE = Part(200, 0, 1000)


def part(size: int = 1000, method: str = "GET", **headers: str) -> Part:
    environ = {"REQUEST_METHOD": method, **{f"HTTP_{name.upper()}": value for name, value in headers.items()}}
    return choose(environ, size=size, etag=ETAG, modified_at=THEN)


@pytest.mark.parametrize(("text", "expected"), [
    ("bytes=0-0", Part(206, 0, 1)), ("bytes=0-", Part(206, 0, 1000)), ("bytes=990-2000", Part(206, 990, 10)),
    ("bytes=-10", Part(206, 990, 10)), ("bytes=-5000", Part(206, 0, 1000)), ("Bytes = 5-9", Part(206, 5, 5)),
    ("bytes=1000-", Part(416)), ("bytes=-0", Part(416)), ("bytes=99999999999999999-", Part(416)),
    ("bytes=9-5", WHOLE), ("bytes=-", WHOLE), ("bytes=0-1,5-6", WHOLE), ("lines=1-2", WHOLE), ("bytes=a-b", WHOLE),
    ("bytes=0x1-2", WHOLE), ("bytes=1", WHOLE), ("bytes=--1", WHOLE), ("bytes=" + "9" * 400 + "-", WHOLE),
])  # fmt: skip
def test_a_range_is_served_or_refused_or_as_if_it_were_not_there(text: str, expected: Part) -> None:
    assert part(range=text) == expected


def test_an_empty_file_has_no_parts() -> None:
    assert part(size=0) == Part(200, 0, 0)
    assert part(size=0, range="bytes=0-") == Part(416)
    assert part(size=0, range="bytes=-5") == Part(416)


def test_head_has_no_ranges() -> None:
    assert part(method="HEAD", range="bytes=0-5") == WHOLE


@pytest.mark.parametrize(("condition", "counts"), [
    (ETAG, True), ('"other"', False), (f"W/{ETAG}", False), (http_date(THEN), True), (http_date(THEN - 1), False),
    (http_date(THEN + 1), False), ("nonsense", False),
])  # fmt: skip
def test_a_range_counts_only_for_the_version_that_the_reader_has_a_part_of(condition: str, counts: bool) -> None:
    assert part(range="bytes=5-", if_range=condition) == (Part(206, 5, 995) if counts else WHOLE)


@pytest.mark.parametrize(("headers", "status"), [
    ({"if_none_match": ETAG}, 304), ({"if_none_match": f'"x", W/{ETAG}'}, 304), ({"if_none_match": "*"}, 304),
    ({"if_none_match": '"x"'}, 200), ({"if_none_match": "abc"}, 200),
    ({"if_modified_since": http_date(THEN)}, 304), ({"if_modified_since": http_date(THEN - 1)}, 200),
    ({"if_modified_since": "yesterday"}, 200),
    ({"if_modified_since": "Mon, 01 Jan 0000 99:00:00 GMT"}, 200),
    ({"if_none_match": '"x"', "if_modified_since": http_date(THEN)}, 200),
    ({"if_match": ETAG}, 200), ({"if_match": "*"}, 200), ({"if_match": '"x"'}, 412), ({"if_match": f"W/{ETAG}"}, 412),
    ({"if_unmodified_since": http_date(THEN)}, 200), ({"if_unmodified_since": http_date(THEN - 1)}, 412),
    ({"if_match": '"x"', "if_none_match": ETAG}, 412), ({"if_none_match": ETAG, "range": "bytes=0-1"}, 304),
])  # fmt: skip
def test_conditions_come_in_the_order_of_the_standard(headers: dict[str, str], status: int) -> None:
    assert part(**headers).status == status


@given(size=st.integers(0, 2000), text=st.text(max_size=20), header=st.sampled_from(("range", "if_range", "if_match")))
def test_whatever_is_asked_the_part_lies_within_the_file(size: int, text: str, header: str) -> None:
    found = part(size, **{"range": "bytes=1-5", header: text})
    assert found.status in (200, 206, 412, 416)
    assert 0 <= found.offset <= found.offset + found.length <= size


@given(size=st.integers(1, 50), first=st.integers(0, 60), last=st.integers(0, 60))
def test_a_range_is_what_a_slice_is(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    found = part(size, range=f"bytes={first}-{last}")
    if found.status == 206:
        assert data[found.offset : found.offset + found.length] == data[first : last + 1]
    else:
        assert found.status == (416 if first <= last else 200)
