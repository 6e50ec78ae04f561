"""What is mounted where, and which of it a wipe may touch: by /proc/self/mountinfo alone, see proc_pid_mountinfo(5).

A bind mount has the type and device of what it shows, so that a share that is mounted a second time, elsewhere, is
recognised all the same. Only file systems of kinds that are known to be local are touched: a kind that nobody thought
of here is left intact. Pure, but for `read`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")

LOCAL = frozenset({
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs", "hfsplus", "jfs", "nilfs2", "ntfs", "ntfs3",
    "overlay", "reiserfs", "tmpfs", "udf", "ufs", "vfat", "xfs", "zfs",
})  # fmt: skip
"""Kinds of file systems that lie on this machine's own disks or memory, and whose files can be deleted."""

REMOTE = frozenset({
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "curlftpfs", "davfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb2", "smb3", "smbfs", "sshfs", "vboxsf",
    "virtiofs", "vmhgfs", "wekafs",
})  # fmt: skip
"""Kinds that show what lies elsewhere."""

# Nobody's home lies below these, and a machine needs what is mounted there.
_OF_THE_SYSTEM = ("/proc", "/sys", "/dev", "/boot", "/efi")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo: `root` is the directory of the file system `device` that is seen at `point`."""

    number: int
    parent: int
    device: str
    root: str
    point: str
    kind: str
    source: str

    @property
    def is_local(self) -> bool:
        """Whether a wipe may delete here."""
        return self.kind in LOCAL

    @property
    def is_remote(self) -> bool:
        """Whether what lies here is elsewhere, or is shown by a program: FUSE, whatever it shows."""
        return self.kind in REMOTE or self.kind.partition(".")[0] in ("fuse", "fuseblk")


def read(path: Path = MOUNTINFO) -> list[Mount]:
    """What is mounted in this process's view, in the order in which it was mounted. Raises OSError."""
    return parse(path.read_bytes().decode("utf-8", "surrogateescape"))


def parse(text: str) -> list[Mount]:
    """The mounts of a text of mountinfo; lines that are none are left out."""
    found = []
    # What else may end a line of text may stand in a name.
    for line in text.split("\n"):
        first, separator, second = line.partition(" - ")
        fields, more = first.split(" "), second.split(" ")
        if separator and len(fields) >= 6 and len(more) >= 2 and fields[0].isdigit() and fields[1].isdigit():
            places = (_plain(fields[3]), _plain(fields[4]), more[0], _plain(more[1]))
            found.append(Mount(int(fields[0]), int(fields[1]), fields[2], *places))
    return found


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory, or lies in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def holding(mounts: Sequence[Mount], path: str) -> Mount | None:
    """The mount that a path without links lies on: of those at or above it the newest, which hides the others."""
    return next((mount for mount in reversed(mounts) if is_below(path, mount.point)), None)


def to_detach(mounts: Sequence[Mount], homes: Iterable[str], *, kept: Iterable[str]) -> list[Mount]:
    """What must go before anything is deleted, the newest first.

    All that shows what lies elsewhere, wherever it is mounted (but for a directory of the system itself, as machines
    without a disk have it: nothing is deleted there), and automatic mounts, which would bring it back. Inside of homes,
    whatever is not known to be local, and what shows a directory of the system (`kept`), another home, or anything
    above one of them, as the environments of containers and `chroot` have it.
    """
    within, keep = list(homes), list(kept)
    found = []
    for mount in mounts:
        if any(is_below(mount.point, home) for home in within):
            goes = not mount.is_local
            goes = goes or (mount.point not in within and _shows_system(mount, mounts, within, keep))
        else:
            goes = (mount.is_remote or mount.kind == "autofs") and mount.point not in ("/", *keep)
            goes = goes and not any(is_below(mount.point, place) for place in _OF_THE_SYSTEM)
        if goes:
            found.append(mount)
    return found[::-1]


def highest(going: Sequence[Mount], mounts: Sequence[Mount]) -> list[Mount]:
    """Those of the mounts that go, in their order, to which no other one of them is the way: who detaches these has
    detached all, and has walked through none whose server may be gone.
    """
    known, goes = {mount.number: mount for mount in mounts}, {mount.number for mount in going}

    def ways(mount: Mount) -> Iterator[Mount]:
        while mount.parent != mount.number and mount.parent in known:
            mount = known[mount.parent]
            yield mount

    return [
        mount
        for mount in going
        # What lies under another at the same point is not on the way to it.
        if not any(way.number in goes and way.point != mount.point for way in ways(mount))
    ]


def _shows_system(mount: Mount, mounts: Sequence[Mount], homes: Sequence[str], kept: Sequence[str]) -> bool:
    """Whether a mount inside of a home is another view of a directory of the system, or of one that holds such."""
    for other in mounts:
        if other.device != mount.device or any(is_below(other.point, home) for home in homes):
            continue
        if is_below(mount.root, other.root):
            rest = mount.root[len(other.root) :] if other.root != "/" else mount.root
            outside = other.point.rstrip("/") + "/" + rest.strip("/")
        elif is_below(other.root, mount.root):
            # It shows more than what is mounted there.
            outside = other.point
        else:
            continue
        outside = outside.rstrip("/") or "/"
        if any(is_below(outside, place) or is_below(place, outside) for place in kept):
            return True
        if any(is_below(home, outside) for home in homes):
            return True
    return False


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
