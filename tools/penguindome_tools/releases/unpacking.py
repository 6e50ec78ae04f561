"""Unpack a client's package: of Debian, of Arch, or the tar of a release.

None of the tools of either distribution is needed for reading, as a server of one makes releases for both: a .deb is an
`ar` archive (deb(5)) of two tars, a package of Arch a tar with files `.PKGINFO` and the like beside the rest, and
compressed by zstd. What is unpacked belongs to who runs this; the packages that are made of it say root anyway.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penguindome.errors import ManifestError, ProcessError
from penguindome.files import read_limited
from penguindome.manifest import check_name
from penguindome.processes import ProgramMissing, run
from penguindome.release import LARGEST_PACKAGE, InvalidRelease

LARGEST_UNPACKED = 1 << 30
SECONDS = 300

_AR = b"!<arch>\n"
_HEADER = 60


@dataclass(frozen=True)
class Unpacked:
    """A package in two directories: `root` becomes `/` of a machine, `control` holds what is the package manager's."""

    root: Path
    control: Path


def unpack(kind: str, package: Path, target: Path) -> Unpacked:
    """Unpack a package of a kind (deb, pacman, tar) into the new directory `target`.

    Raises InvalidRelease for what is no such package, ProcessError when the program zstd is needed and missing, OSError
    or InvalidData when it cannot be read.
    """
    unpacked = Unpacked(target / "root", target / "control")
    for directory in (target, unpacked.root, unpacked.control):
        directory.mkdir()
    data = read_limited(package, LARGEST_PACKAGE)
    try:
        {"deb": _unpack_deb, "pacman": _unpack_pacman, "tar": _unpack_tar}[kind](data, unpacked)
    except (tarfile.TarError, EOFError, ManifestError, FileExistsError) as error:
        raise InvalidRelease(f"{package} cannot be unpacked: {error}") from error
    except InvalidRelease as error:
        raise InvalidRelease(f"{package} cannot be unpacked: {error.message}") from error
    return unpacked


def _unpack_deb(data: bytes, unpacked: Unpacked) -> None:
    members = dict(_ar_members(data))
    for start, target in (("control.tar", unpacked.control), ("data.tar", unpacked.root)):
        name = next((name for name in members if name.startswith(start)), None)
        if name is None:
            raise InvalidRelease(f"it is no Debian package: it has no {start}")
        with _opened(members[name], zstd=name.endswith(".zst")) as archive:
            for member, name_ in _members(archive):
                _lay(archive, member, target, name_)


def _unpack_pacman(data: bytes, unpacked: Unpacked) -> None:
    with _opened(data, zstd=data[:4] == b"\x28\xb5\x2f\xfd") as archive:
        for member, name in _members(archive):
            _lay(archive, member, unpacked.control if name.startswith(".") else unpacked.root, name)


def _unpack_tar(data: bytes, unpacked: Unpacked) -> None:
    """The tar has one directory on top, which holds `root/` beside what its `setup` needs."""
    with _opened(data, zstd=False) as archive:
        for member, name in _members(archive):
            _, _, inside = name.partition("/")
            if inside.startswith("root/"):
                _lay(archive, member, unpacked.root, inside.removeprefix("root/"))
            elif inside and "/" not in inside and member.isfile():
                _lay(archive, member, unpacked.control, inside)


def _ar_members(data: bytes) -> Iterator[tuple[str, bytes]]:
    if not data.startswith(_AR):
        raise InvalidRelease("it is no Debian package")
    offset = len(_AR)
    while offset < len(data):
        header = data[offset : offset + _HEADER]
        size = header[48:58].strip()
        if len(header) != _HEADER or not size.isdigit():
            raise InvalidRelease("it is damaged")
        offset += _HEADER
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), data[offset : offset + int(size)]
        offset += int(size) + int(size) % 2


def _opened(data: bytes, *, zstd: bool) -> tarfile.TarFile:
    if zstd:
        try:
            words = ["zstd", "--decompress", "--stdout", "--quiet"]
            data = run(words, input=data, timeout=SECONDS, output_limit=LARGEST_UNPACKED).stdout
        except ProgramMissing as error:
            raise ProcessError("the program zstd is missing", hint="install the package zstd") from error
    return tarfile.open(fileobj=io.BytesIO(data))


def _members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """The members, each with its name as a plain relative path."""
    for member in archive:
        name = member.name.removeprefix("./").rstrip("/")
        if name and name != ".":
            check_name(name)
            yield member, name


def _lay(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, name: str) -> None:
    """Make a directory or a file with the mode and time that the archive says; never through a link."""
    path = target / name
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = archive.extractfile(member) if member.isfile() else None
    if contents is None:
        # Ours have none; and a link could lead whoever lays files over it out of the tree.
        raise InvalidRelease(f"{name} is a link or a device")
    with path.open("xb") as file:
        file.write(contents.read())
    path.chmod(member.mode & 0o777)
    os.utime(path, (member.mtime, member.mtime))
