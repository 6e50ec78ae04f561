"""Destroying the keys of encrypted disks: what is on them cannot be read again, by anybody, from the next start on.

Disks that are elsewhere, and are reached through a network, are not touched: by what sysfs shows of each, see
Documentation/ABI of the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from penguindome import processes
from penguindome.client.mounts import Mount, holding

MAGIC = b"LUKS\xba\xbe"
PARTITIONS = Path("/proc/partitions")

_NETWORK_DISK = re.compile(r"(nbd|rbd|drbd)\d|(etherd)!")
# What hangs beside the way to a disk.
_NETWORK_PORTS = {"iscsi_session": "iSCSI", "fc_remote_ports": "Fibre Channel", "srp_remote_ports": "SRP"}
_FABRICS = frozenset({"tcp", "rdma", "fc"})


def devices(
    mounts: Sequence[Mount], *, partitions: Path = PARTITIONS, dev: Path = Path("/dev"), sysfs: Path = Path("/sys")
) -> tuple[list[str], list[str]]:
    """The block devices of this machine that begin with a header of LUKS (either version); and those that are not of
    this machine, as `device (why)`, which were not even read.

    `mounts` tell where the files of loop devices lie.
    """
    found, elsewhere = [], []
    for line in partitions.read_text().splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[0].isdigit():
            path = dev / fields[3]
            try:
                why = _elsewhere(fields[3].replace("/", "!"), mounts, sysfs)
            except OSError as error:
                why = str(error)
            if why:
                elsewhere.append(f"{path} ({why})")
                continue
            with suppress(OSError), path.open("rb", buffering=0) as device:
                if device.read(len(MAGIC)) == MAGIC:
                    found.append(str(path))
    return found, elsewhere


def erase(device: str) -> str:
    """Destroy all keys in the header of a device. Raises ProcessError."""
    processes.run(["cryptsetup", "luksErase", "--batch-mode", device], timeout=600)
    return "destroyed"


def _elsewhere(name: str, mounts: Sequence[Mount], sysfs: Path) -> str | None:
    """Through what a device, or one that it is made of, is reached; None for one of this machine."""
    disk = (sysfs / "class/block" / name).resolve()
    if (disk / "partition").exists():
        disk = disk.parent
    why = _by_name(disk.name) or _by_way(disk) or _by_file(disk, mounts)
    if why is None and (disk / "slaves").is_dir():
        parts = sorted(part.name for part in (disk / "slaves").iterdir())
        why = next(filter(None, (_elsewhere(part, mounts, sysfs) for part in parts)), None)
    return why


def _by_name(disk: str) -> str | None:
    match = _NETWORK_DISK.match(disk)
    return (match[1] or "aoe").upper() if match else None


def _by_way(disk: Path) -> str | None:
    for place in disk.parents:
        for port, why in _NETWORK_PORTS.items():
            if (place / port).is_dir():
                return why
        if place.name.startswith("nvme"):
            # A subsystem has several controllers beside its disks, a controller says it itself.
            for transport in (place / "transport", *place.glob("nvme*/transport")):
                if transport.is_file() and transport.read_text().strip() in _FABRICS:
                    return f"NVMe over {transport.read_text().strip()}"
    return None


def _by_file(disk: Path, mounts: Sequence[Mount]) -> str | None:
    """A loop device shows a file."""
    file = disk / "loop/backing_file"
    if not file.is_file():
        return None
    path = file.read_bytes().removesuffix(b"\n").decode("utf-8", "surrogateescape")
    mount = holding(mounts, path)
    return None if mount is None or mount.is_local else f"its file lies on {mount.point} ({mount.kind})"
