"""Directories in which something is made or read that is no use to anybody once that has ended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A new directory in `parent`, of whoever asks for it. Those of this `prefix` that a crash left behind go: the
    caller sees to it that nobody else has one now.
    """
    for left_over in parent.glob(f"{prefix}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
