"""Releases for tests: small packages that apt and pacman take, signed and staged as the maker of releases does it."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

from needs import require_program
from penguindome import manifest, release
from penguindome.manifest import Manifest
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome.release import Description, PackageFile
from penguindome.server_keyring import ServerKeyring
from penguindome_tools.releases import publication
from penguindome_tools.releases.signer import Signer
from penguindome_tools.releases.staged import StagedRelease

NOW = datetime.now(timezone.utc).replace(microsecond=0)
LIFE = timedelta(days=365)
NAME = "penguindome-client"
CONTENTS = "/usr/share/penguindome/test-release"
"""A file of every package, which says the number of its release."""


def deb(directory: Path, number: int) -> Path:
    """A package for Debian, built by dpkg-deb."""
    tree = directory / f"deb-{number}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {NAME}\nVersion: 1:{number}+0.1.0\nArchitecture: amd64\nMaintainer: Test <test@example.org>\n"
        "Section: admin\nPriority: optional\nDescription: a release\n of several lines\n .\n for a test\n"
    )
    place = tree / CONTENTS.lstrip("/")
    place.parent.mkdir(parents=True)
    place.write_text(f"{number}\n")
    target = directory / f"{NAME}_{number}+0.1.0_amd64.deb"
    words = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(target)]
    subprocess.run(words, check=True, capture_output=True)
    return target


def pacman_package(directory: Path, number: int) -> Path:
    """A package for pacman."""
    info = (
        f"# made by a test\npkgname = {NAME}\npkgbase = penguindome\npkgver = 1:{number}+0.1.0-1\n"
        "pkgdesc = a release for a test\nurl = https://example.org\nbuilddate = 1795000000\n"
        "packager = Test <test@example.org>\nsize = 42\narch = x86_64\nlicense = Apache-2.0\nlicense = MIT\n"
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in {".PKGINFO": info, CONTENTS.lstrip("/"): f"{number}\n"}.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text.encode()), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    target = directory / f"{NAME}-1:{number}+0.1.0-1-x86_64.pkg.tar.zst"
    done = subprocess.run(["zstd", "--quiet", "--stdout"], input=buffer.getvalue(), check=True, capture_output=True)
    target.write_bytes(done.stdout)
    return target


def tar(directory: Path, number: int) -> Path:
    """Something in place of the package for other distributions."""
    target = directory / f"{NAME}-{number}+0.1.0.tar"
    target.write_text(f"release {number}\n")
    return target


MAKERS = {"deb": deb, "pacman": pacman_package, "tar": tar}


@dataclass(frozen=True)
class Publisher:
    """A server, as far as its releases go. Making one skips the test where a program is missing that it runs."""

    paths: Paths
    keyring: ServerKeyring
    fingerprint: str

    @classmethod
    def of(cls, paths: Paths, keyring: ServerKeyring, fingerprint: str) -> Publisher:
        for program in ("gpg", "dpkg-deb", "zstd"):
            require_program(program)
        for directory in (paths.keys, paths.releases):
            directory.mkdir(parents=True, exist_ok=True)
        (paths.releases / "server.asc").write_text(keyring.certificate(fingerprint))
        (paths.keys / "server.fingerprint").write_text(fingerprint + "\n")
        return cls(paths, keyring, fingerprint)

    @property
    def signer(self) -> Signer:
        return Signer(self.keyring, self.fingerprint)

    @property
    def certificate(self) -> Certificate:
        return self.signer.certificate

    @property
    def current(self) -> Path:
        return self.paths.repository / "current"

    def stage(
        self, number: int, *, kinds: Sequence[str] = tuple(MAKERS), now: datetime = NOW, life: timedelta = LIFE
    ) -> StagedRelease:
        """A release, complete, under a name that begins with a dot."""
        directory = self.paths.releases / f".staged-{number}"
        directory.mkdir()
        work = Path(tempfile.mkdtemp(dir=self.paths.root))
        packages = {kind: self._package(work, directory, number, kind) for kind in kinds}
        (work / "plugins").mkdir()
        (work / "plugins/one").write_text(f"#!/bin/sh\necho '{number}'\n")
        text = manifest.build(
            work, ["plugins/one"], kind="release", release=number, issued_at=now, expires_at=now + life
        )
        self._signed(directory / "manifest.json", text)
        described = release.build(
            release=number, version=f"{number}+0.1.0", machine="x86_64", issued_at=now, expires_at=now + life,
            manifest_sha256=sha256(text).hexdigest(), packages=packages,
        )  # fmt: skip
        self._signed(directory / "release.json", described)
        return StagedRelease(directory, number, *self._loaded(text, described))

    def _package(self, work: Path, directory: Path, number: int, kind: str) -> PackageFile:
        made = MAKERS[kind](work, number)
        target = made.rename(directory / made.name)
        data = target.read_bytes()
        target.chmod(0o640 if kind == "tar" else 0o644)
        if kind == "pacman":
            target.with_name(f"{target.name}.sig").write_bytes(self.signer.binary(data))
        if kind == "tar":
            target.with_name(f"{target.name}.asc").write_bytes(self.signer.armoured(data))
        return PackageFile(target.name, sha256(data).hexdigest(), len(data))

    def _signed(self, path: Path, text: bytes) -> None:
        path.write_bytes(text)
        path.with_name(f"{path.name}.asc").write_bytes(self.signer.armoured(text))

    def _loaded(self, text: bytes, described: bytes) -> tuple[Description, Manifest]:
        from penguindome import json

        return (
            Description.from_content(json.loads(described), described),
            Manifest.from_content(json.loads(text), text),
        )

    def install(self, number: int, *, now: datetime = NOW, life: timedelta = LIFE) -> Path:
        """A release in its place, without any publication."""
        staged = self.stage(number, now=now, life=life)
        return staged.directory.rename(self.paths.releases / str(number))

    def publish(self, *releases: int, now: datetime = NOW, **options: timedelta) -> Path:
        """Offer these releases, the newest first."""
        return publication.publish(
            self.paths, self.keyring, self.fingerprint, releases=releases, now=now, **options
        )  # fmt: skip

    def publish_release(self, staged: StagedRelease, *releases: int, now: datetime = NOW) -> Path:
        return publication.publish_release(
            self.paths, self.keyring, self.fingerprint, staged, releases=releases, now=now
        )  # fmt: skip

    def key_file(self, place: Path) -> Path:
        """The certificate, armoured: what apt takes as Signed-By."""
        place.write_text(self.keyring.certificate(self.fingerprint))
        return place


def tree(directory: Path) -> Mapping[str, bytes]:
    """All files below a directory with their contents."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
