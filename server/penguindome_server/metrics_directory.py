"""The directory in which workers keep their counts for Prometheus. It must not import the library before the directory
is named.

The library maps its files into memory and makes them sparse: on a disk that is full, the kernel ends by SIGBUS who
writes there. So workers have the disk give them room before the library opens their files, and the master maps none.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penguindome.files import write_atomically
from penguindome.logging import get_logger

log = get_logger(__name__)

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
UNREADABLE = (struct.error, RuntimeError, UnicodeDecodeError)
"""What the library raises for a file that is not whole."""
KINDS = ("counter", "histogram")
ROOM_BYTES = 1 << 16
"""As much as the library gives a new file; the counts of all our endpoints fill the half of it."""


def prepare_directory(directory: Path) -> None:
    """Make the directory of the workers' counts, without those of an earlier run, and name it to the library. Before
    any worker starts.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in directory.glob("*.db*"):
        path.unlink()
    os.environ[DIRECTORY_VARIABLE] = str(directory)


def make_room(directory: Path) -> None:
    """Make the files of this process's counts, with their room on the disk. Where there is none, this process keeps its
    counts to itself. Before the first counter is made.
    """
    paths = [directory / f"{kind}_{os.getpid()}.db" for kind in KINDS]
    try:
        for path in paths:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
    except OSError as error:
        from prometheus_client import values

        log.warning("what this worker does is missing in the metrics: {}", error)
        for path in paths:
            path.unlink(missing_ok=True)
        values.ValueClass = values.MutexValue  # what the library chose when it was imported


def worker_ended(directory: Path, pid: int) -> None:
    """Add the counts of a worker that ended to those of all that ended before, so that nothing is counted backwards and
    files do not pile up.
    """
    for path in directory.glob(f"*_{pid}.db"):
        total = path.with_name(f"{path.name.removesuffix(f'_{pid}.db')}_ended.db")
        _add_counts(total, path)
        path.unlink()


def _add_counts(total: Path, more: Path) -> None:
    sums: dict[str, float] = {}
    for path in (total, more):
        for key, value in _counts(path):
            sums[key] = sums.get(key, 0.0) + value
    write_atomically(total, _packed(sums))


def _packed(counts: Mapping[str, float]) -> bytes:
    """The bytes of a file of these counts. The format is told in `prometheus_client.mmap_dict.MmapedDict`."""
    entries = []
    for key, value in counts.items():
        encoded = key.encode()
        padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
        entries.append(struct.pack(f"i{len(padded)}sdd", len(encoded), padded, value, 0.0))
    used = 8 + sum(map(len, entries))
    return struct.pack("i4x", used) + b"".join(entries)


def _counts(path: Path) -> list[tuple[str, float]]:
    """The counts in a file; none where it is missing or cannot be read: a worker that is killed while it makes its file
    leaves one without a header, and the master must outlive that.
    """
    from prometheus_client.mmap_dict import MmapedDict

    counts: Any = MmapedDict  # the library carries no types for this
    if not path.exists() or path.stat().st_size == 0:
        return []
    try:
        return [(key, value) for key, value, _when, _position in counts.read_all_values_from_file(str(path))]
    except UNREADABLE as error:
        log.warning("the counts in {} are lost: {}", path, error)
        return []
