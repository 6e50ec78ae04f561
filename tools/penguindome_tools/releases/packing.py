"""Make packages of an unpacked client: the .deb by dpkg-deb, the package of Arch as makepkg would, the tar by itself.

All that is inside belongs to root, whoever runs this, and gets the date of the release where it has none of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from penguindome.errors import PenguinDomeError
from penguindome.processes import ProgramMissing, run
from penguindome.release import InvalidRelease
from penguindome_tools.releases import naming
from penguindome_tools.releases.unpacking import LARGEST_UNPACKED, SECONDS, Unpacked

TOOLS = {"deb": "dpkg-deb", "pacman": "zstd"}
"""Kind -> the program that makes it; the tar needs none."""
PACKAGES_OF_TOOLS = {"dpkg-deb": "dpkg", "zstd": "zstd"}
"""Program -> the package that brings it, on Debian and on Arch."""


class MissingTool(PenguinDomeError):
    """A program that makes packages of a kind is not installed."""

    code = "program-missing"


@dataclass(frozen=True)
class Stamp:
    """What distinguishes the packages of one release: number, base version, time."""

    number: int
    base: str
    issued_at: datetime

    @property
    def epoch(self) -> int:
        """The time, in seconds since 1970."""
        return int(self.issued_at.timestamp())


def missing_tool(kind: str) -> MissingTool:
    """The error that says how packages of this kind can be made, or done without."""
    tool = TOOLS[kind]
    hint = f"install the package {PACKAGES_OF_TOOLS[tool]}, or leave {kind} out of the setting releases.kinds"
    return MissingTool(f"packages of the kind {kind} are made by {tool}, which is not installed", hint=hint)


def pack_deb(unpacked: Unpacked, stamp: Stamp, target: Path) -> None:
    """Write the Debian package: version, sums and size are those of the release; the scripts are the base package's."""
    control = unpacked.control / "control"
    control.write_text(_new_control(control.read_text(), unpacked.root, stamp))
    (unpacked.control / "md5sums").write_text(_md5sums(unpacked))
    tree = unpacked.root.with_name("deb")
    unpacked.root.rename(tree)
    unpacked.control.rename(tree / "DEBIAN")
    words = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(target)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(stamp.epoch), "LC_ALL": "C.UTF-8"}
    try:
        run(words, timeout=SECONDS, env=environment)
    except ProgramMissing as error:
        raise missing_tool("deb") from error


def _new_control(text: str, root: Path, stamp: Stamp) -> str:
    fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", text, re.MULTILINE))
    if fields.get("Package") != naming.PACKAGE:
        raise InvalidRelease(f"the package is {fields.get('Package')!r}, and not {naming.PACKAGE}")
    # A package whose version is not its source's says so.
    fields.setdefault("Source", naming.PACKAGE)
    if "(" not in fields["Source"]:
        fields["Source"] += f" ({fields['Version']})"
    fields["Version"] = naming.deb_version(stamp.number, stamp.base)
    fields["Installed-Size"] = str(_installed_size(root))
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def _installed_size(root: Path) -> int:
    """In KiB, as dpkg-gencontrol counts: whole ones for each file, one for everything else."""
    return sum(-(-path.stat().st_size // 1024) if path.is_file() else 1 for path in root.rglob("*"))


def _md5sums(unpacked: Unpacked) -> str:
    conffiles = unpacked.control / "conffiles"
    left_out = set(conffiles.read_text().split()) if conffiles.exists() else set()
    lines = []
    for path in _files(unpacked.root):
        name = str(path.relative_to(unpacked.root))
        if f"/{name}" not in left_out:
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            lines.append(f"{digest}  {name}\n")
    return "".join(lines)


def pack_pacman(unpacked: Unpacked, stamp: Stamp, target: Path) -> None:
    """Write the package of Arch: what makepkg would write of it, with .PKGINFO, .BUILDINFO and .MTREE anew."""
    for path in sorted(unpacked.control.iterdir()):
        path.rename(unpacked.root / path.name)
    root = unpacked.root
    pkginfo = root / ".PKGINFO"
    if f"pkgname = {naming.PACKAGE}\n" not in pkginfo.read_text():
        raise InvalidRelease(f"the package is not {naming.PACKAGE}")
    size = sum(path.stat().st_size for path in _files(root) if path.parent != root)
    changed = {
        "pkgver": naming.pacman_version(stamp.number, stamp.base),
        "builddate": str(stamp.epoch),
        "size": str(size),
    }
    for name in (".PKGINFO", ".BUILDINFO"):
        path = root / name
        if path.exists():
            lines = (_changed_line(line, changed) for line in path.read_text().splitlines(keepends=True))
            path.write_text("".join(lines))
    (root / ".MTREE").unlink(missing_ok=True)
    _date_new_files(root, stamp)
    (root / ".MTREE").write_bytes(gzip.compress(_mtree(root).encode(), mtime=0))
    os.utime(root / ".MTREE", (stamp.epoch, stamp.epoch))
    data = tar_of(root, "", stamp, first=(".BUILDINFO", ".MTREE", ".PKGINFO"))
    try:
        words = ["zstd", "--quiet", "--stdout", "-3", "-T0", "-"]
        packed = run(words, input=data, timeout=SECONDS, output_limit=LARGEST_UNPACKED)
    except ProgramMissing as error:
        raise missing_tool("pacman") from error
    target.write_bytes(packed.stdout)


def _changed_line(line: str, changed: Mapping[str, str]) -> str:
    key = line.partition(" = ")[0]
    return f"{key} = {changed[key]}\n" if key in changed else line


def _mtree(root: Path) -> str:
    """What .MTREE says of each file, in the words of mtree(5), with the keys that makepkg asks bsdtar for."""
    lines = ["#mtree", "/set type=file uid=0 gid=0 mode=644"]
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
        status = path.stat()
        words = [f"./{_escaped(str(path.relative_to(root)))}", f"time={int(status.st_mtime)}.0"]
        if status.st_mode & 0o777 != 0o644:
            words.append(f"mode={status.st_mode & 0o777:o}")
        if path.is_dir():
            words.append("type=dir")
        else:
            contents = path.read_bytes()
            words.append(f"size={len(contents)}")
            words.append(f"md5digest={hashlib.md5(contents, usedforsecurity=False).hexdigest()}")
            words.append(f"sha256digest={hashlib.sha256(contents).hexdigest()}")
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def _escaped(name: str) -> str:
    return "".join(
        character if (character.isascii() and character.isalnum()) or character in "/._-+:@%," else
        "".join(f"\\{byte:03o}" for byte in character.encode())
        for character in name
    )  # fmt: skip


def pack_tar(root: Path, stamp: Stamp, beside: Mapping[str, tuple[bytes, int]], top: str, target: Path) -> None:
    """Write the tar: below one directory `top`, `root/` and the files `beside` it: name -> contents and mode.

    It holds a secret: it is made readable by its owner alone.
    """
    _date_new_files(root, stamp)
    buffer = io.BytesIO()
    with _writing(buffer) as archive:
        archive.addfile(_directory(top, stamp))
        for name, (contents, mode) in sorted(beside.items()):
            member = _plain(tarfile.TarInfo(f"{top}/{name}"), stamp)
            member.size, member.mode = len(contents), mode
            archive.addfile(member, io.BytesIO(contents))
        archive.addfile(_directory(f"{top}/root", stamp))
        _add_all(archive, root, f"{top}/root/", stamp)
    target.touch(0o600, exist_ok=False)
    target.write_bytes(buffer.getbuffer())


def tar_of(root: Path, prefix: str, stamp: Stamp, *, first: tuple[str, ...] = ()) -> bytes:
    """All that lies below `root`, sorted, but those named `first` at the beginning."""
    buffer = io.BytesIO()
    with _writing(buffer) as archive:
        for name in first:
            if (root / name).exists():
                _add(archive, root / name, f"{prefix}{name}", stamp)
        _add_all(archive, root, prefix, stamp, left_out=first)
    return buffer.getvalue()


def _writing(buffer: io.BytesIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT)


def _add_all(
    archive: tarfile.TarFile, root: Path, prefix: str, stamp: Stamp, *, left_out: tuple[str, ...] = ()
) -> None:
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name not in left_out:
            _add(archive, path, f"{prefix}{name}", stamp)


def _add(archive: tarfile.TarFile, path: Path, name: str, stamp: Stamp) -> None:
    member = archive.gettarinfo(path, name)
    # Hard links would be stored as such.
    member.type = tarfile.DIRTYPE if path.is_dir() else tarfile.REGTYPE
    member.linkname = ""
    member.size = 0 if path.is_dir() else path.stat().st_size
    when, mode = int(member.mtime), member.mode & 0o777
    _plain(member, stamp)
    member.mtime, member.mode = when, mode
    if path.is_dir():
        archive.addfile(member)
    else:
        with path.open("rb") as file:
            archive.addfile(member, file)


def _directory(name: str, stamp: Stamp) -> tarfile.TarInfo:
    member = _plain(tarfile.TarInfo(name), stamp)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member


def _plain(member: tarfile.TarInfo, stamp: Stamp) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = stamp.epoch
    return member


def _date_new_files(root: Path, stamp: Stamp) -> None:
    """Files that were laid over the package's own, and directories, get the date of the release."""
    for path in root.rglob("*"):
        if path.is_dir() or path.stat().st_mtime > stamp.epoch:
            os.utime(path, (stamp.epoch, stamp.epoch))


def _files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file())


Packer = Callable[[Unpacked, Stamp, Path], None]
PACKERS: Mapping[str, Packer] = {"deb": pack_deb, "pacman": pack_pacman}
