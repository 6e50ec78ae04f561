"""What packages say of themselves: the fields that the indices of apt and pacman repeat.

They are read here, and not by dpkg or pacman, because a server of either distribution publishes both kinds. The format
of a .deb is that of deb(5), an `ar` archive; that of a pacman package is a tar with a file `.PKGINFO`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penguindome.processes import run
from penguindome.release import InvalidRelease

LARGEST_UNPACKED = 1 << 30
UNPACK_SECONDS = 300

_AR = b"!<arch>\n"
_AR_HEADER = 60
_CONTROL_MEMBER = "control.tar"


@dataclass(frozen=True)
class PacmanPackage:
    """`.PKGINFO` (key -> values, in order) and the files that it installs; directories end in a slash."""

    info: Mapping[str, Sequence[str]]
    files: Sequence[str]

    def one(self, key: str) -> str:
        """The only value of a key. Raises InvalidRelease."""
        values = self.info.get(key, ())
        if len(values) != 1:
            raise InvalidRelease(f"a package for pacman says {len(values)} times what its {key} is")
        return values[0]


def deb_control(package: Path) -> Mapping[str, str]:
    """The fields of a Debian package, in order; continuation lines as they stand. Raises InvalidRelease."""
    for name, data in _ar_members(package):
        if name.startswith(_CONTROL_MEMBER):
            with _opened(data, package, zstd=name.endswith(".zst")) as archive:
                return _fields(_member(archive, ("./control", "control"), package), package)
    raise InvalidRelease(f"{package.name} is no Debian package: it has no control file")


def pacman_package(package: Path) -> PacmanPackage:
    """What a package for pacman says. Needs the program zstd. Raises InvalidRelease or ProcessError."""
    with _opened(package.read_bytes(), package, zstd=package.name.endswith(".zst")) as archive:
        info: dict[str, list[str]] = {}
        for line in _member(archive, (".PKGINFO",), package).splitlines():
            key, separator, value = line.partition(" = ")
            if separator and not line.startswith("#"):
                info.setdefault(key.strip(), []).append(value.strip())
        files = [f"{member.name}/" if member.isdir() else member.name for member in archive if member.name[0] != "."]
    return PacmanPackage(info, sorted(files))


def _ar_members(package: Path) -> Iterator[tuple[str, bytes]]:
    with package.open("rb") as file:
        if file.read(len(_AR)) != _AR:
            raise InvalidRelease(f"{package.name} is no Debian package")
        while header := file.read(_AR_HEADER):
            size = header[48:58].strip()
            if len(header) != _AR_HEADER or not size.isdigit():
                raise InvalidRelease(f"{package.name} is damaged")
            yield header[:16].decode("ascii", "replace").strip().rstrip("/"), file.read(int(size))
            if int(size) % 2:
                file.read(1)


def _opened(data: bytes, package: Path, *, zstd: bool) -> tarfile.TarFile:
    if zstd:
        words = ["zstd", "--decompress", "--stdout", "--quiet"]
        data = run(words, input=data, timeout=UNPACK_SECONDS, output_limit=LARGEST_UNPACKED).stdout
    try:
        return tarfile.open(fileobj=io.BytesIO(data))
    except tarfile.TarError as error:
        raise InvalidRelease(f"{package.name} cannot be read: {error}") from error


def _member(archive: tarfile.TarFile, names: Sequence[str], package: Path) -> str:
    for name in names:
        try:
            file = archive.extractfile(name)
        except (KeyError, tarfile.TarError):
            continue
        if file is not None:
            return file.read().decode("utf-8", "replace")
    raise InvalidRelease(f"{package.name} has no {names[-1]}")


def _fields(text: str, package: Path) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in text.strip("\n").splitlines():
        name, separator, value = line.partition(":")
        if line[:1] in (" ", "\t") and last:
            fields[last] += f"\n{line}"
        elif separator and name and not name.isspace():
            last = name
            fields[name] = value.strip()
        else:
            raise InvalidRelease(f"the control file of {package.name} is damaged")
    if not {"Package", "Version", "Architecture"} <= fields.keys():
        raise InvalidRelease(f"the control file of {package.name} does not name package, version and architecture")
    return fields
