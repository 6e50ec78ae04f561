#!/usr/bin/env python3
"""Which volumes of this machine are encrypted: file systems, swap and ZFS, one entry each.

A volume is encrypted if everything it lies on is: a file system on LVM over two disks only if both are, btrfs over two
devices only if both are. What lies below comes from `lsblk`; whether a device-mapper target really encrypts from its
uuid (dm-verity and dm-integrity call themselves "crypt" too) and its cipher (`cipher_null` encrypts nothing).

The machine is `encrypted` if all volumes are, with these left out of the verdict or altogether:
- What firmware and boot loader must read (/boot, /boot/efi, EFI system partitions) is listed as `boot` and does not
  count.
- Removable media, CD-ROMs, loop devices (snaps) and swap in RAM (zram) are not listed; a removable disk that the system
  runs from is.
- A locked LUKS container is not listed: nothing in it can be read.
A file system that is not mounted counts, because it can be read; mount points of containers are not shown because they
come and go. eCryptfs and fscrypt encrypt directories, not volumes, and do not count. Where `/` itself cannot be traced
to a device, as in a container, the verdict is "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any

from penguindome.errors import ProcessError
from penguindome.plugin_tools import output, run, unknown

COLUMNS = "NAME,KNAME,TYPE,FSTYPE,FSVER,LABEL,UUID,PARTTYPE,MOUNTPOINTS,RM,HOTPLUG,TRAN"
OLD_COLUMNS = "NAME,KNAME,TYPE,FSTYPE,LABEL,UUID,PARTTYPE,MOUNTPOINT,RM,HOTPLUG,TRAN"
"""What lsblk before version 2.37 knows."""

BOOT_PLACES = {"/boot", "/boot/efi", "/boot/firmware", "/efi", "/esp"}
BOOT_PARTITIONS = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system partition",
    "0xef": "EFI system partition on an MBR disk",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "extended boot loader partition",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot partition",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery environment",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved partition",
}
PASSING_PLACES = re.compile(
    r"/(run|snap|proc|sys|dev|tmp|var/tmp|var/snap|var/lib/(docker|containers|containerd|kubelet|lxc|lxd|incus))/."
)
"""Mount points that come and go with containers, snaps and sessions."""

LEFT_OUT = {"rom", "loop"}
MEMBERS = {"LVM2_member", "linux_raid_member", "zfs_member", "bcache", "isw_raid_member", "ddf_raid_member"}
SELF_ENCRYPTING = {"bcachefs"}
"""File systems that may encrypt by themselves, which lsblk does not show."""


@dataclass
class Device:
    """A block device, what it lies on, and what is on it."""

    name: str
    kernel_name: str
    type: str
    content: str = ""
    content_version: str = ""
    label: str = ""
    uuid: str = ""
    partition_type: str = ""
    mountpoints: set[str] = field(default_factory=set)
    removable: bool = False
    parents: set[str] = field(default_factory=set)
    children: set[str] = field(default_factory=set)

    @property
    def path(self) -> str:
        """As administrators know it: device-mapper devices by their name."""
        return f"/dev/{self.name}" if self.name == self.kernel_name else f"/dev/mapper/{self.name}"


Devices = dict[str, Device]
"""Devices by their kernel name."""


def parse_lsblk(text: str) -> Devices:
    """The devices in the JSON of lsblk; one that lies on several others appears there once below each.

    Raises ValueError if it is something else.
    """
    try:
        tree = loads(text)["blockdevices"]
        devices: Devices = {}
        for entry in tree:
            _add(devices, entry, None)
    except (JSONDecodeError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not the output of lsblk: {error}") from error
    return devices


def _add(devices: Devices, entry: Mapping[str, Any], parent: Device | None) -> None:
    known = devices.setdefault(entry["kname"], _device(entry))
    if parent is not None:
        known.parents.add(parent.kernel_name)
        parent.children.add(known.kernel_name)
        known.removable |= parent.removable
    for child in entry.get("children") or ():
        _add(devices, child, known)


def _device(entry: Mapping[str, Any]) -> Device:
    # Versions before 2.33 print all values as strings.
    removable = any(str(entry.get(key)) in {"True", "1"} for key in ("rm", "hotplug")) or entry.get("tran") == "usb"
    places = entry.get("mountpoints") or [entry.get("mountpoint")]
    return Device(
        name=str(entry["name"]),
        kernel_name=str(entry["kname"]),
        type=str(entry.get("type")),
        content=entry.get("fstype") or "",
        content_version=entry.get("fsver") or "",
        label=entry.get("label") or "",
        uuid=entry.get("uuid") or "",
        partition_type=(entry.get("parttype") or "").lower(),
        mountpoints={place for place in places if place},
        removable=removable,
    )


def parse_mounts(text: str) -> dict[str, tuple[str, str]]:
    """Mount point to (source, file system type), out of /proc/1/mounts.

    The last mount on a place is what one sees.
    """
    rows = (line.split() for line in text.splitlines())
    return {_unescape(row[1]): (_unescape(row[0]), row[2]) for row in rows if len(row) >= 3}


def parse_swaps(text: str) -> list[tuple[str, str]]:
    """(path, "file" or "partition") of each active swap, out of /proc/swaps."""
    rows = (line.split() for line in text.splitlines()[1:])
    return [(_unescape(row[0]), row[1]) for row in rows if len(row) >= 2]


def parse_zfs(text: str) -> list[dict[str, str]]:
    """The datasets that `zfs list -H -o name,type,mounted,mountpoint,encryption` prints."""
    names = ("name", "type", "mounted", "mountpoint", "encryption")
    rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def parse_ciphers(text: str) -> dict[str, str]:
    """Name to cipher of each target that `dmsetup table --target crypt` prints."""
    return dict(re.findall(r"^(\S+): \d+ \d+ crypt (\S+)", text, re.MULTILINE))


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


class Stack:
    """What each device lies on, and so whether it is encrypted."""

    def __init__(self, devices: Devices, mapper_uuids: Mapping[str, str], ciphers: Mapping[str, str]) -> None:
        self.devices = devices
        self.mapper_uuids = mapper_uuids
        self.ciphers = ciphers

    def method(self, device: Device) -> str:
        """How the device is encrypted: "luks2", "luks1", "luks", "dm-crypt", "bitlocker", ..., "none" or "unknown"."""
        own = self._own_method(device)
        if own != "none" or not device.parents:
            return own
        below = {self.method(self.devices[parent]) for parent in device.parents}
        if "none" in below or unknown in below:
            return "none" if "none" in below else unknown
        return ", ".join(sorted(below))

    def _own_method(self, device: Device) -> str:
        if device.content == "BitLocker":
            return "bitlocker"
        if device.type != "crypt":
            return unknown if device.content in SELF_ENCRYPTING else "none"
        if "cipher_null" in self.ciphers.get(device.name, ""):
            return "none"
        kind = self.mapper_uuids.get(device.kernel_name, "").split("-")
        if len(kind) > 1 and kind[0] == "CRYPT":
            names = {"PLAIN": "dm-crypt", "BITLK": "bitlocker", "VERITY": "none", "INTEGRITY": "none", "SUBDEV": "none"}
            return names.get(kind[1], kind[1].lower())
        versions = {
            f"luks{self.devices[parent].content_version}"
            for parent in device.parents
            if self.devices[parent].content == "crypto_LUKS"
        }
        return versions.pop() if len(versions) == 1 else "dm-crypt"

    def in_use(self, device: Device) -> bool:
        """Whether the running system, as opposed to a user with a stick, has this or something on it mounted."""
        places = {place for place in device.mountpoints if not re.match(r"/(media|mnt|run/media)(/|$)", place)}
        return bool(places) or any(self.in_use(self.devices[child]) for child in device.children)

    def disks(self, device: Device) -> Iterable[Device]:
        """The devices at the bottom of this one."""
        if not device.parents:
            return [device]
        return [disk for parent in device.parents for disk in self.disks(self.devices[parent])]


def volumes_of(stack: Stack, pools: set[str]) -> list[dict[str, Any]]:
    """An entry for each device that holds a file system or swap."""
    found = []
    for device in stack.devices.values():
        if device.name.startswith("zram") or any(disk.type in LEFT_OUT for disk in stack.disks(device)):
            continue
        if device.removable and not any(stack.in_use(disk) for disk in stack.disks(device)):
            continue
        if _holds_data(device, pools):
            found.append(_volume(device, stack))
    return found


def _holds_data(device: Device, pools: set[str]) -> bool:
    if device.mountpoints:
        return True
    if device.children or not device.content or device.content == "crypto_LUKS":
        return False
    return not (device.content == "zfs_member" and device.label in pools)


def _volume(device: Device, stack: Stack) -> dict[str, Any]:
    method = stack.method(device)
    if method == "none" and device.content in MEMBERS:
        method = unknown  # what lies in a volume group, array or pool that is not running cannot be seen
    boot = device.partition_type in BOOT_PARTITIONS or (bool(device.mountpoints) and device.mountpoints <= BOOT_PLACES)
    swap = "[SWAP]" in device.mountpoints or device.content == "swap"
    places = sorted(place for place in device.mountpoints if place != "[SWAP]" and not PASSING_PLACES.match(place))
    return entry(device.path, places, "swap" if swap else "filesystem", method, boot=boot, removable=device.removable)


def entry(
    path: str, mountpoints: list[str], kind: str, method: str, *, boot: bool = False, removable: bool = False
) -> dict[str, Any]:
    """One volume as reported; `boot` and `removable` only where they hold."""
    encrypted = unknown if method == unknown else method != "none"
    marks = {name: True for name, holds in (("boot", boot), ("removable", removable)) if holds}
    return {"path": path, "mountpoints": mountpoints, "kind": kind, "encrypted": encrypted, "method": method, **marks}


def drop_own_mounts(devices: Devices, mounts: Mapping[str, tuple[str, str]]) -> None:
    """Keep the mount points that the machine has: in the sandbox of the client's unit, lsblk also tells of its own."""
    for device in devices.values():
        device.mountpoints = {place for place in device.mountpoints if place in mounts or not place.startswith("/")}


def share_mountpoints(devices: Devices) -> None:
    """Give each device of a btrfs the mount points of all: lsblk shows them at the first one only."""
    together: dict[str, list[Device]] = {}
    for device in devices.values():
        if device.content == "btrfs" and device.uuid:
            together.setdefault(device.uuid, []).append(device)
    for members in together.values():
        places = set().union(*(device.mountpoints for device in members))
        for device in members:
            device.mountpoints = set(places)


def zfs_volumes(datasets: list[dict[str, str]], stack: Stack) -> list[dict[str, Any]]:
    """An entry for each mounted dataset and each zvol; encrypted by ZFS itself, or by what all of its pool lies on."""
    found = []
    for dataset in datasets:
        name, place = dataset["name"], dataset["mountpoint"]
        volume = dataset["type"] == "volume"
        if not volume and (dataset["mounted"] != "yes" or PASSING_PLACES.match(place)):
            continue
        below = _pool_method(name.split("/")[0], stack)
        method = below if dataset["encryption"] in {"off", "-", ""} else "zfs"
        places = [] if volume or not place.startswith("/") else [place]
        found.append(entry(name, places, "zfs", method, boot=place in BOOT_PLACES))
    return found


def _pool_method(pool: str, stack: Stack) -> str:
    members = [d for d in stack.devices.values() if d.content == "zfs_member" and d.label == pool and not d.children]
    methods = {stack.method(member) for member in members} or {unknown}
    for verdict in ("none", unknown):
        if verdict in methods:
            return verdict
    return ", ".join(sorted(methods))


def swap_files(
    swaps: list[tuple[str, str]], volumes: list[dict[str, Any]], mounts: Mapping[str, tuple[str, str]]
) -> list[dict[str, Any]]:
    """An entry for each swap file: it is as encrypted as the file system that it lies in."""
    found = []
    for path, kind in swaps:
        if kind != "file":
            continue
        place = max((p for p in mounts if path.startswith(p.rstrip("/") + "/")), key=len, default="/")
        holder = next((volume for volume in volumes if place in volume["mountpoints"]), None)
        found.append(entry(path, [], "swap", holder["method"] if holder else unknown))
    return found


def examine(
    devices: Devices,
    *,
    mounts: Mapping[str, tuple[str, str]],
    swaps: list[tuple[str, str]],
    datasets: list[dict[str, str]],
    mapper_uuids: Mapping[str, str],
    ciphers: Mapping[str, str],
) -> dict[str, Any]:
    """The report, from everything that was read."""
    share_mountpoints(devices)
    stack = Stack(devices, mapper_uuids, ciphers)
    volumes = volumes_of(stack, {dataset["name"].split("/")[0] for dataset in datasets})
    volumes += zfs_volumes(datasets, stack)
    volumes += swap_files(swaps, volumes, mounts)
    root_seen = any("/" in volume["mountpoints"] for volume in volumes)
    if not root_seen:
        volumes.append(entry(mounts.get("/", (unknown,))[0], ["/"], "filesystem", unknown))
    volumes.sort(key=lambda volume: (volume["path"], volume["mountpoints"]))
    verdicts = [volume["encrypted"] for volume in volumes if "boot" not in volume]
    if not root_seen or (False not in verdicts and unknown in verdicts):
        return {"encrypted": unknown, "volumes": volumes}
    return {"encrypted": all(verdicts), "volumes": volumes}


def ask(command: list[str]) -> str | None:
    """The output of a program; None where it is missing or fails."""
    try:
        return run(command)
    except ProcessError:
        return None


def read(path: Path) -> str:
    """The text of a file, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_devices() -> Devices | None:
    """The block devices; None where lsblk cannot tell."""
    for columns in (COLUMNS, OLD_COLUMNS):
        text = ask(["lsblk", "--json", "--output", columns])
        if text is not None:
            try:
                return parse_lsblk(text)
            except ValueError:
                return None
    return None


def collect() -> dict[str, Any] | str:
    """The report of this machine."""
    devices = read_devices()
    if not devices:
        return unknown
    mounts = parse_mounts(read(Path("/proc/1/mounts")) or read(Path("/proc/self/mounts")))
    drop_own_mounts(devices, mounts)
    return examine(
        devices,
        mounts=mounts,
        swaps=parse_swaps(read(Path("/proc/swaps"))),
        datasets=parse_zfs(ask(["zfs", "list", "-H", "-o", "name,type,mounted,mountpoint,encryption"]) or ""),
        mapper_uuids={path.parts[3]: read(path).strip() for path in Path("/sys/block").glob("dm-*/dm/uuid")},
        ciphers=parse_ciphers(ask(["dmsetup", "table", "--target", "crypt"]) or ""),
    )


if __name__ == "__main__":
    output(collect())
