"""What root has signed for clients, as it lies below `releases/` now: manifests and descriptions of releases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from penguindome.errors import PenguinDomeError
from penguindome.files import read_limited
from penguindome.logging import get_logger
from penguindome.manifest import Manifest
from penguindome.openpgp import Certificate
from penguindome.release import Description, InvalidRelease
from penguindome_server.published import LOOK_SECONDS, PublishedFile, stamp

log = get_logger(__name__)

FILE_BYTES = 16 << 20
REMEMBER_AT_MOST = 64
RENEWED = "renewed"
"""Directory below `releases/`: manifests of releases (`N/manifest.json`) that were signed anew before they expired."""

T = TypeVar("T")


@dataclass(frozen=True)
class SignedManifest:
    """A manifest as it is handed to clients: exact text, armoured signature, SHA-256 of the text in hex, release
    number.
    """

    text: str
    signature: str
    sha256: str
    release: int


@dataclass(frozen=True)
class SignedDescription:
    """The description of a release as it is handed to clients: exact text, armoured signature, and what it says."""

    text: str
    signature: str
    description: Description


class SignedFile(Generic[T]):
    """A text and its signature in two files: read again when they, or the server key, change, which root does while we
    run.
    """

    def __init__(
        self,
        path: Path,
        server_key: PublishedFile[Certificate],
        load: Callable[[bytes, bytes, Certificate], T],
    ) -> None:
        """`load` verifies text and signature, and raises PenguinDomeError for what must not be handed to clients."""
        self._text = path
        self._signature = path.with_name(f"{path.name}.asc")
        self._server_key = server_key
        self._load = load
        self._lock = threading.Lock()
        self._seen: object = None
        self._look_again = 0.0
        self._loaded: T | None = None

    def current(self) -> T | None:
        """The newest whose signature is right; None if there is none yet.

        A pair of files that does not fit together (they are replaced one after the other) leaves the one before it in
        force.
        """
        now = time.monotonic()
        if now >= self._look_again:
            seen = (stamp(self._text), stamp(self._signature), self._server_key.current.fingerprint)
            with self._lock:
                if seen != self._seen:
                    self._read()
                    self._seen = seen
                self._look_again = now + LOOK_SECONDS
        return self._loaded

    def _read(self) -> None:
        try:
            text = read_limited(self._text, FILE_BYTES)
            signature = read_limited(self._signature, FILE_BYTES)
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("{} cannot be read: {}", self._text, error)
            return
        try:
            self._loaded = self._load(text, signature, self._server_key.current)
        except PenguinDomeError as error:
            log.warning("{} is not handed to clients: {}", self._text, error)


class ManifestFile(SignedFile[SignedManifest]):
    """The signed manifest in a directory."""

    def __init__(self, directory: Path, server_key: PublishedFile[Certificate]) -> None:
        def load(text: bytes, signature: bytes, certificate: Certificate) -> SignedManifest:
            manifest = Manifest.load(text, signature, certificate)
            return SignedManifest(text.decode(), signature.decode("ascii"), manifest.sha256, manifest.release)

        super().__init__(directory / "manifest.json", server_key, load)


class DescriptionFile(SignedFile[SignedDescription]):
    """The signed description of release `number` in a directory."""

    def __init__(self, directory: Path, number: int, server_key: PublishedFile[Certificate]) -> None:
        def load(text: bytes, signature: bytes, certificate: Certificate) -> SignedDescription:
            description = Description.load(text, signature, certificate)
            if description.release != number:
                raise InvalidRelease(f"it describes release {description.release}")
            return SignedDescription(text.decode(), signature.decode("ascii"), description)

        super().__init__(directory / "release.json", server_key, load)


class SignedReleases:
    """The releases below `releases/`, by number. None is one whose files are missing, or not signed by the key.

    The manifest of a release is the one in its packages, or, once that was signed anew, the one in `RENEWED`.
    """

    def __init__(self, directory: Path, server_key: PublishedFile[Certificate]) -> None:
        self._directory = directory
        self._server_key = server_key
        self._descriptions: dict[int, DescriptionFile] = {}
        self._manifests: dict[int, tuple[ManifestFile, ManifestFile]] = {}

    def description(self, number: int) -> SignedDescription | None:
        """The description of this release."""
        if number not in self._descriptions:
            if not self._is_here(number):
                return None
            file = DescriptionFile(self._directory / str(number), number, self._server_key)
            _remember(self._descriptions, number, file)
        return self._descriptions[number].current()

    def manifest(self, number: int) -> SignedManifest | None:
        """The newest manifest of this release."""
        if number not in self._manifests:
            if not self._is_here(number):
                return None
            places = (self._directory / RENEWED / str(number), self._directory / str(number))
            renewed, original = (ManifestFile(place, self._server_key) for place in places)
            _remember(self._manifests, number, (renewed, original))
        for file in self._manifests[number]:
            found = file.current()
            if found is not None and found.release == number:
                return found
        return None

    def _is_here(self, number: int) -> bool:
        """Clients name any numbers: those of no release are not remembered."""
        return (self._directory / str(number)).is_dir()


def _remember(files: dict[int, T], number: int, file: T) -> None:
    if len(files) >= REMEMBER_AT_MOST:
        files.clear()
    files[number] = file
