"""Destroying the keys of encrypted disks: what is on them cannot be read again, by anybody, from the next start on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from penguindome import processes

MAGIC = b"LUKS\xba\xbe"
PARTITIONS = Path("/proc/partitions")


def devices(partitions: Path = PARTITIONS, dev: Path = Path("/dev")) -> list[str]:
    """The block devices that begin with a header of LUKS (either version)."""
    found = []
    for line in partitions.read_text().splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[0].isdigit():
            path = dev / fields[3]
            with suppress(OSError), path.open("rb", buffering=0) as device:
                if device.read(len(MAGIC)) == MAGIC:
                    found.append(str(path))
    return found


def erase(device: str) -> str:
    """Destroy all keys in the header of a device. Raises ProcessError."""
    processes.run(["cryptsetup", "luksErase", "--batch-mode", device], timeout=600)
    return "destroyed"
