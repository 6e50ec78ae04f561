"""The enrolment bundle: the one file that makes a machine trust a server, and the server listen to it.

JSON, format 1: `{"format": 1, "kind": "enrolment-bundle", "server_url", "server_certificate", "ca_certificate",
"enrolment_key", "token", "created_at"}`. The server certificate (OpenPGP, armoured) is the trust anchor of everything
the client will run. A bundle holds the enrolment key, a one-time token, or both; both are secrets, so the file is
readable by its owner only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from penguindome import json
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.openpgp import Certificate, DeviceKey

FORMAT = 1
KIND = "enrolment-bundle"
MAXIMUM_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """What one machine needs to enrol. Certificates and keys are armoured or PEM text; `server_url` has no trailing
    slash.
    """

    server_url: str
    server_certificate: str
    ca_certificate: str | None
    enrolment_key: str | None
    token: str | None
    created_at: datetime

    @property
    def fingerprint(self) -> str:
        """The full fingerprint of the server key. Raises KeyMaterialError."""
        return Certificate.from_text(self.server_certificate).fingerprint

    def to_text(self) -> str:
        """The bundle as the text of its file."""
        document = {
            "format": FORMAT,
            "kind": KIND,
            "server_url": self.server_url,
            "server_certificate": self.server_certificate,
            "ca_certificate": self.ca_certificate,
            "enrolment_key": self.enrolment_key,
            "token": self.token,
            "created_at": self.created_at,
        }
        return json.dumps(document) + "\n"

    @classmethod
    def from_text(cls, text: str | bytes) -> Bundle:
        """Read a bundle and check every part. Raises InvalidData that names what is wrong."""
        if len(text) > MAXIMUM_BYTES:
            raise _wrong("it is larger than 1 MB")
        document = _parse(text)
        bundle = cls(
            server_url=server_url(_string(document, "server_url")),
            server_certificate=_string(document, "server_certificate"),
            ca_certificate=_optional(document, "ca_certificate"),
            enrolment_key=_optional(document, "enrolment_key"),
            token=_optional(document, "token"),
            created_at=_datetime(document, "created_at"),
        )
        _check_keys(bundle)
        return bundle


def server_url(text: str) -> str:
    """A server's base URL without its trailing slash. Raises InvalidData unless it is http(s) with a host and nothing
    secret in it.
    """
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  the property raises ValueError for a port that is none
    except ValueError as error:
        raise InvalidData(f"{text!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidData(f"{text!r} is not the URL of a server", hint="write https://penguindome.example.com:8443")
    if parts.username is not None or parts.query or parts.fragment or any(c.isspace() or ord(c) < 32 for c in text):
        raise InvalidData(f"{text!r}: a server's URL has no user, query, fragment or blank")
    return text.rstrip("/")


def _parse(text: str | bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except InvalidData as error:
        raise _wrong("it is not JSON; was it cut off, or changed on its way?") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise _wrong("it is another kind of file")
    if document.get("format") != FORMAT:
        raise InvalidData(
            f"this enrolment bundle has format {document.get('format')!r}, and this version knows format {FORMAT}",
            hint="install a newer client, or export the bundle again",
        )
    return document


def _check_keys(bundle: Bundle) -> None:
    if bundle.enrolment_key is None and bundle.token is None:
        raise _wrong("it holds neither an enrolment key nor a token")
    if bundle.ca_certificate is not None and "-----BEGIN CERTIFICATE-----" not in bundle.ca_certificate:
        raise _wrong("its ca_certificate is not PEM")
    try:
        Certificate.from_text(bundle.server_certificate)
    except PenguinDomeError as error:
        raise _wrong(f"its server_certificate cannot be used ({error})") from error
    if bundle.enrolment_key is not None:
        try:
            DeviceKey.from_text(bundle.enrolment_key)
        except PenguinDomeError as error:
            raise _wrong("its enrolment_key cannot be used") from error


def _string(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise _wrong(f"{name} is missing or not a text")
    return value


def _optional(document: Mapping[str, Any], name: str) -> str | None:
    return None if document.get(name) is None else _string(document, name)


def _datetime(document: Mapping[str, Any], name: str) -> datetime:
    value = document.get(name)
    if not isinstance(value, datetime):
        raise _wrong(f"{name} is missing or not a time")
    return value


def _wrong(what: str) -> InvalidData:
    return InvalidData(
        f"this is not a usable enrolment bundle: {what}", hint="export it again: penguindome enrolment export FILE"
    )
