"""Whether this machine is going down: what plugins see then is not the truth about it."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

STOPPING = "stopping"
GOING_DOWN = frozenset({STOPPING, "0", "6"})

# utmp(5): records of 384 bytes that begin with type and pid; in one of the level, the pid's low byte is its character.
_UTMP_RECORD = 384
_RUN_LVL = 1
_UTMP_LIMIT = 1 << 20


def level(root: Path, *, thorough: bool = False) -> str:
    """The run level (`3`, `5`), `stopping`, or "" when nothing tells.

    Reads files only, unless they hint at a shutdown or `thorough` is asked: then systemd is asked.
    """
    by_utmp = _of_utmp(root / "run/utmp")
    hint = by_utmp in GOING_DOWN or (root / "run/nologin").exists()
    if (root / "run/systemd/system").is_dir():
        if not hint and not thorough:
            return by_utmp
        return STOPPING if _systemd_is_stopping() else by_utmp if by_utmp not in GOING_DOWN else ""
    return STOPPING if hint else by_utmp


def _of_utmp(path: Path) -> str:
    with suppress(OSError):
        with path.open("rb") as file:
            records = file.read(_UTMP_LIMIT)
        for start in range(0, len(records) - _UTMP_RECORD + 1, _UTMP_RECORD):
            kind, pid = struct.unpack_from("=hxxi", records, start)
            if kind == _RUN_LVL:
                return chr(pid & 0xFF)
    return ""


def _systemd_is_stopping() -> bool:
    from penguindome import processes
    from penguindome.errors import ProcessError

    try:
        answer = processes.run(["systemctl", "is-system-running"], timeout=10, check=False)
    except ProcessError:
        return False
    return answer.text.strip() == STOPPING
