"""Signed descriptions of releases: which package files a release consists of.

The text is JSON, signed as it stands (armoured, detached) by the server key:
`{"format":1,"release":N,"version":TEXT,"machine":"x86_64","issued_at":...,"expires_at":...,"manifest_sha256":HEX,
"packages":{"deb":{"name":FILE,"sha256":HEX,"size":NUMBER}, ...}}` with the kinds deb, pacman and tar.
It is what a client believes about a release before it has anything of it; the manifest, which names the files that may
run, lies in the packages.

Rules of `Description.load`, in this order and without I/O: at most 64 KiB; the signature is by the pinned certificate
and over exactly these bytes; JSON of format 1 with exactly these keys and types. Whether it has expired, or is older
than one seen before, is for the caller to judge (`client.trust`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from penguindome import json
from penguindome.errors import InvalidData, PenguinDomeError

if TYPE_CHECKING:
    from penguindome.openpgp import Certificate

FORMAT = 1
LARGEST = 64 * 1024
KINDS = ("deb", "pacman", "tar")
LARGEST_PACKAGE = 512 * 1024 * 1024
REFUSED = "refused: "
"""How the reason of a failure begins, in the reports of a client that never tried the release that it was offered."""

_KEYS = {"format", "release", "version", "machine", "issued_at", "expires_at", "manifest_sha256", "packages"}
_HASH = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_:~-]{0,199}")


class InvalidRelease(PenguinDomeError):
    """A description of a release, or what it describes, is not what was signed."""

    code: ClassVar[str] = "release"


@dataclass(frozen=True)
class PackageFile:
    """One package of a release: name of the file, SHA-256 (hex) and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Description:
    """A verified description. `machine` is what `uname -m` says where the packages fit."""

    release: int
    version: str
    machine: str
    issued_at: datetime
    expires_at: datetime
    manifest_sha256: str
    packages: Mapping[str, PackageFile]
    data: bytes = field(repr=False)

    @classmethod
    def load(cls, data: bytes, signature: bytes, certificate: Certificate) -> Description:
        """Verify and read a description. Raises SignatureError or InvalidRelease."""
        if len(data) > LARGEST:
            raise InvalidRelease("the description of the release is too large")
        certificate.verify(data, signature)
        try:
            content = json.loads(data)
        except InvalidData as error:
            raise InvalidRelease(f"the description of the release is {error.message}") from error
        return cls.from_content(content, data)

    @classmethod
    def from_content(cls, content: Any, data: bytes) -> Description:
        """Check keys and types of parsed content, whose text is `data`; for text just verified, or made."""
        _demand(isinstance(content, dict) and set(content) == _KEYS, "it has not the keys of one")
        _demand(_is_int(content["format"]) and content["format"] == FORMAT, f"its format is not {FORMAT}")
        _demand(_is_int(content["release"]) and content["release"] >= 0, "its release is not a number")
        for key in ("version", "machine"):
            _demand(isinstance(content[key], str) and 0 < len(content[key]) <= 100, f"its {key} is no text")
        for key in ("issued_at", "expires_at"):
            _demand(isinstance(content[key], datetime), f"{key} is not a point in time")
        _demand(content["issued_at"] < content["expires_at"], "it expires before it was issued")
        _demand(_is_hash(content["manifest_sha256"]), "the hash of its manifest is none")
        packages = content["packages"]
        _demand(isinstance(packages, dict) and bool(packages) and set(packages) <= set(KINDS), "its packages are none")
        return cls(
            content["release"],
            content["version"],
            content["machine"],
            content["issued_at"],
            content["expires_at"],
            content["manifest_sha256"],
            {kind: _package(kind, entry) for kind, entry in packages.items()},
            data,
        )


def build(
    *,
    release: int,
    version: str,
    machine: str,
    issued_at: datetime,
    expires_at: datetime,
    manifest_sha256: str,
    packages: Mapping[str, PackageFile],
) -> bytes:
    """The text of a description; to be signed as it is. Raises InvalidRelease."""
    content = {
        "format": FORMAT,
        "release": release,
        "version": version,
        "machine": machine,
        "issued_at": issued_at,
        "expires_at": expires_at,
        "manifest_sha256": manifest_sha256,
        "packages": {kind: vars(package) for kind, package in packages.items()},
    }
    data = json.dumps(content).encode("ascii")
    Description.from_content(json.loads(data), data)
    return data


def _package(kind: str, entry: Any) -> PackageFile:
    _demand(isinstance(entry, dict) and set(entry) == {"name", "sha256", "size"}, f"its {kind} package is none")
    name, size = entry["name"], entry["size"]
    _demand(isinstance(name, str) and bool(_NAME.fullmatch(name)), f"the name of its {kind} package is none")
    _demand(_is_hash(entry["sha256"]), f"the hash of its {kind} package is none")
    _demand(_is_int(size) and 0 < size <= LARGEST_PACKAGE, f"the size of its {kind} package is none")
    return PackageFile(name, entry["sha256"], size)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _demand(condition: object, problem: str) -> None:
    if not condition:
        raise InvalidRelease(f"this is not a usable description of a release: {problem}")
