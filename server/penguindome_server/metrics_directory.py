"""The directory in which workers keep their counts for Prometheus. This is the master's side: it must not import the
library before the directory is named.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from penguindome.logging import get_logger

log = get_logger(__name__)

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
UNREADABLE = (struct.error, RuntimeError, UnicodeDecodeError)
"""What the library raises for a file that is not whole."""


def prepare_directory(directory: Path) -> None:
    """Make the directory of the workers' counts, without those of an earlier run, and name it to the library. Before
    any worker starts.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in directory.glob("*.db*"):
        path.unlink()
    os.environ[DIRECTORY_VARIABLE] = str(directory)


def worker_ended(directory: Path, pid: int) -> None:
    """Add the counts of a worker that ended to those of all that ended before, so that nothing is counted backwards and
    files do not pile up.
    """
    for path in directory.glob(f"*_{pid}.db"):
        total = path.with_name(f"{path.name.removesuffix(f'_{pid}.db')}_ended.db")
        _add_counts(total, path)
        path.unlink()


def _add_counts(total: Path, more: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    # The library carries no types for this.
    counts: Any = MmapedDict
    sums: dict[str, float] = {}
    for path in (total, more):
        for key, value in _counts(path):
            sums[key] = sums.get(key, 0.0) + value
    beside = total.with_suffix(".db.new")
    beside.unlink(missing_ok=True)
    written = counts(str(beside))
    for key, value in sums.items():
        written.write_value(key, value, 0.0)
    written.close()
    beside.rename(total)


def _counts(path: Path) -> list[tuple[str, float]]:
    """The counts in a file; none where it is missing or cannot be read: a worker that is killed while it makes its file
    leaves one without a header, and the master must outlive that.
    """
    from prometheus_client.mmap_dict import MmapedDict

    counts: Any = MmapedDict
    if not path.exists() or path.stat().st_size == 0:
        return []
    try:
        return [(key, value) for key, value, _when, _position in counts.read_all_values_from_file(str(path))]
    except UNREADABLE as error:
        log.warning("the counts in {} are lost: {}", path, error)
        return []
