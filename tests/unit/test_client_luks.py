"""Which disks a wipe destroys the keys of: those of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from needs import require_program
from penguindome.client import luks, mounts

# Where the kernel shows a disk below /sys/devices, and what lies beside it there.
LOCAL = {
    "sda": "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
    "sda1": "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1",
    "sdu": "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdu",
    "nvme0n1": "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/nvme0n1",
    "nvme0n1p3": "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/nvme0n1/nvme0n1p3",
    "nvme5n1": "virtual/nvme-subsystem/nvme-subsys5/nvme5n1",
    "mmcblk0p2": "platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p2",
    "vda2": "pci0000:00/0000:00:05.0/virtio2/block/vda/vda2",
    "cciss!c0d0": "pci0000:00/0000:00:03.0/cciss0/c0d0/block/cciss!c0d0",
    "md0": "virtual/block/md0",
    "dm-0": "virtual/block/dm-0",
    "loop0": "virtual/block/loop0",
}
ELSEWHERE = {
    "sdb": ("platform/host7/session1/target7:0:0/7:0:0:1/block/sdb", "iSCSI"),
    "sdb1": ("platform/host7/session1/target7:0:0/7:0:0:1/block/sdb/sdb1", "iSCSI"),
    "sdc": ("pci0000:00/0000:00:02.0/host8/rport-8:0-2/target8:0:0/8:0:0:1/block/sdc", "Fibre Channel"),
    "sdd": ("pci0000:00/0000:05:00.0/host9/port-9:1/target9:0:0/9:0:0:0/block/sdd", "SRP"),
    "nbd0": ("virtual/block/nbd0", "NBD"),
    "nbd0p1": ("virtual/block/nbd0/nbd0p1", "NBD"),
    "rbd1": ("rbd/1/block/rbd1", "RBD"),
    "drbd0": ("virtual/block/drbd0", "DRBD"),
    "etherd!e1.0": ("virtual/block/etherd!e1.0", "AOE"),
    "nvme1n1": ("virtual/nvme-fabrics/ctl/nvme1/nvme1n1", "NVMe over tcp"),
    "nvme2n1": ("virtual/nvme-subsystem/nvme-subsys2/nvme2n1", "NVMe over rdma"),
    "dm-1": ("virtual/block/dm-1", "iSCSI"),
    "dm-2": ("virtual/block/dm-2", "iSCSI"),
    "md1": ("virtual/block/md1", "NBD"),
    "loop1": ("virtual/block/loop1", "its file lies on /mnt/share (cifs)"),
    "loop2": ("virtual/block/loop2", "its file lies on /home/alice/cloud (fuse.rclone)"),
}
BESIDE = {
    "platform/host7/session1/iscsi_session/session1": None,
    "pci0000:00/0000:00:02.0/host8/rport-8:0-2/fc_remote_ports/rport-8:0-2": None,
    "pci0000:00/0000:05:00.0/host9/port-9:1/srp_remote_ports/port-9:1": None,
    "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/transport": "pcie\n",
    "virtual/nvme-subsystem/nvme-subsys5/nvme5/transport": "pcie\n",
    "virtual/nvme-fabrics/ctl/nvme1/transport": "tcp\n",
    "virtual/nvme-subsystem/nvme-subsys2/nvme2/transport": "rdma\n",
    "virtual/block/dm-0/slaves/sda1": None,
    "virtual/block/dm-1/slaves/sdb1": None,
    "virtual/block/dm-2/slaves/dm-1": None,
    "virtual/block/md0/slaves/sda1": None,
    "virtual/block/md1/slaves/sda1": None,
    "virtual/block/md1/slaves/nbd0": None,
    "virtual/block/loop0/loop/backing_file": "/srv/a disk\n",
    "virtual/block/loop1/loop/backing_file": "/mnt/share/disk\n",
    "virtual/block/loop2/loop/backing_file": "/home/alice/cloud/disk\n",
}
MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:43 / /mnt/share rw - cifs //nas/share rw
24 22 8:2 / /home/alice/cloud rw - ext4 /dev/sda2 rw
25 24 0:41 / /home/alice/cloud rw - fuse.rclone remote: rw
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """All of these disks, each with a header of LUKS, and one with none."""
    (tmp_path / "sys/class/block").mkdir(parents=True)
    places = LOCAL | {name: place for name, (place, _) in ELSEWHERE.items()} | {"sdz": "virtual/block/sdz"}
    for name, place in places.items():
        directory = tmp_path / "sys/devices" / place
        directory.mkdir(parents=True, exist_ok=True)
        if directory.parent.name in places or name in ("vda2", "mmcblk0p2"):
            (directory / "partition").write_text("1\n")
        (tmp_path / "sys/class/block" / name).symlink_to(directory)
        device = tmp_path / "dev" / name.replace("!", "/")
        device.parent.mkdir(parents=True, exist_ok=True)
        device.write_bytes(b"LU" if name == "sdz" else luks.MAGIC + b"\x00\x01" + b"\x00" * 504)
    for name, text in BESIDE.items():
        path = tmp_path / "sys/devices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if text is None else path.write_text(text)
    lines = [f" 8 {number} 100 {name.replace('!', '/')}" for number, name in enumerate([*places, "gone"])]
    (tmp_path / "partitions").write_text("\n".join(["major minor  #blocks  name\n", *lines, ""]))
    return tmp_path


def found_on(machine: Path) -> tuple[list[str], list[str]]:
    return luks.devices(
        mounts.parse(MOUNTS), partitions=machine / "partitions", dev=machine / "dev", sysfs=machine / "sys"
    )


def test_encrypted_disks_of_this_machine_are_known_by_their_first_bytes(machine: Path) -> None:
    found, _ = found_on(machine)
    assert found == [f"{machine}/dev/{name.replace('!', '/')}" for name in LOCAL]


def test_disks_that_are_elsewhere_are_named_and_not_even_read(machine: Path) -> None:
    for name in ELSEWHERE:
        (machine / "dev" / name.replace("!", "/")).unlink()
    _, elsewhere = found_on(machine)
    assert elsewhere == [f"{machine}/dev/{name.replace('!', '/')} ({why})" for name, (_, why) in ELSEWHERE.items()]


def test_the_disks_of_this_very_machine_can_be_looked_at() -> None:
    luks.devices(mounts.read())


def test_the_keys_of_an_encrypted_disk_are_gone_for_good(tmp_path: Path) -> None:
    cryptsetup = require_program("cryptsetup")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(32 << 20)
    quick = ["--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    subprocess.run([cryptsetup, "luksFormat", *quick, disk, "-"], input=b"open", check=True)
    test = [cryptsetup, "open", "--test-passphrase", disk, "-"]
    assert subprocess.run(test, input=b"open", check=False, capture_output=True).returncode == 0
    luks.erase(str(disk))
    assert subprocess.run(test, input=b"open", check=False, capture_output=True).returncode != 0
