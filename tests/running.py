"""Whether processes run, as the kernel tells."""

from __future__ import annotations

from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its remains."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        # The latter when it ends between our opening of the file and our reading of it.
        return False
    return state not in ("Z", "X")
