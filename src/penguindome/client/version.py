"""The version of the installed client, and the kind of package that it came in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

PACKAGE_KIND_FILE = "package-kind"
KINDS = ("deb", "pacman", "tar")


@lru_cache(maxsize=1)
def package_version() -> str:
    """The version of the distribution `penguindome`; "unknown" for a tree without metadata."""
    # Imported here: it costs as much as a request, and most verbs do not ask.
    from importlib import metadata

    try:
        return metadata.version("penguindome")
    except metadata.PackageNotFoundError:
        return "unknown"


def package_kind(tree: Path) -> str:
    """`deb`, `pacman` or `tar`, as the packaging wrote into the client's tree; without that, a tar."""
    try:
        kind = (tree / PACKAGE_KIND_FILE).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return "tar"
    return kind if kind in KINDS else "tar"
