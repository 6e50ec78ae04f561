"""The packages that a release is made of: those that the server's package carries, or those of an older release."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penguindome.errors import UsageError
from penguindome.release import InvalidRelease
from penguindome_tools.releases import naming
from penguindome_tools.releases.packing import TOOLS, missing_tool
from penguindome_tools.releases.unpacking import Unpacked

PATTERNS = {"deb": f"{naming.PACKAGE}_*.deb", "pacman": f"{naming.PACKAGE}-*.pkg.tar.zst"}


@dataclass(frozen=True)
class Declared:
    """What an unpacked package says of itself: its base version and architecture, in the words of its distribution."""

    base: str
    architecture: str


def carried_packages(directory: Path) -> dict[str, Path]:
    """Kind -> the client's package in a directory. Raises UsageError when there is none, or more than one of a kind."""
    found: dict[str, Path] = {}
    for kind, pattern in PATTERNS.items():
        paths = sorted(directory.glob(pattern))
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise UsageError(f"{directory} holds several packages of a kind: {names}", hint="leave the right one there")
        if paths:
            found[kind] = paths[0]
    if not found:
        raise UsageError(
            f"there is no package of the client in {directory}",
            hint="install the package penguindome-server, or name a directory with --packages",
        )
    return found


def sources_of(kinds: Sequence[str], packages: Mapping[str, Path]) -> dict[str, tuple[str, Path]]:
    """Kind to be made -> kind and file of the package that it is made of.

    The tar can be made of any; of Debian's first, which brings entries for cron too. Raises UsageError when a package
    is missing, MissingTool when the program that makes a kind is.
    """
    sources: dict[str, tuple[str, Path]] = {}
    for kind in kinds:
        candidates = (kind,) if kind in PATTERNS else ("deb", "pacman", kind)
        source = next((candidate for candidate in candidates if candidate in packages), None)
        if source is None:
            raise UsageError(
                f"there is no package to make the kind {kind} of",
                hint="build it (make deb, make pacman), or leave the kind out of the setting releases.kinds",
            )
        if kind in TOOLS and shutil.which(TOOLS[kind]) is None:
            raise missing_tool(kind)
        sources[kind] = (source, packages[source])
    return sources


def declared(kind: str, unpacked: Unpacked) -> Declared:
    """What the package says of itself. Raises InvalidRelease."""
    name, version, architecture = {"deb": _of_deb, "pacman": _of_pacman, "tar": _of_tar}[kind](unpacked.control)
    if name != naming.PACKAGE:
        raise InvalidRelease(f"a package is {name[:80]!r}, and not {naming.PACKAGE}")
    return Declared(naming.base_of(version), architecture)


def _of_deb(control: Path) -> tuple[str, str, str]:
    text = _text(control / "control")
    name, version, architecture = (_field(text, f"^{key}: *(.*)$") for key in ("Package", "Version", "Architecture"))
    return name, version, architecture


def _of_pacman(control: Path) -> tuple[str, str, str]:
    text = _text(control / ".PKGINFO")
    name, version, architecture = (_field(text, f"^{key} = (.*)$") for key in ("pkgname", "pkgver", "arch"))
    return name, version, architecture


def _of_tar(control: Path) -> tuple[str, str, str]:
    text = _text(control / "release")
    version, machine = (_field(text, f"^{key}=(.*)$") for key in ("version", "machine"))
    return naming.PACKAGE, version, machine


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRelease(f"a package has no usable file {path.name}") from error


def _field(text: str, pattern: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""
