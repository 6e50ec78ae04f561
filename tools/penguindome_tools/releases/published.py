"""Whether a publication is whole and signed: everything that apt and pacman would look at, read back from the disk."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from penguindome.errors import PenguinDomeError
from penguindome.files import read_limited
from penguindome.openpgp import LONGEST_SIGNATURE, LONGEST_TEXT, Certificate
from penguindome.release import LARGEST_PACKAGE, InvalidRelease
from penguindome_tools.releases.apt_repository import BY_HASH, DISTRIBUTION
from penguindome_tools.releases.arch_repository import ARCHIVE, DATABASES


def verify_publication(directory: Path, certificate: Certificate) -> None:
    """Raise InvalidRelease or SignatureError unless both repositories in `directory` are whole and signed by this."""
    try:
        _verify_apt(directory / "apt", certificate)
        _verify_arch(directory / "arch", certificate)
    except (OSError, tarfile.TarError) as error:
        raise InvalidRelease(f"the publication {directory} is not whole: {error}") from error
    except PenguinDomeError as error:
        raise type(error)(f"the publication {directory}: {error.message}") from error


def _verify_apt(repository: Path, certificate: Certificate) -> None:
    place = repository / DISTRIBUTION
    release = read_limited(place / "Release", LONGEST_TEXT)
    certificate.verify(release, read_limited(place / "Release.gpg", LONGEST_SIGNATURE))
    _demand(certificate.verify_text(read_limited(place / "InRelease", LONGEST_TEXT)) == release, "InRelease")
    for line in release.decode().partition("\nSHA256:\n")[2].splitlines():
        digest, size, name = line.split()
        _verify_file(place / name, digest, int(size))
        _verify_file((place / name).parent / BY_HASH / digest, digest, int(size))
    for packages in place.glob("*/binary-*/Packages"):
        plain = packages.read_bytes()
        _demand(gzip.decompress(packages.with_name("Packages.gz").read_bytes()) == plain, "Packages.gz")
        for stanza in filter(None, plain.decode().split("\n\n")):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
            _verify_file(repository / fields["Filename"], fields["SHA256"], int(fields["Size"]))


def _verify_arch(repository: Path, certificate: Certificate) -> None:
    for database in DATABASES:
        data = (repository / database).read_bytes()
        signature = read_limited(repository / f"{database}.sig", LONGEST_SIGNATURE)
        certificate.verify_binary(data, signature)
        _demand((repository / f"{database}{ARCHIVE}").read_bytes() == data, database)
        for name, digest in _described(data):
            contents = _verify_file(repository / name, digest)
            certificate.verify_binary(contents, read_limited(repository / f"{name}.sig", LONGEST_SIGNATURE))


def _described(database: bytes) -> Iterator[tuple[str, str]]:
    """File name and SHA-256 of each package that a database names."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(database))) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith("/desc") else None
            if file is not None:
                sections = [part.split("\n") for part in file.read().decode().split("\n\n")]
                values = {section[0]: section[1] for section in sections if len(section) > 1}
                yield values["%FILENAME%"], values["%SHA256SUM%"]


def _verify_file(path: Path, digest: str, size: int | None = None) -> bytes:
    contents = read_limited(path, LARGEST_PACKAGE)
    _demand(sha256(contents).hexdigest() == digest and size in (None, len(contents)), path.name)
    return contents


def _demand(condition: object, name: str) -> None:
    if not condition:
        raise InvalidRelease(f"{name} is not what was signed")
