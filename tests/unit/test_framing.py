"""Where a request ends, whatever pieces it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome_server.framing import MAXIMUM_HEADERS, BadRequest, Framing

LIMIT = 1000
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /x HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"
TRAILERS = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n"
WHOLE = [GET, POST, CHUNKED, TRAILERS]


@pytest.mark.parametrize("request_bytes", WHOLE)
def test_a_whole_request_ends_where_it_ends_even_if_another_follows(request_bytes: bytes) -> None:
    assert Framing(LIMIT).end(bytearray(request_bytes)) == len(request_bytes)
    assert Framing(LIMIT).end(bytearray(request_bytes + GET)) == len(request_bytes)


@given(st.sampled_from(WHOLE), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_pieces_of_any_size_end_at_the_same_place(request_bytes: bytes, sizes: list[int]) -> None:
    framing, buffer, rest, turn = Framing(LIMIT), bytearray(), request_bytes, 0
    while rest:
        size = sizes[turn % len(sizes)]
        turn += 1
        buffer += rest[:size]
        rest = rest[size:]
        assert framing.end(buffer) == (None if rest else len(request_bytes))


def test_empty_lines_before_a_request_are_skipped() -> None:
    buffer = bytearray(b"\r\n\r\n" + GET)
    assert Framing(LIMIT).end(buffer) == len(GET)
    assert buffer == GET


def test_an_expectation_is_noticed_and_taken_out() -> None:
    buffer = bytearray(POST.replace(b"Host: a\r\n", b"Expect: 100-continue\r\nHost: a\r\n"))
    framing = Framing(LIMIT)
    assert framing.end(buffer) == len(POST)
    assert framing.expects_continue
    assert buffer == POST


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Length: 1001", 413),
        (b"Content-Length: 99999999999999999999999", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: +5", 400),
        (b"Content-Length: 5, 5", 400),
        (b"Content-Length:", 400),
        (b"Content-Length: 5\r\nContent-Length: 5", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: gzip, chunked", 400),
        (b"Transfer-Encoding: identity", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
    ],
)
def test_a_body_whose_end_is_unclear_or_too_far_is_refused_before_it_comes(headers: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        Framing(LIMIT).end(bytearray(b"POST /x HTTP/1.1\r\n" + headers + b"\r\n\r\n"))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("chunks", "status"),
    [(b"zz\r\n", 400), (b"-5\r\n", 400), (b"\r\n", 400), (b"5" * 300, 400), (b"fffffffff\r\n", 400), (b"3e9\r\n", 413),
     (b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\n", 413)],
)  # fmt: skip
def test_broken_and_endless_chunks_are_refused(chunks: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        Framing(LIMIT).end(bytearray(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks))
    assert caught.value.status == status


def test_headers_without_end_are_refused() -> None:
    framing, buffer = Framing(LIMIT), bytearray(b"GET / HTTP/1.1\r\n")
    while len(buffer) < MAXIMUM_HEADERS - 6:
        buffer += b"X: y\r\n"
        assert framing.end(buffer) is None
    buffer += b"X: y\r\n" * 2
    with pytest.raises(BadRequest) as caught:
        framing.end(buffer)
    assert caught.value.status == 431
