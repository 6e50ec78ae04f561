"""pacman. Partial upgrades are not supported on Arch, so this installs one verified file, and leaves lists alone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from penguindome import processes
from penguindome.client.package_managers import INSTALL_SECONDS, PACKAGE, Busy, keep_copy, roots_own
from penguindome.errors import ProcessError
from penguindome.paths import Paths

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}


class Pacman:
    """See `package_managers.PackageManager`."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = paths.root / "var/lib/pacman/db.lck"

    def installed_version(self) -> str:
        """The version in pacman's database."""
        asked = processes.run(["pacman", "-Q", PACKAGE], timeout=60, check=False, env=_ENVIRONMENT)
        return asked.text.partition(" ")[2].strip() if asked.returncode == 0 else ""

    def busy(self) -> str:
        """Whether pacman's database is locked, and by whom."""
        if not self._lock.exists():
            return ""
        holder = _holder(self._lock)
        return f"{holder} holds {self._lock}" if holder else f"{self._lock} is there, though no pacman runs"

    def install(self, file: Path, *, interrupted: bool) -> None:
        """`pacman -U FILE`; for what was interrupted, it is simply done again."""
        if interrupted and self._lock.exists() and not _holder(self._lock):
            # A transaction that was killed left it behind.
            self._lock.unlink(missing_ok=True)
        if self._lock.exists():
            raise Busy(self.busy())
        done = processes.run(
            ["pacman", "-U", "--noconfirm", "--noprogressbar", str(file)],
            timeout=INSTALL_SECONDS, check=False, env=_ENVIRONMENT,
        )  # fmt: skip
        said = [line.strip() for line in (done.stderr + done.stdout).decode("utf-8", "replace").splitlines()]
        if done.returncode:
            if any("unable to lock database" in line for line in said):
                raise Busy(self.busy() or "another program installs packages")
            errors = [line for line in said if line.startswith("error:")] or said or ["nothing"]
            raise ProcessError(f"pacman ended with status {done.returncode}: {errors[0][:500]}")
        # A scriptlet that fails does not count as a failure for pacman; this does, and costs nothing if all is well.
        program = str(self._paths.client_code / "pkg-setup")
        processes.run([program, "venv"], timeout=INSTALL_SECONDS, env=_ENVIRONMENT)

    def go_back(self, way_back: str, *, interrupted: bool) -> None:
        """The same for the older package."""
        self.install(self._paths.client_cache / way_back, interrupted=interrupted)

    def way_back(self) -> str:
        """The package of the installed version, if pacman has kept it where root alone writes."""
        version = self.installed_version()
        kept = sorted((self._paths.root / "var/cache/pacman/pkg").glob(f"{PACKAGE}-{version}-*.pkg.tar*"))
        for path in kept:
            if version and path.suffix != ".sig" and (package := roots_own(path)):
                keep_copy(package, self._paths.client_cache, path.name)
                return path.name
        return ""


def _holder(lock: Path) -> str:
    """The process that has pacman's lock open, or is a pacman that may be about to; "" if there is none."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            name = (entry / "comm").read_text("utf-8", "replace").strip()
            if name == "pacman" or any(link.readlink() == lock for link in (entry / "fd").iterdir()):
                return f"{name} (process {entry.name})"
    return ""
