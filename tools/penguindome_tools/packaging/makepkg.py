"""Run makepkg, on Arch or on Debian, from arch/PKGBUILD and a source archive that is made here of exported sources.

makepkg refuses root, so root builds as the user nobody. A package records the directory it was built in: makepkg sees a
place that is the same everywhere, and two builds of the same sources are the same, byte by byte.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from penguindome_tools.packaging.sources import date_of_changelog, run_builder

SUFFIX = ".pkg.tar.zst"
PLACE = "/mnt"
"""Where makepkg sees the directory that it builds in: there on every machine, and nobody else sees it."""
NOBODY = 65534
IN_PLACE = f'mount --bind . {PLACE} && cd {PLACE} && exec "$@"'


def build_package(source: Path, role: str, output: Path) -> Path:
    """Build the package of `role` of exported sources into `output`; returns it."""
    with tempfile.TemporaryDirectory(prefix="penguindome-pacman-") as directory:
        place = Path(directory)
        epoch = date_of_changelog(source)
        _lay_out(source, role, place, epoch)
        _run_makepkg(place, epoch)
        (made,) = (place / "packages").glob(f"*{SUFFIX}")
        return Path(shutil.copyfile(made, output / made.name))


def _lay_out(source: Path, role: str, place: Path, epoch: int) -> None:
    """Write what makepkg starts from: the recipe, reduced to one package, scriptlets and the archive with its sum."""
    recipe = (source / "arch/PKGBUILD").read_text()
    found = re.search(r"^pkgver=(.*)$", recipe, re.MULTILINE)
    assert found, "arch/PKGBUILD has a version"
    name = f"penguindome-{found[1]}"
    for path in (source / "arch").glob("*.install"):
        shutil.copyfile(path, place / path.name)
    _archive(source, place / f"{name}.tar", name, epoch)
    with (place / f"{name}.tar").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    recipe, count = re.subn(r"^pkgname=.*$", f"pkgname=(penguindome-{role})", recipe, flags=re.MULTILINE)
    assert count == 1, "arch/PKGBUILD names its packages in one line"
    (place / "PKGBUILD").write_text(recipe.replace("(SKIP)", f"({digest})"))


def _archive(source: Path, archive: Path, name: str, epoch: int) -> None:
    """The same files give the same bytes. It is not compressed, as most of it are wheels."""

    def same_everywhere(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = epoch
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(source, name, filter=same_everywhere)


def _run_makepkg(place: Path, epoch: int) -> None:
    """Build what lies in `place`; the packages are then in `packages/`."""
    (place / "packages").mkdir()
    root = os.geteuid() == 0
    if root:
        place.chmod(0o755)
        for path in (place, *place.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    command = ["makepkg", "--force", "--noconfirm", "--nocolor"]
    if not Path("/etc/arch-release").exists():
        command.append("--nodeps")  # pacman knows nothing of what another distribution has installed
    if root:
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    isolated = ["unshare", "--mount"] if root else ["unshare", "--mount", "--map-current-user", "--keep-caps"]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": PLACE,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(epoch),
        "PACKAGER": _maintainer(place),
        "PKGDEST": f"{PLACE}/packages",
        "PKGEXT": SUFFIX,
    }
    run_builder("makepkg", [*isolated, "sh", "-c", IN_PLACE, "sh", *command], place, environment)


def _maintainer(place: Path) -> str:
    found = re.search(r"^# Maintainer: (.*)$", (place / "PKGBUILD").read_text(), re.MULTILINE)
    assert found, "arch/PKGBUILD names its maintainer"
    return found[1]
