"""The setting that says which kinds of packages a release has."""

from __future__ import annotations

from typing import Any

from penguindome.release import KINDS
from penguindome.settings import Setting


def _check_kinds(values: Any) -> None:
    if not values:
        raise ValueError(f"a release has packages of at least one kind: {', '.join(KINDS)}")


RELEASE_KIND_SETTINGS = (
    Setting(
        name="releases.kinds",
        kind="list",
        default=list(KINDS),
        choices=KINDS,
        check=_check_kinds,
        description="The kinds of packages that releases are made as: deb, pacman, and tar for other distributions.",
    ),
)
"""Declared here, and a part of the schema in `penguindome_server.settings`."""
