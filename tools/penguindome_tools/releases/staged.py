"""A release that is made and signed, and that nobody has yet: what the maker hands to the publisher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penguindome.manifest import Manifest
from penguindome.release import Description

MANIFEST = "manifest.json"
DESCRIPTION = "release.json"
ARMOURED = ".asc"
"""What the name of a file's armoured signature ends in."""


@dataclass(frozen=True)
class StagedRelease:
    """Everything of release `number`, complete, synced to the disk and with its final modes, in `directory`.

    `directory` lies in `Paths.releases` under a name that begins with a dot; who publishes renames it to
    `Paths.releases / str(number)`. Until then it can be deleted, and all is as it was. In it lie exactly:
    `manifest.json(.asc)`, `release.json(.asc)`, one file for each of `description.packages`, and the signatures of
    packages: `PACMAN.sig` (binary) and `TAR.asc` (armoured). A site may have chosen to make fewer kinds than all three.
    """

    directory: Path
    number: int
    description: Description
    manifest: Manifest

    @property
    def packages(self) -> Mapping[str, Path]:
        """Kind (deb, pacman, tar) -> its file in `directory`."""
        return {kind: self.directory / package.name for kind, package in self.description.packages.items()}
