"""Build the packages of Arch: `python -m penguindome_tools.packaging.pacman [--output DIRECTORY]`.

They are built by makepkg, on Arch or on Debian, from arch/PKGBUILD and a source archive that is made here of the
checkout and the wheelhouse. makepkg refuses root, so root builds as the user nobody. A package records the directory it
was built in: makepkg sees a place that is the same everywhere, and two builds of the same sources are the same, byte by
byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from email.utils import parsedate_to_datetime
from pathlib import Path

from penguindome_tools.packaging import wheelhouse
from penguindome_tools.packaging.deb import export, run_builder

CHECKOUT = Path(__file__).resolve().parents[3]
SUFFIX = ".pkg.tar.zst"
PLACE = "/mnt"
"""Where makepkg sees the directory that it builds in: there on every machine, and nobody else sees it."""
NOBODY = 65534
IN_PLACE = f'mount --bind . {PLACE} && cd {PLACE} && exec "$@"'


def main() -> None:
    """Build into `dist/`, or where `--output` says, and name the packages."""
    parser = argparse.ArgumentParser(description="Build the packages of Arch.")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist", help="where the packages go")
    options = parser.parse_args()
    for package in build(options.output):
        print(package)


def build(output: Path) -> list[Path]:
    """Build both packages; returns their files in `output`, the client's first."""
    wheelhouse.main()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="penguindome-pacman-") as directory:
        place = Path(directory)
        source = place / "source"
        export(source)
        epoch = _date_of_changelog(source)
        _lay_out(source, place, epoch)
        _run_makepkg(place, epoch)
        made = sorted((place / "packages").glob(f"*{SUFFIX}"))
        for path in made:
            shutil.copyfile(path, output / path.name)
    return [output / path.name for path in made]


def _date_of_changelog(source: Path) -> int:
    """The date of both distributions' packages: that of the newest entry in debian/changelog."""
    found = re.search(r"^ -- .*>  (.*)$", (source / "debian/changelog").read_text(), re.MULTILINE)
    assert found, "debian/changelog has an entry with a date"
    return int(parsedate_to_datetime(found[1]).timestamp())


def _lay_out(source: Path, place: Path, epoch: int) -> None:
    """Turn the exported `source` into what makepkg starts from: recipe, scriptlets and the archive with its sum."""
    recipe = (source / "arch/PKGBUILD").read_text()
    found = re.search(r"^pkgver=(.*)$", recipe, re.MULTILINE)
    assert found, "arch/PKGBUILD has a version"
    name = f"penguindome-{found[1]}"
    for path in (source / "arch").glob("*.install"):
        shutil.copyfile(path, place / path.name)
    _archive(source, place / f"{name}.tar", name, epoch)
    shutil.rmtree(source)
    with (place / f"{name}.tar").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
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


if __name__ == "__main__":
    main()
