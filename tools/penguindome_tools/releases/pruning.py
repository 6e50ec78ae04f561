"""Which releases' packages are not needed any more, and their removal.

The signed texts of a release stay: clients that still have it may lack its manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penguindome_server.store import Document
from penguindome_tools.releases.staged import ARMOURED, DESCRIPTION, MANIFEST

TEXTS = tuple(name + ending for name in (MANIFEST, DESCRIPTION) for ending in ("", ARMOURED))


def superfluous(documents: Sequence[Document], *, keep: int) -> list[int]:
    """The numbers of releases that can go, of all `documents`, which are the newest first.

    What stays: the newest `keep`, the newest one that is for all, and every canary above that one.
    """
    left = [document for document in documents if not document["pruned_at"]]
    needed = {document["release"] for document in left[:keep]}
    for document in left:
        if not document["halted_at"]:
            needed.add(document["release"])
            if document["promoted_at"]:
                break
    return [document["release"] for document in left if document["release"] not in needed]


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
