"""The tar, for distributions without a package of ours. Its own setup program, which needs Python alone, installs it
beside the one in use (`releases/client-N`), and swaps the link that leads to it.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from penguindome import processes
from penguindome.client.package_managers import INSTALL_SECONDS
from penguindome.errors import ProcessError
from penguindome.paths import ROOT_VARIABLE, Paths

SETUP = "setup"
UNPACKED = "unpacked"
RELEASES = "releases"


class Tar:
    """See `package_managers.PackageManager`. A version is what the link `client` leads to."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._link = paths.client_code

    def installed_version(self) -> str:
        """Where the link leads; "" when there is none, or nothing there."""
        return str(self._link.readlink()) if self._link.is_symlink() and self._link.is_dir() else ""

    def busy(self) -> str:
        """Nobody else installs this."""
        return ""

    def install(self, file: Path, *, interrupted: bool) -> None:
        """Unpack, and let the tar's own program install. What it does before it swaps the link changes nothing."""
        place = self._paths.client_state / UNPACKED
        _remove(place)
        if not interrupted:
            # The one in use is what may be gone back to; those before it are not needed any more.
            for old in (self._link.parent / RELEASES).glob("client-*"):
                if old != self._link.parent / self.installed_version():
                    _remove(old)
        place.mkdir(0o700)
        try:
            _unpack(file, place)
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
            if self._paths.root != Path("/"):
                environment[ROOT_VARIABLE] = str(self._paths.root)
            (program,) = (path for path in (place / SETUP, *place.glob(f"*/{SETUP}")) if path.is_file())
            processes.run([program, "--release-only"], timeout=INSTALL_SECONDS, env=environment, cwd=program.parent)
        except (tarfile.TarError, ValueError, OSError) as error:
            raise ProcessError(f"{file} cannot be unpacked: {error}") from error
        finally:
            _remove(place)

    def go_back(self, way_back: str, *, interrupted: bool) -> None:
        """Let the link lead where it did."""
        if not (self._link.parent / way_back).is_dir():
            raise ProcessError(f"{self._link.parent / way_back} is gone")
        beside = self._link.with_name(f"{self._link.name}.new")
        beside.unlink(missing_ok=True)
        beside.symlink_to(way_back)
        beside.replace(self._link)

    def way_back(self) -> str:
        """Where the link leads now."""
        return self.installed_version()


def _unpack(file: Path, place: Path) -> None:
    """Files and directories below `place`, with their permission bits, and nothing else. Raises ValueError."""
    with tarfile.open(file) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not parts or member.name.startswith("/") or ".." in parts or not (member.isfile() or member.isdir()):
                raise ValueError(f"{member.name[:100]!r} is no plain file or directory below it")
            target = place.joinpath(*parts)
            if member.isdir():
                target.mkdir(0o755, parents=True, exist_ok=True)
                continue
            target.parent.mkdir(0o755, parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source is None:
                raise ValueError(f"{member.name[:100]!r} has no contents")
            with source, target.open("xb") as written:
                shutil.copyfileobj(source, written)
            target.chmod(member.mode & 0o755)


def _remove(place: Path) -> None:
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.exists():
        shutil.rmtree(place)
