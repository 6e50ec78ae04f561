"""Publishing: a new tree of the site's repositories beside the old one, signed, verified, and put in force at once.

    repo/current -> publications/7
    repo/publications/7/apt/...   repo/publications/7/arch/...

What a publication offers is given by `releases`, newest first: the indices name the packages of the first of them; the
packages of the others can still be fetched by who has an index of yesterday. None at all makes empty repositories, in
which `apt update` finds nothing wrong. Packages are hard links to those in `releases/N/`.

A crash at any instant leaves the old publication or the new one in force; what it left behind goes at the next run. A
lock keeps two from publishing at once: the second waits. Publications that were replaced stay for `KEEP_FOR`: readers
may be half-way through them.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import AlreadyRunning, FileLock, ensure_directory, read_limited, sync_directory, write_atomically
from penguindome.logging import get_logger
from penguindome.paths import Paths
from penguindome.release import InvalidRelease
from penguindome.server_keyring import ServerKeyring
from penguindome_server.repository_index import IndexTimes, index_times
from penguindome_tools.releases.apt_repository import BY_HASH, COMPONENT, DISTRIBUTION, write_apt
from penguindome_tools.releases.arch_repository import NAME, write_arch
from penguindome_tools.releases.published import verify_publication
from penguindome_tools.releases.release_files import BINARY, ReleaseFiles, load_release
from penguindome_tools.releases.signer import Signer
from penguindome_tools.releases.staged import StagedRelease

log = get_logger(__name__)

VALID_FOR = timedelta(days=30)
KEEP_FOR = timedelta(hours=1)
WAIT_SECONDS = 120.0
RECORD = "publication.json"
"""What a publication offers, for ourselves: it lies beside what is served."""
LONGEST_RECORD = 1 << 16
# apt refuses a date that is more than ten seconds ahead of its clock.
AHEAD_AT_MOST = timedelta(seconds=8)

_NUMBER = re.compile("[1-9][0-9]*")
_UNFINISHED, _REMOVED = "new-", "old-"


def publish_release(
    paths: Paths,
    keyring: ServerKeyring,
    fingerprint: str,
    staged: StagedRelease,
    *,
    releases: Sequence[int],
    now: datetime,
    valid_for: timedelta = VALID_FOR,
    keep_end: bool = False,
) -> Path:
    """Verify a staged release, move it to `releases/N`, and publish; returns the directory of the publication.

    `releases` is what shall be offered afterwards (see `publish`): it begins with `staged.number` unless only canaries
    are to have it. Raises PenguinDomeError before anything was moved when the staged files are not what was signed or
    there is a release of this number; a failure after the move leaves the old publication in force, and `publish` can
    be tried again.
    """
    signer = Signer(keyring, fingerprint)
    with publishing(paths):
        load_release(staged.directory, staged.number, signer.certificate)
        target = paths.releases / str(staged.number)
        if target.exists():
            raise InvalidRelease(f"there is a release {staged.number} already: {target}")
        sync_directory(staged.directory)
        staged.directory.rename(target)
        sync_directory(paths.releases)
        return publish_locked(paths, signer, releases=releases, now=now, valid_for=valid_for, keep_end=keep_end)


def publish(
    paths: Paths,
    keyring: ServerKeyring,
    fingerprint: str,
    *,
    releases: Sequence[int],
    now: datetime,
    valid_for: timedelta = VALID_FOR,
    keep_end: bool = False,
) -> Path:
    """Make the repositories anew, signed until `now + valid_for`, and put them in force; returns their directory.

    `releases`: the numbers of the releases that are offered, newest first (see above); `own_record.standing` tells
    them. With `keep_end` they expire no later than those in force: they offer less than they should, and whoever is
    kept from the rest shall see that in time. Raises PenguinDomeError (InvalidRelease, KeyMaterialError,
    AlreadyRunning), or OSError; the old publication is then still in force.
    """
    signer = Signer(keyring, fingerprint)
    with publishing(paths):
        return publish_locked(paths, signer, releases=releases, now=now, valid_for=valid_for, keep_end=keep_end)


@contextmanager
def publishing(paths: Paths) -> Iterator[None]:
    """Be the only one who publishes, or changes signed files of releases. Raises AlreadyRunning after two minutes."""
    lock = FileLock(paths.keys / "publication.lock")
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            lock.acquire()
            break
        except AlreadyRunning:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def current(paths: Paths) -> Path | None:
    """The publication that is in force; None if there is none."""
    link = paths.repository / "current"
    return link.resolve() if link.is_symlink() and link.exists() else None


def current_times(paths: Paths) -> IndexTimes | None:
    """The times of the index in force; None when there is none, or none that can be read."""
    try:
        return index_times(paths.repository / "current")
    except (InvalidData, OSError) as error:
        log.warning("the published index is of no use: {}", error)
        return None


def publish_locked(
    paths: Paths,
    signer: Signer,
    *,
    releases: Sequence[int],
    now: datetime,
    valid_for: timedelta = VALID_FOR,
    keep_end: bool = False,
) -> Path:
    """`publish` for who holds the lock of `publishing` already."""
    publications = paths.repository / "publications"
    ensure_directory(publications)
    _remove_leftovers(paths, publications)
    kept = _remove_old(publications, now)
    number = max((int(directory.name) for directory in kept), default=0) + 1
    building = publications / f"{_UNFINISHED}{number}"
    signed_at = _signed_at(paths, now)
    expires_at = signed_at + valid_for
    if keep_end and (times := current_times(paths)):
        expires_at = min(expires_at, times.expires_at)
    offered = [
        load_release(paths.releases / str(release), release, signer.certificate) for release in dict.fromkeys(releases)
    ]
    _build(building, offered, signer, kept, signed_at=signed_at, expires_at=expires_at)
    verify_publication(building, signer.certificate)
    directory = publications / str(number)
    building.rename(directory)
    sync_directory(publications)
    _put_in_force(paths, directory)
    log.info("publication {} is in force; it offers {}", number, f"release {releases[0]}" if releases else "nothing")
    return directory


def in_force(paths: Paths) -> list[int] | None:
    """The releases that the publication in force offers, newest first; None when there is none that can be read."""
    try:
        content: Any = json.loads(read_limited(paths.repository / "current" / RECORD, LONGEST_RECORD))
    except (PenguinDomeError, OSError):
        return None
    releases = content.get("releases") if isinstance(content, dict) else None
    return releases if isinstance(releases, list) else None


def _build(
    directory: Path,
    offered: Sequence[ReleaseFiles],
    signer: Signer,
    earlier: Sequence[Path],
    *,
    signed_at: datetime,
    expires_at: datetime,
) -> None:
    pool, arch = directory / "apt/pool" / COMPONENT, directory / "arch"
    for place in (pool, arch):
        ensure_directory(place)
    debs, pacmans = (_linked(offered, kind, place) for kind, place in (("deb", pool), ("pacman", arch)))
    write_apt(
        directory / "apt",
        debs,
        signer,
        signed_at=signed_at,
        expires_at=expires_at,
        earlier=[older / "apt" for older in earlier],
    )
    write_arch(arch, pacmans, signer)
    record = {"releases": [release.description.release for release in offered]}
    write_atomically(directory / RECORD, json.dumps(record), mode=0o644)
    _date_files(directory, signed_at)
    for name, _, _ in os.walk(directory):
        sync_directory(Path(name))


def _date_files(directory: Path, signed_at: datetime) -> None:
    """Give the indices the date that is written in them. Over HTTP apt and pacman ask for what is newer than the file
    they have, to the second: those of two publications within one second must not have the same date.
    """
    made = [*(directory / "apt" / DISTRIBUTION).rglob("*"), *(directory / "arch").glob(f"{NAME}.*")]
    for path in made:
        if path.is_file() and path.parent.parent.name != Path(BY_HASH).parts[0]:
            os.utime(path, (signed_at.timestamp(), signed_at.timestamp()))


def _linked(offered: Sequence[ReleaseFiles], kind: str, place: Path) -> list[Path]:
    """Bring the packages of this kind into `place`; returns what the index shall name."""
    indexed = []
    for release in offered:
        package = release.package(kind)
        if package is None:
            continue
        _link(package, place)
        if kind == "pacman":
            _link(package.with_name(package.name + BINARY), place)
        if release is offered[0]:
            indexed.append(place / package.name)
    return indexed


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place / file.name)
    except OSError:
        # Releases may lie on a file system of their own.
        shutil.copyfile(file, place / file.name)
        (place / file.name).chmod(0o644)
        with (place / file.name).open("rb") as copy:
            os.fsync(copy.fileno())


def _signed_at(paths: Paths, now: datetime) -> datetime:
    """The date of the next index: never that of the one before, which apt would take for the same index.

    A date that lies far ahead is one that a wrong clock gave, and that no apt has believed.
    """
    times = current_times(paths)
    moment = now.astimezone(timezone.utc).replace(microsecond=0)
    if times is None or times.signed_at > moment + AHEAD_AT_MOST:
        return moment
    return max(moment, times.signed_at + timedelta(seconds=1))


def _put_in_force(paths: Paths, directory: Path) -> None:
    link = paths.repository / "current.new"
    link.symlink_to(directory.relative_to(paths.repository))
    link.rename(paths.repository / "current")
    sync_directory(paths.repository)


def _remove_leftovers(paths: Paths, publications: Path) -> None:
    """What a run that was killed left behind: it was never in force."""
    (paths.repository / "current.new").unlink(missing_ok=True)
    there = current(paths)
    newest = int(there.name) if there else 0
    for directory in publications.iterdir():
        if not _NUMBER.fullmatch(directory.name) or int(directory.name) > newest:
            shutil.rmtree(directory)


def _remove_old(publications: Path, now: datetime) -> list[Path]:
    """Remove publications that were replaced long ago; returns those that stay, oldest first."""
    directories = sorted(publications.iterdir(), key=lambda directory: int(directory.name))
    kept = []
    for directory, successor in itertools.pairwise(directories):
        replaced = _date_of(successor)
        if replaced is None or now - replaced > KEEP_FOR:
            # Under a name by which the next run knows that it is to go, if we are interrupted.
            shutil.rmtree(directory.rename(publications / f"{_REMOVED}{directory.name}"))
        else:
            kept.append(directory)
    return [*kept, *directories[-1:]]


def _date_of(publication: Path) -> datetime | None:
    try:
        times = index_times(publication)
    except (InvalidData, OSError):
        return None
    return times.signed_at if times else None
