"""What of the server's signed files expires when: read from the published files, as clients get them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import read_limited
from penguindome.paths import Paths
from penguindome_server.repository_index import index_times
from penguindome_server.server_issues import Expiring, SignedThing
from penguindome_server.signed_files import RENEWED

FILE_BYTES = 16 << 20


def expiring(paths: Paths, releases: Iterable[int], *, now: datetime) -> Expiring:
    """What is about to expire of the indices, of the manifest of the base packages, and of these releases.

    What is not there at all is nothing that expires: this machine has published nothing yet.
    """
    things, broken = [], []
    for name, path in _signed_files(paths, releases):
        try:
            thing = _times(name, path)
        except (PenguinDomeError, OSError) as error:
            broken.append(f"{name}: {error}")
            continue
        if thing is not None:
            things.append(thing)
    return Expiring.of(things, broken, now=now)


def _signed_files(paths: Paths, releases: Iterable[int]) -> Iterator[tuple[str, Path]]:
    yield "the indices of the repositories", paths.repository / "current"
    yield "the manifest of the clients' packages", paths.releases / "manifest.json"
    for release in releases:
        yield f"the description of release {release}", paths.releases / str(release) / "release.json"
        renewed = paths.releases / RENEWED / str(release) / "manifest.json"
        original = paths.releases / str(release) / "manifest.json"
        yield f"the manifest of release {release}", renewed if renewed.exists() else original


def _times(name: str, path: Path) -> SignedThing | None:
    if path.name == "current":
        times = index_times(path)
        return None if times is None else SignedThing(name, times.signed_at, times.expires_at)
    try:
        content: Any = json.loads(read_limited(path, FILE_BYTES))
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise InvalidData("it is no object")
    signed_at, expires_at = content.get("issued_at"), content.get("expires_at")
    if not isinstance(signed_at, datetime) or not isinstance(expires_at, datetime):
        raise InvalidData("it does not say from when until when it is valid")
    return SignedThing(name, signed_at, expires_at)
