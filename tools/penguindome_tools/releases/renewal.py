"""Signing anew what expires, long before it does: the indices of the repositories, and manifests and descriptions of
the releases that clients are offered or may still fetch.

- Indices: when half of their validity is over, when the publication offers something else than it should (a release
  was halted by the server itself, which cannot publish), when the key is another one, or when they are damaged.
- A description (`releases/N/release.json`) is dated anew in place, when half of its life is over. Nothing else in it
  changes: its packages are the same, and so is the manifest in them.
- The manifest in the packages cannot be dated anew. A second one, of the same files, is put into `releases/renewed/N/`,
  and clients of release N are handed it.
- What is signed by an earlier key of this server is signed by the key in use.

Root signs only what lies in root's own directories and was signed by a key of root's keyring before. The store says no
more than which of the releases that root gave to clients are not offered. While it withholds the newest that root gave
to all, nothing gets a later end than it has: neither indices without that one, nor texts of older ones. So who is kept
on an old release learns of it when that expires, unless an administrator says that it is well so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.errors import PenguinDomeError, SignatureError
from penguindome.files import ensure_directory, read_limited, write_atomically
from penguindome.manifest import LARGEST as LARGEST_MANIFEST
from penguindome.manifest import Manifest
from penguindome.openpgp import LONGEST_SIGNATURE, Certificate
from penguindome.paths import Paths
from penguindome.release import LARGEST_PACKAGE, Description, InvalidRelease
from penguindome_server.signed_files import RENEWED
from penguindome_tools.releases import publication
from penguindome_tools.releases.own_record import Standing
from penguindome_tools.releases.published import verify_publication
from penguindome_tools.releases.release_files import BINARY
from penguindome_tools.releases.signer import Signer
from penguindome_tools.releases.staged import ARMOURED, DESCRIPTION, MANIFEST

LIFE = timedelta(days=365)
_NEW = ".new"


class Renewal:
    """What there is to sign anew at `now`: for the releases that clients are offered (see `own_record`)."""

    def __init__(
        self,
        paths: Paths,
        signer: Signer,
        standing: Standing,
        *,
        now: datetime,
        valid_for: timedelta,
        force: bool = False,
    ) -> None:
        self.paths = paths
        self.signer = signer
        self.offered = standing.offered
        self.releases = list(dict.fromkeys([*standing.canaries, *standing.offered]))
        self.newest_withheld = max(standing.withheld, default=0)
        self.now = now
        self.valid_for = valid_for
        self.force = force
        self.problems: list[str] = []

    @cached_property
    def _certificates(self) -> list[Certificate]:
        """Of the key in use, and of those before it."""
        keyring, fingerprint = self.signer.keyring, self.signer.fingerprint
        others = [each for each in keyring.fingerprints() if each != fingerprint]
        return [Certificate.from_text(keyring.certificate(each)) for each in (fingerprint, *others)]

    def due(self) -> list[str]:
        """What is to be signed anew, or cannot be, for people. Nothing is changed."""
        names = [name for name, _ in self._steps()]
        return names + self.problems

    def run(self) -> list[str]:
        """Sign it, and return what was signed, for people. What cannot be signed is told in `problems`, and keeps
        nothing else from being signed. Raises AlreadyRunning. It may be run again.
        """
        done = []
        with publication.publishing(self.paths):
            for release in self.releases:
                for place in self._places(release):
                    _recover(place, self._certificates)
            for name, work in self._steps():
                try:
                    work()
                except (PenguinDomeError, OSError) as error:
                    self.problems.append(f"{name}: {error}")
                else:
                    done.append(name)
        return done

    def _places(self, release: int) -> tuple[Path, Path, Path]:
        """The description of a release, the manifest in its packages, and the one that is handed out in its place."""
        directory = self.paths.releases / str(release)
        return directory / DESCRIPTION, directory / MANIFEST, self.paths.releases / RENEWED / str(release) / MANIFEST

    def _steps(self) -> Iterator[tuple[str, Callable[[], object]]]:
        self.problems = []
        for release in self.releases:
            try:
                yield from self._steps_of(release)
            except (PenguinDomeError, OSError) as error:
                self.problems.append(f"release {release}: {error}")
        if self._index_is_due():
            yield "the indices of the repositories", self._publish

    def _steps_of(self, release: int) -> Iterator[tuple[str, Callable[[], object]]]:
        described, original, renewed = self._places(release)
        for path in (described, original, *([renewed] if renewed.exists() else [])):
            text = self._signed(path)
            if not self._is_ours(text, path):
                yield f"{path.name} of release {release}, by the key in use", self._signing(path, text)
        description = Description.from_content(json.loads(self._signed(described)), self._signed(described))
        yield from self._package_steps(described.parent, description)
        if release <= self.newest_withheld:
            return
        if self._is_old(description.issued_at, description.expires_at):
            yield f"the description of release {release}", self._dating(described, described)
        newest = renewed if renewed.exists() else original
        manifest = Manifest.from_content(json.loads(self._signed(newest)), self._signed(newest))
        if self._is_old(manifest.issued_at, manifest.expires_at):
            yield f"the manifest of release {release}", self._dating(newest, renewed)

    def _package_steps(self, directory: Path, description: Description) -> Iterator[tuple[str, Callable[[], object]]]:
        """Detached signatures of packages that an earlier key made."""
        for kind, ending in (("pacman", BINARY), ("tar", ARMOURED)):
            package = description.packages.get(kind)
            if package is None or not (directory / package.name).exists():
                continue
            path, binary = directory / package.name, kind == "pacman"
            contents = read_limited(path, LARGEST_PACKAGE)
            signature = read_limited(path.with_name(path.name + ending), LONGEST_SIGNATURE)
            if _signer_of(contents, signature, self._certificates, path, binary=binary) is not self._certificates[0]:
                yield f"{path.name}, by the key in use", self._signing(path, contents, binary=binary)

    def _index_is_due(self) -> bool:
        times, directory = publication.current_times(self.paths), publication.current(self.paths)
        if times is None or directory is None or publication.in_force(self.paths) != self.offered:
            return True
        if not self.newest_withheld and self._is_old(times.signed_at, times.expires_at):
            return True
        try:
            verify_publication(directory, self.signer.certificate)
        except PenguinDomeError:
            return True
        return False

    def _publish(self) -> None:
        publication.publish_locked(
            self.paths, self.signer, releases=self.offered, now=self.now, valid_for=self.valid_for,
            keep_end=self.newest_withheld > 0,
        )  # fmt: skip

    def _is_old(self, issued_at: datetime, expires_at: datetime) -> bool:
        return self.force or self.now >= issued_at + (expires_at - issued_at) / 2

    def _signed(self, path: Path) -> bytes:
        """A text that a key of this server has signed."""
        text = read_limited(path, LARGEST_MANIFEST)
        _signer_of(text, _signature(path), self._certificates, path)
        return text

    def _is_ours(self, text: bytes, path: Path) -> bool:
        return _signer_of(text, _signature(path), self._certificates, path) is self._certificates[0]

    def _signing(self, path: Path, contents: bytes, *, binary: bool = False) -> Callable[[], None]:
        """Replace the signature of a file that stays as it is."""

        def work() -> None:
            target = path.with_name(path.name + (BINARY if binary else ARMOURED))
            signature = self.signer.binary(contents) if binary else self.signer.armoured(contents)
            write_atomically(target, signature, mode=target.stat().st_mode & 0o777)

        return work

    def _dating(self, source: Path, target: Path) -> Callable[[], None]:
        """Put the text of `source` into `target`, as issued now."""

        def work() -> None:
            content: Any = json.loads(self._signed(source))
            text = json.dumps({**content, "issued_at": self.now, "expires_at": self.now + LIFE}).encode("ascii")
            ensure_directory(target.parent)
            _replace_pair(target, text, self.signer.armoured(text))

        return work


def _signature(path: Path) -> bytes:
    return read_limited(path.with_name(path.name + ARMOURED), LONGEST_SIGNATURE)


def _signer_of(
    contents: bytes, signature: bytes, certificates: Sequence[Certificate], path: Path, *, binary: bool = False
) -> Certificate:
    """Which of these made the signature. Raises InvalidRelease when none did."""
    for certificate in certificates:
        try:
            if binary:
                certificate.verify_binary(contents, signature)
            else:
                certificate.verify(contents, signature)
        except SignatureError:
            continue
        return certificate
    raise InvalidRelease(f"{path} was not signed by a key of this server; it is left as it is")


def _replace_pair(path: Path, text: bytes, signature: bytes) -> None:
    """Replace a text and its signature such that after a crash `_recover` finds the old pair or the new one whole."""
    signature_path = path.with_name(path.name + ARMOURED)
    new_text, new_signature = (each.with_name(each.name + _NEW) for each in (path, signature_path))
    write_atomically(new_signature, signature, mode=0o644)
    write_atomically(new_text, text, mode=0o644)
    new_signature.rename(signature_path)
    new_text.rename(path)


def _recover(path: Path, certificates: Sequence[Certificate]) -> None:
    """Finish, or forget, what `_replace_pair` was at when it was interrupted."""
    signature_path = path.with_name(path.name + ARMOURED)
    new_text, new_signature = (each.with_name(each.name + _NEW) for each in (path, signature_path))
    if new_text.exists():
        made = new_signature if new_signature.exists() else signature_path
        try:
            _signer_of(new_text.read_bytes(), made.read_bytes(), certificates, path)
        except (PenguinDomeError, OSError):
            new_text.unlink()
        else:
            made.rename(signature_path)
            new_text.rename(path)
    new_signature.unlink(missing_ok=True)
