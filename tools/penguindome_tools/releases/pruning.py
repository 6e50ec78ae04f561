"""Which releases' packages are not needed any more, and their removal.

The signed texts of a release stay: clients that still have it may lack its manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from penguindome_server.store import Document
from penguindome_tools.releases.staged import ARMOURED, DESCRIPTION, MANIFEST

TEXTS = tuple(name + ending for name in (MANIFEST, DESCRIPTION) for ending in ("", ARMOURED))


def superfluous(own: Sequence[Document], stored: Sequence[Document], *, keep: int) -> list[int]:
    """The numbers of releases that can go, by root's `own` record and by what is `stored`, each the newest first.

    What stays: the newest `keep`, the newest one that is for all, and every canary above that one.
    """
    needed = _needed(own, keep) | _needed(stored, keep)
    return [entry["release"] for entry in own if not entry["pruned_at"] and entry["release"] not in needed]


def _needed(documents: Iterable[Document], keep: int) -> set[int]:
    left = [document for document in documents if not document["pruned_at"]]
    needed: set[int] = {document["release"] for document in left[:keep]}
    for document in left:
        if not document["halted_at"]:
            needed.add(document["release"])
            if document["promoted_at"]:
                break
    return needed


def has_packages(directory: Path) -> bool:
    """Whether there is something that `remove_packages` would remove."""
    return directory.is_dir() and any(path.name not in TEXTS for path in directory.iterdir())


def remove_packages(directory: Path) -> int:
    """Remove all but the signed texts of the release in `directory`; returns how many bytes that freed."""
    freed = 0
    if not directory.is_dir():
        return freed
    for path in directory.iterdir():
        if path.name not in TEXTS:
            freed += path.stat().st_size
            path.unlink()
    return freed
