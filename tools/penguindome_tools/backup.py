"""Making a backup: keys, settings, TLS files, releases and repository as they lie on the disk, and a copy of the store,
in one encrypted file, while the server works.

Nothing of it is on the disk in plain text but the copy of the store, for the time of the backup, in a directory (0700)
that the service user makes beside the store. The file is there when it is whole, and not before.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, ClassVar

from penguindome.errors import PenguinDomeError
from penguindome.files import FileLock, read_limited, sync_directory
from penguindome.openpgp import Certificate
from penguindome.paths import Paths
from penguindome_server.snapshots import take_snapshot
from penguindome_server.store.copying import Progress, Summary
from penguindome_tools import archive
from penguindome_tools.answers import self_signed_files
from penguindome_tools.archive import CURRENT, ROOT, SERVICE, STORE, ArchiveWriter, Head, InvalidBackup, Member
from penguindome_tools.context import Context
from penguindome_tools.encryption import Protection, encrypting
from penguindome_tools.installation import service_user_ids
from penguindome_tools.key_rotation import LOCK, optional
from penguindome_tools.scratch import scratch

_CERTIFICATE_BYTES = 1 << 20
_SCRATCH = ".backup-"
LEFT_OUT = frozenset(
    (
        "keys/lock", "keys/admin_log.lock",  # locks of those who run
        "keys/admin_log.acts",  # acts that are under way: this one
        "settings/client.yml", "settings/client.d",  # of this machine as a client
    )
)  # fmt: skip
"""What no backup holds, and what stays as it is where one is restored."""
LOG_FILES = ("admin_log.json", "admin_log.json.asc", "admin_log.stored")
_LOG_BYTES = 64 << 20

FileProgress = Callable[[list[Member]], Iterator[Member]]


class BackupFailed(PenguinDomeError):
    """No backup was made; nothing was changed."""

    code: ClassVar[str] = "backup-failed"


@dataclass
class _Log:
    """Root's files of the administrative log, as they were when the store's part of it was copied."""

    files: dict[str, bytes] = field(default_factory=dict)


def tree_paths(paths: Paths) -> dict[str, Path]:
    """Where the trees of an archive lie on a machine."""
    places = (paths.keys, self_signed_files(paths)[0].parent, paths.settings, paths.releases, paths.repository)
    return dict(zip(archive.TREES, places, strict=True))


def make_backup(
    context: Context, target: Path, protection: Protection, *, documents: Progress, files: FileProgress
) -> Head:
    """Write a backup of this server. Raises PenguinDomeError, or OSError that names the file."""
    settings, store, paths = context.settings, context.store, context.paths
    with context.as_root():
        lock = FileLock(paths.keys / LOCK)  # no rotation meanwhile
        lock.acquire()
    try:
        log = _Log()
        with scratch(paths.server_state, _SCRATCH) as made:
            rows = take_snapshot(store, made / STORE, quietly=lambda: _log_kept_quiet(context, log), progress=documents)
            descriptor = os.open(made / STORE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as copy, context.as_root():
                head = _head(context, settings["server.url"], rows)
                _write(paths, target, protection, head, copy, log, files)
        return head
    finally:
        with context.as_root():
            lock.release()


def _head(context: Context, url: str, rows: list[Summary]) -> Head:
    certificate = Certificate.from_text(read_limited(context.paths.releases / "server.asc", _CERTIFICATE_BYTES))
    return Head(
        id=secrets.token_hex(16),
        created_at=context.clock(),
        version=version("penguindome"),
        root=str(context.paths.root),
        server_key=certificate.fingerprint,
        server_url=url,
        store=tuple(vars(row) for row in rows),
    )


@contextmanager
def _log_kept_quiet(context: Context, log: _Log) -> Iterator[None]:
    """Nothing is added to the administrative log in this block; at its end root's files of it are read."""
    locked = optional("penguindome_server.admin_log_keeper", "locked_log")
    with ExitStack() as held:
        if locked is not None:
            with context.as_root():
                held.enter_context(locked(context.paths))
        yield
        with context.as_root():
            for name in LOG_FILES:
                path = context.paths.keys / name
                if path.exists():
                    log.files[f"keys/{name}"] = read_limited(path, _LOG_BYTES)


def _write(
    paths: Paths, target: Path, protection: Protection, head: Head, store: IO[bytes], log: _Log, files: FileProgress
) -> None:
    """Encrypt everything into `target`, which is replaced when all is on the disk. For root, alone."""
    _remove_leftovers(target)
    temporary = target.with_name(f"{_beginning(target)}{secrets.token_hex(6)}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise BackupFailed(f"{target} cannot be written: {error.strerror}") from error
    try:
        with encrypting(descriptor, protection) as stream, archive.writing(stream) as writer:
            writer.add_text(archive.HEAD, head.to_text())
            writer.add_file(Member(STORE, "file", 0o600, SERVICE, SERVICE), store, os.fstat(store.fileno()).st_size)
            for member, path in _numbered(files, list(_walk(paths))):
                _add(writer, member, path, log)
        os.fsync(descriptor)
        temporary.rename(target)
    except FileNotFoundError as error:
        raise BackupFailed(f"{error.filename} went away while it was read", hint="try again") from error
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
    sync_directory(target.parent)


def _beginning(target: Path) -> str:
    return f".{target.name[:200]}."


def _remove_leftovers(target: Path) -> None:
    """Remove what a backup that was killed left beside this target. Its name, mode and owner say whose it is."""
    ours = re.compile(re.escape(_beginning(target)) + r"[0-9a-f]{12}\.new")
    with suppress(OSError):
        for path in target.parent.iterdir():
            if ours.fullmatch(path.name):
                status = path.lstat()
                if status.st_uid == os.geteuid() and status.st_mode == stat.S_IFREG | 0o600:
                    path.unlink()


def _numbered(files: FileProgress, found: list[tuple[Member, Path]]) -> Iterator[tuple[Member, Path]]:
    places = {member.name: path for member, path in found}
    for member in files([member for member, _ in found]):
        yield member, places[member.name]


def _add(writer: ArchiveWriter, member: Member, path: Path, log: _Log) -> None:
    if member.kind != "file":
        writer.add(member)
        return
    if member.name in log.files:
        data = log.files[member.name]
        writer.add_file(member, io.BytesIO(data), len(data))
        return
    # A link in the settings is followed: what it leads to is what counts, and root made it.
    follow = 0 if member.name.startswith("settings/") else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | follow)
    with os.fdopen(descriptor, "rb") as contents:
        writer.add_file(member, contents, os.fstat(descriptor).st_size)


def _walk(paths: Paths) -> Iterator[tuple[Member, Path]]:
    """Everything to be added but the store, each directory before what is in it."""
    linked: dict[tuple[int, int], str] = {}
    for tree, place in tree_paths(paths).items():
        if place.is_dir():
            yield from _walk_tree(tree, place, linked)


def _walk_tree(name: str, path: Path, linked: dict[tuple[int, int], str]) -> Iterator[tuple[Member, Path]]:
    status = path.stat()
    yield Member(name, "directory", stat.S_IMODE(status.st_mode) & 0o777, *_owners(status)), path
    for child in sorted(path.iterdir()):
        child_name = f"{name}/{child.name}"
        if _is_left_out(child_name, path):
            continue
        status = child.lstat()
        if child_name == CURRENT and stat.S_ISLNK(status.st_mode):
            yield Member(child_name, "link", 0o777, ROOT, ROOT, str(child.readlink())), child
            continue
        if name == "settings" or name.startswith("settings/"):
            status = child.stat()
        if stat.S_ISDIR(status.st_mode):
            yield from _walk_tree(child_name, child, linked)
        elif stat.S_ISREG(status.st_mode):
            yield _file(child_name, status, linked), child
        elif not stat.S_ISSOCK(status.st_mode):  # the sockets of gpg's agent
            raise InvalidBackup(f"{child} is neither file nor directory", hint="it does not belong there: remove it")


def _file(name: str, status: os.stat_result, linked: dict[tuple[int, int], str]) -> Member:
    owners, mode = _owners(status), stat.S_IMODE(status.st_mode) & 0o777
    first = linked.setdefault((status.st_dev, status.st_ino), name)
    if first != name and status.st_nlink > 1 and not name.startswith("settings/"):
        return Member(name, "hard-link", mode, *owners, first)
    return Member(name, "file", mode, *owners)


def _is_left_out(name: str, parent: Path) -> bool:
    """Locks, what is being written at this moment, what goes with a process, and publications that nobody reads any
    more.
    """
    last = name.rpartition("/")[2]
    if name in LEFT_OUT or last.endswith(".lock") or last.startswith(".#lk"):
        return True
    if last.startswith(".") and (last.endswith(".new") or name.startswith(("releases/.", "repo/."))):
        return True
    if name.startswith("repo/publications/") and name.count("/") == 2:
        current = parent.parent / "current"
        return not current.is_symlink() or str(current.readlink()) != f"publications/{last}"
    return False


def _owners(status: os.stat_result) -> tuple[str, str]:
    ids = service_user_ids()
    if ids is None:
        return ROOT, ROOT
    return SERVICE if status.st_uid == ids[0] else ROOT, SERVICE if status.st_gid == ids[1] else ROOT
