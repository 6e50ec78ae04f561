"""Restoring a backup, so that a server goes on with its fleet.

The whole file is decrypted and checked before anything is written; then it is unpacked, and checked once more, beside
the places it shall go to, in directories (0700) of root and, for the store, of the service user; then the store is put
in place, then the files. What was there is kept in a directory that is named at the end. A note of which backup is
being restored lies in `/var/lib/penguindome/restoring.json` (see `restoring`) from the first change to the last, so
that a crash is repaired by giving the command again.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, ClassVar

from penguindome import systemd
from penguindome.errors import PenguinDomeError
from penguindome.files import FileLock, ensure_directory, sync_directory
from penguindome.paths import Paths
from penguindome.settings import Settings, load, read_fragment
from penguindome_server import restoring, running
from penguindome_server.settings import server_settings_schema
from penguindome_server.snapshots import summaries
from penguindome_server.store import Store, StoreError, StoreUnavailable, open_store
from penguindome_server.store.copying import Progress, copy_store
from penguindome_server.store.schema import SCHEMA
from penguindome_tools import archive, installation, units
from penguindome_tools.answers import FRAGMENT
from penguindome_tools.archive import CURRENT, SERVICE, STORE, Head, InvalidBackup, Member
from penguindome_tools.backup import LEFT_OUT, tree_paths
from penguindome_tools.context import Context
from penguindome_tools.encryption import decrypting
from penguindome_tools.key_rotation import LOCK
from penguindome_tools.scratch import scratch

_SQLITE = "sqlite://"
_OF_SQLITE = ("-journal", "-wal", "-shm")
_SCRATCH = ".restore-"
OF_A_SETUP = {"admin_log", "server_state"}
"""Collections in which a server that was set up, and never used, may have something."""


class RestoreRefused(PenguinDomeError):
    """A backup that is not restored here; nothing was changed."""

    code: ClassVar[str] = "restore-refused"


@dataclass
class Restored:
    """What was restored. `warnings` name what an administrator has to look at; what was here is kept in `replaced`, a
    directory, and as `old_store`, the name of a file (with endings, also those of its logs).
    """

    head: Head
    database: str
    floor: int
    replaced: Path | None
    old_store: Path | None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Unpacked:
    """A backup beside the places it shall go to: `trees` are root's, `store` is a file of the service user's."""

    head: Head
    trees: Path
    store: Path
    hashes: dict[str, str]


def verify(path: Path, passphrase: bytes | None) -> tuple[Head, dict[str, str]]:
    """Read a whole backup and check all of it; returns what it says of itself, and its files with their hashes.

    Raises NotDecrypted or InvalidBackup.
    """
    with decrypting(path, passphrase) as stream, archive.reading(stream) as read:
        for _ in read.members():
            pass
    return read.head, read.hashes


def restore(
    context: Context, path: Path, passphrase: bytes | None, *, database: str | None, force: bool, documents: Progress
) -> Restored:
    """Restore a backup. Raises PenguinDomeError, or OSError that names the file."""
    paths = context.paths
    with ExitStack() as stack:
        with _as_service(context):
            stack.enter_context(running.stopped(paths))
        _refuse_running_unit(paths)
        head, hashes = verify(path, passphrase)
        again = restoring.noted(paths) == head.id
        if not (force or again):
            _refuse_releases(paths)
        installation.make_directories(paths)
        stack.enter_context(FileLock(paths.keys / LOCK))
        unpacked = stack.enter_context(_unpacked(context, path, passphrase, hashes))
        values = _relocated(unpacked, paths)
        uri = database or _database_uri(unpacked, paths, values)
        with _as_service(context):
            floor = _prepare_store(unpacked, _release_numbers(paths, hashes))
            target = _Target(uri, force=force or again)
            target.require_empty()
        restoring.note(paths, head.id, path)
        with _as_service(context):
            target.fill(unpacked.store, documents, stamp=f"{context.clock():%Y%m%dT%H%M%S}")
        replaced = _put_in_place(paths, unpacked.trees, now=context.clock())
    if database is not None:
        values["database.uri"] = database
    context.forget_settings()
    settings = installation.write_settings(paths, values, self_signed=False)
    restoring.note_path(paths).unlink()
    warnings = list(_warnings(paths, settings, database))
    return Restored(head, target.shown, floor, replaced, target.replaced, warnings)


@contextmanager
def _as_service(context: Context) -> Iterator[None]:
    """Work as the service user in this block, and as root again after it."""
    user, group, groups = os.geteuid(), os.getegid(), os.getgroups()
    context.become_service_user()
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)
        if os.geteuid() == 0:
            os.setgroups(groups)


def _refuse_running_unit(paths: Paths) -> None:
    from penguindome import processes

    if systemd.has_unit(paths, units.SERVER) and systemd.RUNS.is_dir():
        asked = processes.run(["systemctl", "is-active", units.SERVER], timeout=60, check=False)
        if asked.text.strip() in ("active", "activating", "reloading", "deactivating"):
            raise running.ServerRuns("the server runs", hint=f"stop it first: systemctl stop {units.SERVER}")


def _refuse_releases(paths: Paths) -> None:
    if any(path.is_dir() for path in paths.releases.glob("[0-9]*")):
        raise RestoreRefused(
            f"there are releases of a server in {paths.releases}", hint="to put the backup in their place, add --force"
        )


def _release_numbers(paths: Paths, hashes: dict[str, str]) -> list[int]:
    """Numbers of releases in the backup, and of those that were here."""
    names = {name.split("/")[1] for name in hashes if name.startswith("releases/")}
    names |= {path.name for path in paths.releases.glob("[0-9]*")}
    return [int(name) for name in names if name.isdecimal() and len(name) < 10]


@contextmanager
def _unpacked(context: Context, path: Path, passphrase: bytes | None, hashes: dict[str, str]) -> Iterator[_Unpacked]:
    """Unpack a backup that was verified. What a crash left behind goes: nobody else restores now."""
    parent = context.paths.keys.parent
    with ExitStack() as stack:
        trees = stack.enter_context(scratch(parent, _SCRATCH))
        with _as_service(context):
            state = scratch(context.paths.server_state, _SCRATCH)
            store = state.__enter__()
        stack.callback(_leave_as_service, context, state)
        with decrypting(path, passphrase) as stream, archive.reading(stream) as read:
            for member, contents in read.members():
                if member.name == STORE:
                    assert contents is not None
                    with _as_service(context):
                        _write_new(store / STORE, contents, 0o600)
                else:
                    _unpack(trees, member, contents)
        if read.hashes != hashes:
            raise InvalidBackup(f"{path} was changed while it was read")
        yield _Unpacked(read.head, trees, store / STORE, hashes)


def _leave_as_service(context: Context, entered: Any) -> None:
    with _as_service(context):
        entered.__exit__(None, None, None)


def _unpack(trees: Path, member: Member, contents: IO[bytes] | None) -> None:
    """Write one member below `trees`, with its final mode and owner."""
    place = trees / member.name
    if member.kind == "hard-link":
        place.hardlink_to(trees / member.target)
        return
    if member.kind == "link":
        place.symlink_to(member.target)
        return
    if contents is not None:
        _write_new(place, contents, member.mode)
    else:
        place.mkdir(0o700)
    ids = installation.service_user_ids()
    if ids is not None:
        os.chown(place, ids[0] if member.owner == SERVICE else 0, ids[1] if member.group == SERVICE else 0)
    # Of a directory too: all of it is below one that nobody else may enter.
    place.chmod(member.mode | 0o700 if contents is None else member.mode)


def _write_new(place: Path, contents: IO[bytes], mode: int) -> None:
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(contents, file, 1 << 20)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _relocated(unpacked: _Unpacked, paths: Paths) -> dict[str, Any]:
    """The settings that setup wrote, with the places of another root changed into those of this one."""
    values = read_fragment(unpacked.trees / "settings" / FRAGMENT)
    old, new = (str(Path(root) / "var/lib/penguindome") for root in (unpacked.head.root, paths.root))
    if old == new:
        return values
    return {
        name: value.replace(old, new, 1)
        if isinstance(value, str) and value.removeprefix(_SQLITE).startswith(f"{old}/")
        else value
        for name, value in values.items()
    }


def _database_uri(unpacked: _Unpacked, paths: Paths, values: dict[str, Any]) -> str:
    settings = unpacked.trees / "settings"
    found = load(server_settings_schema(paths), settings / "server.yml", settings / "server.d")
    if found.origin("database.uri").file in (None, settings / FRAGMENT):
        return str(values.get("database.uri", found["database.uri"]))
    return str(found["database.uri"])


def _prepare_store(unpacked: _Unpacked, releases: list[int]) -> int:
    """Check the copy of the store, and make it one to go on with. Raises InvalidBackup."""
    with closing(open_store(f"{_SQLITE}{unpacked.store}")) as store:
        problems = store.check()
        found = [vars(row) for row in summaries(store)]
        if problems or [row for row in unpacked.head.store if row["name"] in SCHEMA] != found:
            raise InvalidBackup(f"the store in this backup is damaged ({(problems or ['its contents differ'])[0]})")
        return restoring.prepare(store, releases)


class _Target:
    """The database that the store goes to. Its files are the service user's, who works here."""

    def __init__(self, uri: str, *, force: bool) -> None:
        self._uri = uri
        self._force = force
        self.shown = uri
        self.replaced: Path | None = None
        self._file = Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None

    def require_empty(self) -> None:
        """Raise RestoreRefused when there is something in it that nobody allowed to be replaced."""
        if self._file is not None and not self._file.exists():
            if not self._file.parent.is_dir():
                raise RestoreRefused(f"the directory of the store, {self._file.parent}, does not exist")
            return
        found = self._contents()
        if found is not None and not self._force:
            raise RestoreRefused(found, hint="to put the backup in its place, add --force")

    def _contents(self) -> str | None:
        """What is there, in words; None when it is empty. A file that cannot be read is not empty."""
        try:
            with closing(open_store(self._uri)) as store:
                self.shown = store.uri
                filled = [name for name in SCHEMA if name not in OF_A_SETUP and store.collection(name).count()]
        except StoreUnavailable:
            raise
        except StoreError as error:
            if self._file is None:
                raise
            return error.message
        return f"{self.shown} is not empty: there are documents in {', '.join(filled)}" if filled else None

    def fill(self, copy: Path, documents: Progress, *, stamp: str) -> None:
        """Put the copy in the place of what is there."""
        if self._file is not None:
            self._replace(self._file, copy, stamp)
            return
        with closing(open_store(self._uri)) as store, closing(open_store(f"{_SQLITE}{copy}")) as source:
            _empty(store)
            try:
                copy_store(source, store, documents)
            except BaseException:
                with suppress(StoreError):
                    _empty(store)
                raise

    def _replace(self, file: Path, copy: Path, stamp: str) -> None:
        fresh = file.with_name(f".{file.name}.restored")
        fresh.unlink(missing_ok=True)
        shutil.move(copy, fresh)
        descriptor = os.open(fresh, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # The logs of another file go first, and also where that is gone: SQLite would play them over ours.
        old = f"{file}.replaced-{stamp}"
        for name in (*_OF_SQLITE, ""):
            with suppress(FileNotFoundError):
                Path(f"{file}{name}").rename(f"{old}{name}")
                self.replaced = Path(old)
        sync_directory(file.parent)
        fresh.rename(file)
        sync_directory(file.parent)
        with closing(open_store(self._uri)) as store:
            problems = store.check()
        if problems:
            raise PenguinDomeError(f"the restored store is damaged ({problems[0]})", hint="give the command again")


def _empty(store: Store) -> None:
    for name in SCHEMA:
        store.collection(name).delete({})


def _put_in_place(paths: Paths, trees: Path, *, now: datetime) -> Path | None:
    """Move every tree to its place, and what was there into a directory, which is returned if it was needed."""
    aside = paths.keys.parent / f"replaced-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    for tree, place in tree_paths(paths).items():
        source = trees / tree
        if place.is_dir():
            for child in sorted(place.iterdir()):
                if f"{tree}/{child.name}" not in LEFT_OUT and not _was_empty(child):
                    ensure_directory(aside, 0o700)
                    ensure_directory(aside / tree, 0o700)
                    shutil.move(child, aside / tree / child.name)
        if source.is_dir():
            status = source.stat()
            ensure_directory(place, status.st_mode & 0o777)
            os.chown(place, status.st_uid, status.st_gid)
            for child in sorted(source.iterdir()):
                _move(child, place / child.name)
            sync_directory(place)
    sync_directory(paths.keys.parent)
    return aside if aside.exists() else None


def _was_empty(path: Path) -> bool:
    """Remove a directory that is empty, as those are that a setup makes; says whether it was one."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True


def _move(source: Path, place: Path) -> None:
    """Move to a place that may be on another file system; there hard links between trees become copies."""
    # A link is one itself: where it leads to is another child's, and may not have been moved yet.
    inside = () if source.is_symlink() else source.rglob("*")
    ids = {path: path.lstat() for path in (source, *inside)} if os.geteuid() == 0 else {}
    shutil.move(source, place)
    for path, status in ids.items():
        os.chown(place / path.relative_to(source), status.st_uid, status.st_gid, follow_symlinks=False)


def _warnings(paths: Paths, settings: Settings, database: str | None) -> Iterator[str]:
    if database is not None:
        yield from installation.warnings(paths, settings, {"database.uri": database})
    for name in ("tls.certificate", "tls.key"):
        if settings[name] is not None and not settings[name].exists():
            yield f"{name}: {settings[name]} is not here (it was not in the backup): put it there before the start"
    if not (paths.repository / CURRENT.partition("/")[2]).exists() and any(paths.releases.glob("[0-9]*")):
        yield "there is no repository; run: penguindome release refresh --force"
