"""Form fields out of a request's body: exact bytes, and nothing that no client of ours sends."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from penguindome_server.forms import read_form, require_fields
from penguindome_server.refusals import Refusal

LIMIT = 100_000
URLENCODED = "application/x-www-form-urlencoded"


class Untouchable(io.RawIOBase):
    """A body that must not be read."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the body was read")


def environ(body: bytes, content_type: str, encoding: str = "", *, chunked: bool = False) -> dict[str, Any]:
    result: dict[str, Any] = {
        "wsgi.input": io.BytesIO(body),
        "CONTENT_TYPE": content_type,
        "HTTP_CONTENT_ENCODING": encoding,
    }
    return result if chunked else {**result, "CONTENT_LENGTH": str(len(body))}


def reason(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(Refusal) as caught:
        read_form(environ(*arguments, **keywords), LIMIT)
    return caught.value.reason


def multipart(fields: dict[str, bytes]) -> tuple[bytes, str]:
    body, content_type = encode_multipart_formdata(dict(fields))
    return body, content_type


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_both_forms_keep_the_exact_bytes(data: bytes, signature: bytes) -> None:
    fields = {"data": data, "signature": signature}
    assert read_form(environ(*multipart(fields)), LIMIT) == fields
    assert read_form(environ(urlencode(fields).encode(), URLENCODED), LIMIT) == fields
    body, content_type = multipart(fields)
    assert read_form(environ(gzip.compress(body), content_type, "gzip"), LIMIT) == fields
    assert read_form(environ(body, content_type, chunked=True), LIMIT) == fields


def test_line_ends_and_boundary_look_alikes_inside_a_part_are_its_bytes() -> None:
    fields = {"data": b"\r\n--x\r\n\n\r\n", "signature": b"\r\n"}
    assert read_form(environ(*multipart(fields)), LIMIT) == fields


@pytest.mark.parametrize("value", [b"a=b==c", b"=3D", b"100% & more", b"+ +", b"\0\xff\n\r"])
def test_urlencoded_values_may_hold_anything(value: bytes) -> None:
    assert read_form(environ(urlencode({"data": value}).encode(), URLENCODED), LIMIT) == {"data": value}


def test_an_announced_body_beyond_the_limit_is_refused_unread() -> None:
    request = {"wsgi.input": Untouchable(), "CONTENT_TYPE": URLENCODED, "CONTENT_LENGTH": str(200 << 20)}
    with pytest.raises(Refusal) as caught:
        read_form(request, LIMIT)
    assert caught.value.reason == "too-large"


def test_a_body_that_was_not_announced_is_read_no_further_than_the_limit() -> None:
    body = io.BytesIO(b"data=" + b"x" * (10 * LIMIT))
    with pytest.raises(Refusal) as caught:
        read_form({"wsgi.input": body, "CONTENT_TYPE": URLENCODED}, LIMIT)
    assert caught.value.reason == "too-large"
    assert body.tell() <= 2 * LIMIT


def test_a_gzip_bomb_is_too_large() -> None:
    bomb = gzip.compress(b"data=" + b"\0" * (50 << 20))
    assert len(bomb) < LIMIT
    assert reason(bomb, URLENCODED, "gzip") == "too-large"


@pytest.mark.parametrize("body", [b"", b"data=1", gzip.compress(b"data=1")[:-3], gzip.compress(b"data=1") + b"more",
                                  zlib.compress(b"data=1")])  # fmt: skip
def test_what_is_not_one_gzip_stream_is_malformed(body: bytes) -> None:
    assert reason(body, URLENCODED, "gzip") == "malformed"


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_other_encodings_are_malformed(encoding: str) -> None:
    assert reason(b"data=1", URLENCODED, encoding) == "malformed"


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/json", "multipart/mixed; boundary=x", "multipart/form-data"]
)
def test_other_content_types_are_malformed(content_type: str) -> None:
    assert reason(b"data=1", content_type) == "malformed"


@pytest.mark.parametrize(
    "body",
    [
        b"data=1&data=2",
        b"data",
        b"data=1&",
        b"data=%",
        b"data=%4",
        b"data=%zz",
        b"&".join(b"f%d=1" % n for n in range(5000)),
    ],
)
def test_broken_or_repeated_urlencoded_fields_are_malformed(body: bytes) -> None:
    assert reason(body, URLENCODED) == "malformed"


def part(name: str, value: str = "1", more: str = "") -> str:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


@pytest.mark.parametrize(
    "body",
    [
        "",
        "--x--\r\n" * 2,
        part("data"),
        part("data") + "--x",
        part("data") + part("data") + "--x--\r\n",
        part("data", more='; filename="a.json"') + "--x--\r\n",
        part("data", more="\r\nContent-Transfer-Encoding: base64") + "--x--\r\n",
        "preamble\r\n" + part("data") + "--x--\r\n",
        "--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n",
        "--x\r\n\r\n1\r\n--x--\r\n",
        "--x\r\nX: " + "y" * 5000 + "\r\n\r\n1\r\n--x--\r\n",
        "".join(part(f"f{n}") for n in range(1000)) + "--x--\r\n",
    ],
)
def test_broken_multipart_forms_are_malformed(body: str) -> None:
    assert reason(body.encode(), "multipart/form-data; boundary=x") == "malformed"


def test_a_quoted_boundary_and_a_charset_are_understood() -> None:
    body = (part("data", "é").replace("--x", "--a b") + "--a b--\r\n").encode()
    content_type = 'multipart/form-data; charset=utf-8; boundary="a b"'
    assert read_form(environ(body, content_type), LIMIT) == {"data": "é".encode()}


@pytest.mark.parametrize(
    "fields", [{}, {"data": b""}, {"data": b"", "signature": b"", "more": b""}, {"data": b"", "Signature": b""}]
)
def test_missing_and_unknown_fields_are_malformed(fields: dict[str, bytes]) -> None:
    with pytest.raises(Refusal) as caught:
        require_fields(fields, frozenset(("data", "signature")))
    assert caught.value.reason == "malformed"
