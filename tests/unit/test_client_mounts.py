"""Which mounts a wipe takes away before it deletes anything: by texts of mountinfo as machines have them."""

from __future__ import annotations

import pytest

from penguindome.client import accounts, mounts
from penguindome.client.mounts import Mount

# From machines of their kinds; the numbers are shortened.
LAPTOP = """\
22 1 0:21 / / rw,relatime shared:1 - btrfs /dev/mapper/luks-1 rw,subvolid=256,subvol=/@
23 22 0:22 / /sys rw,nosuid shared:2 - sysfs sysfs rw
24 22 0:5 / /dev rw,nosuid shared:3 - devtmpfs udev rw,size=8000k
25 22 0:23 / /proc rw,nosuid shared:4 - proc proc rw
26 22 0:24 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=800k
27 22 0:21 /@home /home rw,relatime shared:6 - btrfs /dev/mapper/luks-1 rw,subvolid=257,subvol=/@home
28 22 259:1 / /boot/efi rw,relatime shared:7 - vfat /dev/nvme0n1p1 rw
29 25 0:30 / /proc/sys/fs/binfmt_misc rw,relatime shared:8 - autofs systemd-1 rw,fd=29
30 27 0:40 / /home/alice/nfs rw,relatime shared:9 - nfs4 nas.example.org:/export/alice rw,vers=4.2
31 27 0:41 / /home/alice/my\\040cloud rw,relatime shared:10 - fuse.rclone remote: rw,user_id=1000
32 26 0:42 / /run/user/1000/gvfs rw,nosuid shared:11 - fuse.gvfsd-fuse gvfsd-fuse rw,user_id=1000
33 22 0:43 / /mnt/share rw,relatime shared:12 - cifs //nas/share rw,vers=3.1.1
34 27 0:43 /bob /home/bob/share rw,relatime shared:13 - cifs //nas/share rw,vers=3.1.1
35 22 0:44 / /net rw,relatime shared:14 - autofs -hosts rw,fd=7
36 27 8:17 / /home/bob/stick rw,relatime shared:15 - ext4 /dev/sdb1 rw
37 27 0:24 / /home/bob/chroot/run rw,nosuid shared:5 - tmpfs tmpfs rw,size=800k
38 27 0:23 / /home/bob/chroot/proc rw,nosuid shared:4 - proc proc rw
39 27 0:5 / /home/bob/chroot/dev rw,nosuid shared:3 - devtmpfs udev rw,size=8000k
40 27 0:21 /@home /home/bob/chroot/home rw,relatime shared:6 - btrfs /dev/mapper/luks-1 rw,subvol=/@home
41 27 0:21 / /home/bob/chroot/rootfs rw,relatime shared:1 - btrfs /dev/mapper/luks-1 rw,subvol=/@
42 27 0:50 / /home/alice/scratch rw,relatime shared:16 - tmpfs tmpfs rw,size=100k
43 27 0:21 /@/srv/data /home/alice/data rw,relatime shared:1 - btrfs /dev/mapper/luks-1 rw,subvol=/@
44 22 0:60 / /home/bob/strange rw,relatime shared:17 - shinyfs new:thing rw
45 22 0:61 / /mnt/vm rw,relatime - virtiofs host rw
46 22 0:62 / /mnt/ceph rw,relatime - ceph 10.0.0.1:/ rw,name=admin
47 22 0:63 / /mnt/usb rw,relatime - fuseblk /dev/sdc1 rw,user_id=0
48 22 0:64 / /mnt/iso ro,relatime - iso9660 /dev/loop0 ro
"""
HOMES = ("/home/alice", "/home/bob")


def detached(text: str, homes: tuple[str, ...] = HOMES) -> list[str]:
    return [mount.point for mount in mounts.to_detach(mounts.parse(text), homes, kept=accounts.SYSTEM_DIRECTORIES)]


def test_what_lies_elsewhere_goes_wherever_it_is_mounted_and_the_newest_first() -> None:
    assert detached(LAPTOP) == [
        "/mnt/usb", "/mnt/ceph", "/mnt/vm", "/home/bob/strange", "/home/bob/chroot/rootfs", "/home/bob/chroot/home",
        "/home/bob/chroot/dev", "/home/bob/chroot/proc", "/home/bob/chroot/run", "/net", "/home/bob/share",
        "/mnt/share", "/run/user/1000/gvfs", "/home/alice/my cloud", "/home/alice/nfs",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "point", ["/home", "/home/bob/stick", "/home/alice/scratch", "/home/alice/data", "/mnt/iso", "/boot/efi", "/"]
)
def test_what_is_local_stays(point: str) -> None:
    assert point not in detached(LAPTOP)


@pytest.mark.parametrize("kind", sorted(mounts.REMOTE | {"fuse", "fuse.sshfs", "fuse.davfs", "fuseblk"}))
def test_every_kind_that_shows_something_elsewhere_goes(kind: str) -> None:
    line = f"50 22 0:70 / /mnt/x rw,relatime shared:9 - {kind} server:/x rw\n"
    assert detached(LAPTOP.splitlines()[0] + "\n" + line) == ["/mnt/x"]


def test_no_kind_is_both_local_and_elsewhere() -> None:
    assert not mounts.LOCAL & mounts.REMOTE


def test_a_second_view_of_a_share_is_recognised_by_its_file_system() -> None:
    lines = LAPTOP.splitlines()
    bind = "51 27 0:40 /deep/inside /home/bob/other rw,relatime shared:9 - nfs4 nas.example.org:/export/alice rw\n"
    assert "/home/bob/other" in detached("\n".join([*lines, bind]))


def test_a_home_that_is_a_mount_of_its_own_stays_mounted() -> None:
    text = LAPTOP + "60 27 0:21 /@home/carol /home/carol rw,relatime - btrfs /dev/mapper/luks-1 rw\n"
    text += "61 27 253:9 / /home/dave rw,relatime - ext4 /dev/vdb rw\n"
    assert not {"/home/carol", "/home/dave"} & set(detached(text, ("/home/carol", "/home/dave")))


def test_a_home_on_the_network_is_detached() -> None:
    text = LAPTOP + "60 27 0:80 / /home/carol rw,relatime - nfs nas:/carol rw\n"
    assert "/home/carol" in detached(text, ("/home/carol",))


def test_a_machine_without_a_disk_keeps_what_it_runs_on() -> None:
    text = (
        "1 0 0:20 / / rw - nfs server:/root rw\n2 1 0:21 / /usr rw - nfs server:/usr rw\n"
        "3 1 0:22 / /usr/local rw - nfs server:/local rw\n"
    )
    assert detached(text) == ["/usr/local"]


def test_lines_that_are_none_are_left_out_and_escapes_undone() -> None:
    text = "nonsense\n1 2 - x\n7 1 8:1 /a\\134b /mnt/a\\011b rw master:1 propagate_from:2 - ext4 /dev/x\\040y rw\n"
    assert mounts.parse(text) == [Mount(7, 1, "8:1", "/a\\b", "/mnt/a\tb", "ext4", "/dev/x y")]


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_a_point_with_what_may_end_a_line_elsewhere_is_read_whole(character: str) -> None:
    line = f"50 27 0:70 / /home/alice/a{character}b rw,relatime - fuse.x x{character} rw\n"
    assert detached(LAPTOP.splitlines()[0] + "\n" + line) == [f"/home/alice/a{character}b"]


def test_this_machines_own_mounts_can_be_read() -> None:
    assert any(mount.point == "/" for mount in mounts.read())


@pytest.mark.parametrize(
    ("path", "point"),
    [("/home/alice/nfs/x", "/home/alice/nfs"), ("/home/alice/nfsx", "/home"), ("/var/cache", "/"), ("/", "/")],
)
def test_a_file_lies_on_the_deepest_mount_above_it(path: str, point: str) -> None:
    found = mounts.holding(mounts.parse(LAPTOP), path)
    assert found is not None
    assert found.point == point


def test_a_mount_hides_those_before_it() -> None:
    found = mounts.holding(mounts.parse(LAPTOP + "70 22 0:80 / /home rw - nfs nas:/ rw\n"), "/home/bob/stick/x")
    assert found is not None
    assert found.kind == "nfs"
