"""What installs packages on this machine: apt with dpkg, pacman, or the setup program of a tar."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import ClassVar, Protocol

from penguindome.errors import PenguinDomeError
from penguindome.files import ensure_directory
from penguindome.logging import get_logger
from penguindome.paths import Paths

PACKAGE = "penguindome-client"
INSTALL_SECONDS = 3600.0
"""After so long, an installation is taken to hang, and killed."""

log = get_logger(__name__)


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


def roots_own(package: Path) -> Path | None:
    """Where a package in the package manager's cache lies, without links; None where anybody but root, or another
    machine, may have written it: root would install it, and nothing else vouches for it. (A signed manifest in it would
    not, for that does not name the package's scripts.) Raises OSError.
    """
    from penguindome.client import mounts

    place = Path(os.path.realpath(package, strict=True))
    mount = mounts.holding(mounts.read(), str(place))
    unsafe = next((each for each in (place, *place.parents) if _others_may_write(each.stat())), None)
    if unsafe is None and mount is not None and mount.is_local:
        return place
    log.warning("{} is no way back: {} is not root's alone", package, unsafe or "its file system")
    return None


def _others_may_write(found: os.stat_result) -> bool:
    """Where a directory is sticky, others cannot put anything in the place of what root has there."""
    is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    return found.st_uid != 0 or bool(found.st_mode & 0o022 and not is_sticky)


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
