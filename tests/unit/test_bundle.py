"""The enrolment bundle: what goes in comes out, and what is not one says what is wrong."""

from __future__ import annotations

import json as plain_json
from datetime import datetime, timezone
from typing import Any

import pytest

from penguindome.bundle import Bundle, server_url
from penguindome.errors import InvalidData
from penguindome.openpgp import DeviceKey

SERVER, ENROLMENT = DeviceKey.generate("server"), DeviceKey.generate("enrolment")
PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


def bundle(**values: Any) -> Bundle:
    own = {
        "server_url": "https://penguindome.example.org:8443",
        "server_certificate": SERVER.certificate.text,
        "ca_certificate": PEM,
        "enrolment_key": ENROLMENT.text,
        "token": "token",
        "created_at": datetime(2026, 11, 23, 12, tzinfo=timezone.utc),
    }
    return Bundle(**{**own, **values})


@pytest.mark.parametrize("left_out", [(), ("ca_certificate",), ("enrolment_key",), ("token", "ca_certificate")])
def test_what_is_written_is_read_again(left_out: tuple[str, ...]) -> None:
    made = bundle(**dict.fromkeys(left_out))
    assert Bundle.from_text(made.to_text()) == made
    assert Bundle.from_text(made.to_text().encode()) == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2"),
        ({"kind": "manifest"}, "another kind"),
        ({"server_url": "penguindome.example.org"}, "URL"),
        ({"server_url": None}, "server_url"),
        ({"server_certificate": "none"}, "server_certificate"),
        ({"server_certificate": SERVER.text}, "server_certificate"),
        ({"ca_certificate": "none"}, "ca_certificate"),
        ({"enrolment_key": "none"}, "enrolment_key"),
        ({"enrolment_key": ENROLMENT.certificate.text}, "enrolment_key"),
        ({"enrolment_key": None, "token": None}, "neither"),
        ({"token": 1}, "token"),
        ({"created_at": "yesterday"}, "created_at"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    document = plain_json.loads(bundle().to_text())
    with pytest.raises(InvalidData) as caught:
        Bundle.from_text(plain_json.dumps({**document, **change}))
    assert said in caught.value.message
    assert "PRIVATE KEY" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0", "x" * (2 << 20), bundle().to_text()[:-40]])
def test_what_is_no_bundle_is_refused(text: str) -> None:
    with pytest.raises(InvalidData):
        Bundle.from_text(text)


@pytest.mark.parametrize("url", ["https://host", "http://127.0.0.1:8443", "https://[2001:db8::1]:8443/base/"])
def test_urls_of_servers_are_kept_without_the_last_slash(url: str) -> None:
    assert server_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["", "host", "ftp://host", "https://", "https://user:secret@host", "https://host?x=1", "https://host#x",
     "https://ho st", "https://host:port", "https://host\n"],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidData):
        server_url(url)
