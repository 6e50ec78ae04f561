"""What installs packages on this machine: apt with dpkg, pacman, or the setup program of a tar."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar, Protocol

from penguindome.errors import PenguinDomeError
from penguindome.files import ensure_directory
from penguindome.paths import Paths

PACKAGE = "penguindome-client"
INSTALL_SECONDS = 3600.0
"""After so long, an installation is taken to hang, and killed."""


class Busy(PenguinDomeError):
    """Another program installs packages just now."""

    code: ClassVar[str] = "package-manager-busy"


class PackageManager(Protocol):
    """Installs a package of the client. What fails is a ProcessError, whose text says what the tool said."""

    def installed_version(self) -> str:
        """The version that is installed, whole, as the package manager writes it; "" when it is not whole."""

    def busy(self) -> str:
        """Who installs packages just now, in words; "" when nobody does."""

    def install(self, file: Path, *, interrupted: bool) -> None:
        """Install a package in the place of an older one; `interrupted`: an attempt before this one broke off.

        Raises Busy or ProcessError.
        """

    def go_back(self, way_back: str, *, interrupted: bool) -> None:
        """Put back what `way_back` named. Raises Busy or ProcessError."""

    def way_back(self) -> str:
        """What `go_back` could put back that is as installed now: a name in the client's cache; "" if there is none.

        Raises OSError.
        """


def keep_copy(package: Path, cache: Path, name: str) -> None:
    """Copy a package that the package manager kept into the client's cache: wholly, or not at all. Raises OSError."""
    ensure_directory(cache, 0o755)
    beside = cache / f"{name}.copy"
    try:
        with package.open("rb") as source, beside.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        beside.chmod(0o644)
        beside.replace(cache / name)
    except OSError:
        # Nobody's disk stays full for this.
        beside.unlink(missing_ok=True)
        raise


def for_kind(kind: str, paths: Paths) -> PackageManager:
    """What installs packages of a kind (deb, pacman, tar). Raises PenguinDomeError where that makes no sense."""
    if kind == "tar":
        from penguindome.client.package_managers.tar import Tar

        return Tar(paths)
    if paths.root != Path("/"):
        raise PenguinDomeError(f"packages of the kind {kind} are not installed below {paths.root}")
    if kind == "pacman":
        from penguindome.client.package_managers.pacman import Pacman

        return Pacman(paths)
    from penguindome.client.package_managers.deb import Deb

    return Deb(paths)
