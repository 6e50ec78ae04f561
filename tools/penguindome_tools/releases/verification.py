"""Whether the files of a release are what was signed: texts, packages, signatures, and what is inside of the packages;
and whether what is served beside them is.

Everything is looked at, and everything that is wrong is told; `publication` looks at less, and stops at the first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from penguindome.errors import PenguinDomeError, SignatureError
from penguindome.files import read_limited
from penguindome.manifest import LARGEST as LARGEST_MANIFEST
from penguindome.manifest import Manifest, verify_tree
from penguindome.openpgp import LONGEST_SIGNATURE, Certificate
from penguindome.paths import Paths
from penguindome.release import LARGEST as LARGEST_DESCRIPTION
from penguindome.release import LARGEST_PACKAGE, Description
from penguindome_server.repository_index import IN_RELEASE, index_times
from penguindome_server.signed_files import RENEWED
from penguindome_tools.releases import publication
from penguindome_tools.releases.content import TREE, lay_out
from penguindome_tools.releases.making import KIND_FILE, SIGNATURE
from penguindome_tools.releases.published import verify_publication
from penguindome_tools.releases.staged import ARMOURED, DESCRIPTION, MANIFEST
from penguindome_tools.releases.unpacking import unpack

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a release; of none, when it is what is served beside them."""

    release: int | None
    file: str
    problem: str


def verify_release(
    directory: Path, number: int, certificates: Sequence[Certificate], *, now: datetime, pruned: bool = False
) -> list[Problem]:
    """All that is wrong with release `number` in `directory`; of a `pruned` one only the signed texts are left.

    It may be signed by any of `certificates`: those of the server key, and of the keys before it.
    """
    found = _Verifying(directory, number, certificates).all(now, pruned=pruned)
    return [Problem(number, file, problem) for file, problem in found]


def verify_served(
    paths: Paths, numbers: Sequence[int], certificates: Sequence[Certificate], *, now: datetime
) -> list[Problem]:
    """What is wrong with what clients are handed beside releases `numbers`: the publication in force, which is signed
    by the first of `certificates`, and the manifest of their base packages.
    """
    problems = []
    directory = publication.current(paths)
    if directory is not None:
        try:
            verify_publication(directory, certificates[0])
            times = index_times(directory)
            if times is not None and times.expires_at <= now:
                problems.append(Problem(None, f"repo/current/{IN_RELEASE}", f"expired on {times.expires_at:%Y-%m-%d}"))
        except PenguinDomeError as error:
            problems.append(Problem(None, "repo/current", error.message))
    elif numbers:
        problems.append(Problem(None, "repo/current", "missing"))
    return [*problems, *_verify_handed_out(paths.releases, 0, certificates)]


def verify_renewed(paths: Paths, number: int, certificates: Sequence[Certificate]) -> list[Problem]:
    """What is wrong with the manifest that clients of a release are handed in the place of the one in its packages."""
    return _verify_handed_out(paths.releases / RENEWED / str(number), number, certificates)


def _verify_handed_out(directory: Path, number: int, certificates: Sequence[Certificate]) -> list[Problem]:
    if not any((directory / name).exists() for name in (MANIFEST, MANIFEST + ARMOURED)):
        return []
    found = _Verifying(directory, number, certificates)
    manifest = found.reading(MANIFEST, found.manifest)
    if manifest is not None and manifest.release != number:
        found.problems.append((MANIFEST, f"is of release {manifest.release}"))
    place = "releases" if number == 0 else f"releases/{RENEWED}/{number}"
    return [Problem(number or None, f"{place}/{file}", problem) for file, problem in found.problems]


Found = Iterator[tuple[str, str]]


class _Verifying:
    def __init__(self, directory: Path, number: int, certificates: Sequence[Certificate]) -> None:
        self.directory = directory
        self.number = number
        self.certificates = certificates
        self.problems: list[tuple[str, str]] = []

    def all(self, now: datetime, *, pruned: bool) -> Found:
        if not self.directory.is_dir():
            yield str(self.directory), "missing"
            return
        description = self.reading(DESCRIPTION, self.description)
        manifest = self.reading(MANIFEST, self.manifest)
        if description is not None:
            for text in (description, manifest):
                if text is not None and text.release != self.number:
                    self.problems.append((DESCRIPTION, f"is of release {text.release}"))
            if manifest is not None and manifest.sha256 != description.manifest_sha256:
                self.problems.append((MANIFEST, "is another one than the description names"))
            if description.expires_at <= now:
                self.problems.append((DESCRIPTION, f"expired on {description.expires_at:%Y-%m-%d}"))
            if not pruned:
                for kind in description.packages:
                    self.package(kind, description, manifest)
            self.unexpected(description, pruned=pruned)
        yield from self.problems

    def reading(self, name: str, work: Callable[[str], T]) -> T | None:
        """What `work` makes of a file; a problem if it cannot be read, or is not as signed."""
        try:
            return work(name)
        except FileNotFoundError as error:
            self.problems.append((Path(error.filename or name).name, "missing"))
        except OSError as error:
            self.problems.append((name, error.strerror or str(error)))
        except PenguinDomeError as error:
            self.problems.append((name, error.message))
        return None

    def description(self, name: str) -> Description:
        text = read_limited(self.directory / name, LARGEST_DESCRIPTION)
        return self.by_us(lambda certificate: Description.load(text, self.signature(name + ARMOURED), certificate))

    def manifest(self, name: str) -> Manifest:
        text = read_limited(self.directory / name, LARGEST_MANIFEST)
        return self.by_us(lambda certificate: Manifest.load(text, self.signature(name + ARMOURED), certificate))

    def by_us(self, verify: Callable[[Certificate], T]) -> T:
        """What `verify` makes of the certificate that fits. Raises SignatureError when none does."""
        for certificate in self.certificates[1:]:
            try:
                return verify(certificate)
            except SignatureError:
                continue
        return verify(self.certificates[0])

    def signature(self, name: str) -> bytes:
        return read_limited(self.directory / name, LONGEST_SIGNATURE)

    def package(self, kind: str, description: Description, manifest: Manifest | None) -> None:
        package = description.packages[kind]
        data = self.reading(package.name, lambda name: read_limited(self.directory / name, LARGEST_PACKAGE))
        if data is None:
            return
        if len(data) != package.size or sha256(data).hexdigest() != package.sha256:
            self.problems.append((package.name, "changed"))
            return
        if kind == "pacman":
            self.reading(
                package.name + SIGNATURE,
                lambda name: self.by_us(lambda certificate: certificate.verify_binary(data, self.signature(name))),
            )
        elif kind == "tar":
            self.reading(
                package.name + ARMOURED,
                lambda name: self.by_us(lambda certificate: certificate.verify(data, self.signature(name))),
            )
            if (self.directory / package.name).stat().st_mode & 0o007:
                self.problems.append((package.name, "can be read by everybody, and holds the enrolment key"))
        if manifest is not None:
            self.reading(package.name, lambda name: self.inside(kind, name, manifest))

    def inside(self, kind: str, name: str, manifest: Manifest) -> None:
        """Compare what is in a package with the manifest."""
        with tempfile.TemporaryDirectory(prefix="penguindome-verify-") as directory:
            tree = unpack(kind, self.directory / name, Path(directory) / "package").root / TREE
            for file, expected in ((MANIFEST, manifest.data), (KIND_FILE, f"{kind}\n".encode())):
                if not (tree / file).is_file() or (tree / file).read_bytes() != expected:
                    self.problems.append((name, f"{file} in it is missing, or another one"))
            named = Path(directory) / "named"
            lay_out(tree, named)
            for problem in verify_tree(manifest, named):
                self.problems.append((name, str(problem)))

    def unexpected(self, description: Description, *, pruned: bool) -> None:
        expected = {name for text in (DESCRIPTION, MANIFEST) for name in (text, text + ARMOURED)}
        for kind, package in description.packages.items():
            if not pruned:
                expected |= {package.name, package.name + {"pacman": SIGNATURE, "tar": ARMOURED}.get(kind, "")}
        for path in sorted(self.directory.iterdir()):
            if path.name not in expected:
                self.problems.append((path.name, "does not belong here"))
