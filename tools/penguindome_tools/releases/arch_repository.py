"""The pacman repository of a publication: the database `penguindome.db`, as repo-add makes it, and its signature.

A database is a tar of one directory a package with its `desc`; `penguindome.files` also has the names of its files.
Signatures of packages lie beside them, as pacman 7 wants it; they are not repeated in the database.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from penguindome.files import write_atomically
from penguindome_tools.releases.package_contents import PacmanPackage, pacman_package
from penguindome_tools.releases.signer import Signer

NAME = "penguindome"
DATABASES = (f"{NAME}.db", f"{NAME}.files")
ARCHIVE = ".tar.gz"

# What repo-add writes, in its order, and the key of .PKGINFO that it comes from.
_SINGLE = (("NAME", "pkgname"), ("BASE", "pkgbase"), ("VERSION", "pkgver"), ("DESC", "pkgdesc"))
_MORE = (
    *(("URL", "url"), ("LICENSE", "license"), ("ARCH", "arch"), ("BUILDDATE", "builddate"), ("PACKAGER", "packager")),
    *(("REPLACES", "replaces"), ("CONFLICTS", "conflict"), ("PROVIDES", "provides"), ("DEPENDS", "depend")),
    *(("OPTDEPENDS", "optdepend"), ("MAKEDEPENDS", "makedepend"), ("CHECKDEPENDS", "checkdepend")),
)


def write_arch(directory: Path, packages: Sequence[Path], signer: Signer) -> None:
    """Make a repository in `directory`, which holds `packages` and their signatures; pacman finds it by the names
    without `.tar.gz`. Raises PenguinDomeError, OSError.
    """
    entries = [(package, pacman_package(package)) for package in packages]
    for database in DATABASES:
        data = _database(entries, with_files=database.endswith(".files"))
        archive = directory / f"{database}{ARCHIVE}"
        write_atomically(archive, data, mode=0o644)
        signature = archive.with_name(f"{archive.name}.sig")
        write_atomically(signature, signer.binary(data), mode=0o644)
        # repo-add makes links; these are files of their own, for whoever serves or copies them without following any.
        (directory / database).hardlink_to(archive)
        (directory / f"{database}.sig").hardlink_to(signature)


def _database(entries: Sequence[tuple[Path, PacmanPackage]], *, with_files: bool) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, package in entries:
            place = f"{package.one('pkgname')}-{package.one('pkgver')}"
            directory = tarfile.TarInfo(place)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
            _add(archive, f"{place}/desc", "".join(_description(path, package)))
            if with_files:
                _add(archive, f"{place}/files", _section("FILES", package.files))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


def _description(path: Path, package: PacmanPackage) -> Iterator[str]:
    contents = path.read_bytes()
    yield _section("FILENAME", [path.name])
    for name, key in _SINGLE:
        yield _section(name, package.info.get(key, ()))
    yield _section("CSIZE", [str(len(contents))])
    yield _section("ISIZE", package.info.get("size", ()))
    yield _section("SHA256SUM", [sha256(contents).hexdigest()])
    for name, key in _MORE:
        yield _section(name, package.info.get(key, ()))


def _section(name: str, values: Sequence[str]) -> str:
    return "".join((f"%{name}%\n", *(f"{value}\n" for value in values), "\n")) if values else ""
