"""apt and dpkg."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from penguindome import processes
from penguindome.client.package_managers import INSTALL_SECONDS, PACKAGE, Busy, keep_copy, roots_own
from penguindome.errors import ProcessError
from penguindome.paths import Paths

LOCKS = ("var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/apt/lists/lock", "var/cache/apt/archives/lock")
LOCK_SECONDS = 120
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    # It would restart services of others, or ask.
    "NEEDRESTART_SUSPEND": "1",
}
_OPTIONS = (
    *("-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}", "-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Use-Pty=0"),
    # An update of ours touches nothing else on the machine: it neither removes packages nor adds recommended ones.
    *("--yes", "--quiet", "--no-remove", "--no-install-recommends", "-o", "APT::Get::AutomaticRemove=false"),
)
# fcntl(2): short l_type, l_whence; off_t l_start, l_len; pid_t l_pid.
_FLOCK = "hhqqi4x"


class Deb:
    """See `package_managers.PackageManager`."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def installed_version(self) -> str:
        """The version that dpkg calls installed, without any flag that says otherwise."""
        words = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Version}", PACKAGE]
        state, _, version = processes.run(words, timeout=60, check=False, env=_ENVIRONMENT).text.partition("|")
        return version if state == "ii " else ""

    def busy(self) -> str:
        """Who holds one of the locks of dpkg or apt."""
        for name in LOCKS:
            holder = _holder(self._paths.root / name)
            if holder:
                return f"{_program(holder)} holds {'/' + name}"
        return ""

    def install(self, file: Path, *, interrupted: bool) -> None:
        """`apt-get install FILE`, after finishing what was interrupted."""
        if interrupted:
            self._finish()
        self._run(["apt-get", "install", *_OPTIONS, *(["--reinstall"] if interrupted else []), str(file)])

    def go_back(self, way_back: str, *, interrupted: bool) -> None:
        """The same for the older package; by dpkg alone if apt is kept from it by something else."""
        file = str(self._paths.client_cache / way_back)
        if interrupted:
            self._finish()
        try:
            self._run(["apt-get", "install", *_OPTIONS, "--reinstall", "--allow-downgrades", file])
        except ProcessError:
            self._run(["dpkg", "--force-confold", "--force-downgrade", "--install", file])

    def way_back(self) -> str:
        """The package of the installed version, if apt has kept it where root alone writes."""
        version = self.installed_version()
        for each in (architecture(), "all"):
            # apt writes the colon of an epoch as %3a.
            kept = f"{PACKAGE}_{quote(version, safe='+~-').replace('%3A', '%3a')}_{each}.deb"
            path = self._paths.root / "var/cache/apt/archives" / kept
            if version and path.is_file() and (package := roots_own(path)):
                name = f"{PACKAGE}_{version.rpartition(':')[2]}_{each}.deb"
                keep_copy(package, self._paths.client_cache, name)
                return name
        return ""

    def _finish(self) -> None:
        """Let dpkg finish what it was killed in; what cannot be finished is mended by what is installed next."""
        words = ["dpkg", "--force-confold", "--configure", PACKAGE]
        processes.run(words, timeout=INSTALL_SECONDS, check=False, env=_ENVIRONMENT)

    def _run(self, words: list[str]) -> None:
        done = processes.run(words, timeout=INSTALL_SECONDS, check=False, env=_ENVIRONMENT)
        if done.returncode == 0:
            return
        said = [line.strip() for line in (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()]
        if any("Could not get lock" in line or "was locked by another process" in line for line in said):
            raise Busy(self.busy() or "another program installs packages")
        # The first line of ours says why; what apt says last, only that it was so.
        own = [line for line in said if line.startswith(("pkg-setup:", f"{PACKAGE}:"))]
        errors = [line for line in said if line.startswith(("E:", "dpkg: error", "dpkg:"))]
        reason = (own or errors or [line for line in said if line] or ["nothing"])[0]
        how = "did not end in time" if done.timed_out else f"ended with status {done.returncode}"
        raise ProcessError(f"{words[0]} {how}: {reason[:500]}")


def _holder(path: Path) -> int:
    """The process that holds a lock of fcntl(2) on a file; 0: none. Only looks, and never holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _program(pid: int) -> str:
    name = "another program"
    with suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip() or name
    return f"{name} (process {pid})"


def architecture() -> str:
    """What dpkg calls this machine (`amd64`, `arm64`). Raises ProcessError."""
    return processes.run(["dpkg", "--print-architecture"], timeout=60, env=_ENVIRONMENT).text.strip()
