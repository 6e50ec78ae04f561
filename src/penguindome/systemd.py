"""What a setup asks of systemd, where there is one."""

from __future__ import annotations

from pathlib import Path

from penguindome import processes
from penguindome.errors import PenguinDomeError
from penguindome.paths import Paths

RUNS = Path("/run/systemd/system")
_PLACES = ("usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system")


def has_unit(paths: Paths, unit: str) -> bool:
    """Whether a unit is installed on this machine itself (and not below another root)."""
    return paths.root == Path("/") and any((paths.root / place / unit).exists() for place in _PLACES)


def reread() -> None:
    """Let systemd read its units again, if it runs. Raises ProcessError."""
    if RUNS.is_dir():
        processes.run(["systemctl", "daemon-reload"], timeout=120)


def start(*units: str) -> None:
    """Start units anew, and at each boot. Raises PenguinDomeError when there is no systemd, or it could not."""
    if not RUNS.is_dir():
        raise PenguinDomeError(f"systemd does not run here: {units[0]} cannot be started", hint="use cron")
    for words in (("daemon-reload",), ("enable", *units), ("restart", *units)):
        processes.run(["systemctl", *words], timeout=120)


def reload(unit: str) -> bool:
    """Let a unit that runs read its settings again; False when it does not run. Raises ProcessError when it refuses."""
    if not RUNS.is_dir():
        return False
    if processes.run(["systemctl", "--quiet", "is-active", unit], timeout=30, check=False).returncode:
        return False
    processes.run(["systemctl", "reload", unit], timeout=120)
    return True
