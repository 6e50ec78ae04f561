"""The files of one release as they lie in `releases/N/`, and whether they are what was signed."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from penguindome.files import read_limited
from penguindome.manifest import LARGEST as LARGEST_MANIFEST
from penguindome.manifest import Manifest
from penguindome.openpgp import LONGEST_SIGNATURE, Certificate
from penguindome.release import LARGEST as LARGEST_DESCRIPTION
from penguindome.release import LARGEST_PACKAGE, Description, InvalidRelease, PackageFile
from penguindome_tools.releases.staged import ARMOURED, DESCRIPTION, MANIFEST

BINARY = ".sig"


@dataclass(frozen=True)
class ReleaseFiles:
    """A release whose files were verified."""

    directory: Path
    description: Description
    manifest: Manifest

    def package(self, kind: str) -> Path | None:
        """The file of the package of this kind; None if this release has none."""
        package = self.description.packages.get(kind)
        return None if package is None else self.directory / package.name


def load_release(directory: Path, number: int, certificate: Certificate) -> ReleaseFiles:
    """Verify what `directory` holds of release `number`: description, manifest, packages and their signatures.

    Raises InvalidRelease, SignatureError or ManifestError for what is not as it was signed, also for file modes that
    would let anybody read the tar, which holds the enrolment key, or nobody the rest.
    """
    try:
        text, signature = _signed(directory / DESCRIPTION, LARGEST_DESCRIPTION)
        description = Description.load(text, signature, certificate)
        text, signature = _signed(directory / MANIFEST, LARGEST_MANIFEST)
        manifest = Manifest.load(text, signature, certificate)
        if description.release != number or manifest.release != number:
            raise InvalidRelease(f"{directory} holds release {description.release} where {number} belongs")
        for kind, package in description.packages.items():
            _verify_package(directory / package.name, kind, package, certificate)
    except OSError as error:
        raise InvalidRelease(f"release {number} is not whole: {error}") from error
    return ReleaseFiles(directory, description, manifest)


def _signed(path: Path, limit: int) -> tuple[bytes, bytes]:
    signature = read_limited(path.with_name(path.name + ARMOURED), LONGEST_SIGNATURE)
    _require_public(path)
    return read_limited(path, limit), signature


def _verify_package(path: Path, kind: str, package: PackageFile, certificate: Certificate) -> None:
    contents = read_limited(path, LARGEST_PACKAGE)
    if len(contents) != package.size or sha256(contents).hexdigest() != package.sha256:
        raise InvalidRelease(f"{path} is not what was signed")
    if kind == "tar":
        if path.stat().st_mode & stat.S_IROTH:
            raise InvalidRelease(f"{path} can be read by everybody", hint=f"chmod o= {path}")
        certificate.verify(contents, read_limited(path.with_name(path.name + ARMOURED), LONGEST_SIGNATURE))
        return
    _require_public(path)
    if kind == "pacman":
        signature = path.with_name(path.name + BINARY)
        _require_public(signature)
        certificate.verify_binary(contents, read_limited(signature, LONGEST_SIGNATURE))


def _require_public(path: Path) -> None:
    if path.stat().st_mode & 0o444 != 0o444:
        raise InvalidRelease(f"{path} cannot be read by the server", hint=f"chmod 644 {path}")
