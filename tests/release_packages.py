"""Packages of releases for tests: the client's packages of this checkout, taken apart and put together as a site's
releases are, with a signed manifest in them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from penguindome import manifest, release
from penguindome.openpgp import DeviceKey
from penguindome.times import utc_now

HOME = "usr/lib/penguindome/client"
HOLD = "touch /run/at-work; while [ -e /run/hold ]; do sleep 0.1; done\n"
"""A script of the package waits while there is this file: the package manager is half-way then."""
PLUGIN = "#!/bin/sh\necho '{{\"release\": {}}}'\n"


@dataclass
class Made:
    """A release to be: `files` are laid over the tree, `code` over our modules (`client/minute.py` -> its text)."""

    number: int
    files: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    issued_at: datetime = field(default_factory=utc_now)

    @property
    def version(self) -> str:
        return f"{self.number}+0.1.0"

    def deb(self, base: Path, directory: Path, signer: DeviceKey) -> Path:
        """A Debian package."""
        tree = _fresh(directory / f"deb-{self.number}")
        subprocess.run(["dpkg-deb", "--raw-extract", base, tree], check=True)
        self._lay_over(tree / HOME, signer)
        control, postinst = tree / "DEBIAN/control", tree / "DEBIAN/postinst"
        control.write_text(
            re.sub(r"^Version: .*$", f"Version: 1:{self.version}", control.read_text(), flags=re.MULTILINE)
        )
        postinst.write_text(postinst.read_text().replace("set -e\n", f"set -e\n{HOLD}", 1))
        (tree / "DEBIAN/md5sums").unlink()
        made = directory / f"penguindome-client_{self.version}_amd64.deb"
        build = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, made]
        subprocess.run(build, check=True, capture_output=True)
        shutil.rmtree(tree)
        return made

    def pacman(self, base: Path, directory: Path, signer: DeviceKey) -> Path:
        """A package of pacman, as makepkg names it."""
        tree = _fresh(directory / f"pacman-{self.number}")
        tree.mkdir()
        subprocess.run(["bsdtar", "-xpf", base, "-C", tree, "--exclude", ".MTREE"], check=True)
        self._lay_over(tree / HOME, signer)
        info, scripts = tree / ".PKGINFO", tree / ".INSTALL"
        info.write_text(re.sub(r"^pkgver = .*$", f"pkgver = 1:{self.version}-1", info.read_text(), flags=re.MULTILINE))
        scripts.write_text(scripts.read_text().replace("post_upgrade() {\n", f"post_upgrade() {{\n{HOLD}", 1))
        made = directory / f"penguindome-client-1:{self.version}-1-x86_64.pkg.tar.zst"
        names = sorted(path.name for path in tree.iterdir())
        subprocess.run(["bsdtar", "--zstd", "-cf", made, "-C", tree, *names], check=True)
        shutil.rmtree(tree)
        return made

    def describe(self, packages: Mapping[str, Path], signer: DeviceKey) -> tuple[int, str, str]:
        """Number, text and signature of the description."""
        text = release.build(
            release=self.number, version=self.version, machine=os.uname().machine, issued_at=self.issued_at,
            expires_at=self.issued_at + timedelta(days=30), manifest_sha256="0" * 64,
            packages={kind: described(path) for kind, path in packages.items()},
        )  # fmt: skip
        return self.number, text.decode(), signer.sign(text).decode()

    def _lay_over(self, home: Path, signer: DeviceKey) -> None:
        shutil.rmtree(home / "plugins")
        for name, text in {"plugins/hello.sh": PLUGIN.format(self.number), **self.files}.items():
            path = home / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name.startswith("plugins/") else 0o644)
        (wheel,) = (home / "wheels").glob("penguindome-*.whl")
        modules = _change(wheel, home / "requirements.txt", self.code)
        names = [str(path.relative_to(home)) for place in ("plugins", "settings") for path in (home / place).glob("*")]
        code = [f"code/{path.relative_to(modules)}" for path in modules.glob("penguindome/**/*.py")]
        text = manifest.build(
            home, [*names, *code, "requirements.txt", "pkg-setup"], kind="release", release=self.number,
            issued_at=self.issued_at, expires_at=self.issued_at + timedelta(days=90), places={"code": modules},
        )  # fmt: skip
        (home / "manifest.json").write_bytes(text)
        (home / "manifest.json.asc").write_bytes(signer.sign(text))
        shutil.rmtree(modules)


def rebuilt(base: Path, directory: Path, code: Mapping[str, str]) -> Path:
    """A package as it is built, of either kind, but with other modules in it; of the same name, in `directory`."""
    tree, made = _fresh(directory / "rebuilt"), directory / base.name
    if base.suffix == ".deb":
        subprocess.run(["dpkg-deb", "--raw-extract", base, tree], check=True)
    else:
        tree.mkdir()
        subprocess.run(["bsdtar", "-xpf", base, "-C", tree, "--exclude", ".MTREE"], check=True)
    (wheel,) = (tree / HOME / "wheels").glob("penguindome-*.whl")
    shutil.rmtree(_change(wheel, tree / HOME / "requirements.txt", code))
    if base.suffix == ".deb":
        (tree / "DEBIAN/md5sums").unlink()
        build = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, made]
    else:
        build = ["bsdtar", "--zstd", "-cf", made, "-C", tree, *sorted(path.name for path in tree.iterdir())]
    subprocess.run(build, check=True, capture_output=True)
    shutil.rmtree(tree)
    return made


def described(path: Path) -> release.PackageFile:
    """A package file, as descriptions say it."""
    contents = path.read_bytes()
    return release.PackageFile(path.name, sha256(contents).hexdigest(), len(contents))


def _change(wheel: Path, requirements: Path, code: Mapping[str, str]) -> Path:
    """Our own wheel with other modules, and the hash that goes with it; returns where its contents lie unpacked."""
    modules = _fresh(wheel.parents[2] / "modules")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(modules)
        names = packed.namelist()
    for name, text in code.items():
        (modules / "penguindome" / name).write_text(text)
    for path in modules.rglob("*.py"):
        path.chmod(0o644)
    if code:
        before = sha256(wheel.read_bytes()).hexdigest()
        with zipfile.ZipFile(wheel, "w") as packed:
            for name in names:
                # The same bytes, whenever and of whichever package it is made.
                packed.writestr(zipfile.ZipInfo(name), (modules / name).read_bytes())
        after = sha256(wheel.read_bytes()).hexdigest()
        requirements.write_text(requirements.read_text().replace(before, after))
    return modules


def _fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    return directory
