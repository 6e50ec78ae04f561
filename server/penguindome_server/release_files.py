"""The files of releases below `releases/NUMBER/`, found by what the release's own description calls them."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from penguindome import json
from penguindome.errors import InvalidData
from penguindome.release import LARGEST, Description, InvalidRelease
from penguindome_server.tree_files import OpenFile, open_inside

# Format: kind of package, and what its name ends with beyond the package's own.
FORMATS = {
    "deb": ("deb", ""),
    "pacman": ("pacman", ""),
    "pacman.sig": ("pacman", ".sig"),
    "tar": ("tar", ""),
    "tar.asc": ("tar", ".asc"),
}


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """An open file of a release. `sha256` is of its contents, None where the description does not tell."""

    file: OpenFile
    sha256: str | None


class ReleaseFiles:
    """Opens files of releases.

    The description is read, and not verified: root wrote it, whoever gets the file verifies both, and of an old release
    it is signed by an old key.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, number: int, form: str) -> ReleaseFile:
        """Open the file of release `number` in one of FORMATS. Raises FileNotFoundError."""
        kind, ending = FORMATS[form]
        package = self._description(number).packages.get(kind)
        if package is None:
            raise FileNotFoundError(errno.ENOENT, "the release has no such package")
        file = open_inside(self._directory, (str(number), package.name + ending))
        return ReleaseFile(file, None if ending or file.size != package.size else package.sha256)

    def _description(self, number: int) -> Description:
        file = open_inside(self._directory, (str(number), "release.json"))
        try:
            data = os.pread(file.descriptor, LARGEST + 1, 0)
        finally:
            file.close()
        try:
            if len(data) > LARGEST:
                raise InvalidRelease("the description of the release is too large")
            return Description.from_content(json.loads(data), data)
        except (InvalidData, InvalidRelease) as error:
            raise OSError(f"release {number} has no usable description: {error}") from error
