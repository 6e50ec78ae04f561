"""The inside of a backup: a gzipped tar stream with these members, in this order.

1. `backup.json`: `{"format": 1, "kind": "penguindome-backup", "id", "created_at", "version", "root", "server_key",
   "server_url", "store": [{"name", "documents", "digest"}, ...]}`.
2. `store.sqlite`: the whole store, whatever its engine, as an embedded one.
3. What lies below the directories of `TREES`: `keys/...`, `settings/...`, and so on.
4. `contents.json`: `{"files": {NAME: SHA-256 in hex}}` of all files before it, so that nothing can be missing.

Rules for what is read, each of which refuses the whole: members of the right names in this order; names are plain
relative paths (`manifest.check_name`), each once, below a directory that came before; nothing but directories, regular
files without set-id bits, hard links to files of the same archive that came before, and the one symbolic link
`repo/current` to `publications/NUMBER`; owners are `root` or the service user; contents have the hashes that the last
member gives; after it comes nothing.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import IO, Any, ClassVar

from penguindome import json
from penguindome.errors import InvalidData, ManifestError, PenguinDomeError
from penguindome.manifest import check_name

FORMAT = 1
KIND = "penguindome-backup"
HEAD, STORE, CONTENTS = "backup.json", "store.sqlite", "contents.json"
TREES = ("keys", "tls", "settings", "releases", "repo")
CURRENT = "repo/current"
ROOT, SERVICE = "root", "penguindome"
"""Names that stand for owners: of files that are root's, and of those that the service user owns or may read."""

MOST_MEMBERS = 1_000_000
_LARGEST_TEXT = 256 << 20
_PUBLICATION = re.compile(r"publications/[0-9]{1,12}")
_KEYS = {"format", "kind", "id", "created_at", "version", "root", "server_key", "server_url", "store"}


class InvalidBackup(PenguinDomeError):
    """This is no backup, or one that is not whole, or that nobody should restore."""

    code: ClassVar[str] = "backup"


@dataclass(frozen=True)
class Head:
    """What a backup says of itself. `store` has a row for each collection: `name`, `documents`, `digest`."""

    id: str
    created_at: datetime
    version: str
    root: str
    server_key: str
    server_url: str
    store: tuple[Mapping[str, Any], ...]

    def to_text(self) -> str:
        """As it lies in the archive."""
        return json.dumps({"format": FORMAT, "kind": KIND, **vars(self), "store": [dict(row) for row in self.store]})

    @classmethod
    def from_text(cls, text: bytes) -> Head:
        """Read it. Raises InvalidBackup."""
        document = _parsed(text, HEAD)
        if not isinstance(document, dict) or document.get("kind") != KIND:
            raise InvalidBackup("this is no backup of a PenguinDome server")
        if document.get("format") != FORMAT:
            raise InvalidBackup(
                f"this backup has format {document.get('format')!r}, and this version knows {FORMAT}",
                hint="restore it with a newer version",
            )
        _demand(set(document) == _KEYS and isinstance(document["created_at"], datetime), f"{HEAD} is not as it must be")
        texts = [document[name] for name in ("id", "version", "root", "server_key", "server_url")]
        _demand(all(isinstance(text, str) for text in texts), f"{HEAD} is not as it must be")
        _demand(re.fullmatch("[0-9a-f]{32}", document["id"]), "its id is none")
        _demand(isinstance(document["store"], list) and all(_is_row(row) for row in document["store"]), "its store")
        del document["format"], document["kind"]
        return cls(**{**document, "store": tuple(document["store"])})


@dataclass(frozen=True)
class Member:
    """One member that was checked. `kind` is directory, file, hard-link or link; `target` is a link's."""

    name: str
    kind: str
    mode: int
    owner: str
    group: str
    target: str = ""


class ArchiveWriter:
    """Writes an archive into a stream, and remembers the hashes."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._hashes: dict[str, str] = {}

    def add_text(self, name: str, text: str) -> None:
        """Add a file of root's (0600) with this text."""
        data = text.encode()
        self.add_file(Member(name, "file", 0o600, ROOT, ROOT), io.BytesIO(data), len(data))

    def add_file(self, member: Member, contents: IO[bytes], size: int) -> None:
        """Add a regular file of exactly `size` bytes. Raises InvalidBackup when it has become shorter."""
        info = _info(member, tarfile.REGTYPE)
        info.size = size
        hashing = _Hashing(contents)
        try:
            self._tar.addfile(info, hashing)
        except OSError as error:
            if hashing.count < size and "unexpected end of data" in str(error):
                raise InvalidBackup(f"{member.name} became shorter while it was read", hint="try again") from error
            raise
        self._hashes[member.name] = hashing.digest

    def add(self, member: Member) -> None:
        """Add a directory or a link."""
        kinds = {"directory": tarfile.DIRTYPE, "hard-link": tarfile.LNKTYPE, "link": tarfile.SYMTYPE}
        info = _info(member, kinds[member.kind])
        info.linkname = member.target
        self._tar.addfile(info)

    def end(self) -> None:
        """Add the list of all that was added."""
        self.add_text(CONTENTS, json.dumps({"files": dict(self._hashes)}))


@contextmanager
def writing(stream: IO[bytes]) -> Iterator[ArchiveWriter]:
    """Write an archive into a stream."""
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        writer = ArchiveWriter(tar)
        yield writer
        writer.end()


@dataclass
class Reading:
    """An archive that is being read. `head` is there once the first member was read, `hashes` grow with the files."""

    tar: tarfile.TarFile
    head: Head
    hashes: dict[str, str] = field(default_factory=dict)
    _directories: set[str] = field(default_factory=set)
    _names: set[str] = field(default_factory=set)

    def members(self) -> Iterator[tuple[Member, IO[bytes] | None]]:
        """All members but the first and last, checked, with the contents of files, which have to be read before the
        next member is asked for. What they hold may be believed when all have been read. Raises InvalidBackup.
        """
        while True:
            info = _next(self.tar)
            if info.name == CONTENTS:
                break
            member = self._checked(info)
            if member.kind != "file":
                yield member, None
                continue
            hashing = _Hashing(_contents(self.tar, info))
            yield member, hashing  # type: ignore[misc]  # of a file, nobody uses more than `read`
            _drain(hashing)
            _demand(hashing.count == info.size, f"{member.name} is cut off")
            self.hashes[member.name] = hashing.digest
        self._check_contents(info)

    def _check_contents(self, info: tarfile.TarInfo) -> None:
        document = _parsed(_text(self.tar, info), CONTENTS)
        files = document.get("files") if isinstance(document, dict) else None
        _demand(files == self.hashes, "its files are not those that it lists")
        _demand(STORE in self.hashes, "it holds no store")
        _demand(_next_or_none(self.tar) is None, "there is something after its end")

    def _checked(self, info: tarfile.TarInfo) -> Member:
        name = info.name
        _check_member_name(name)
        _demand(name not in self._names, f"{name} is there twice")
        _demand(len(self._names) < MOST_MEMBERS, "it has too many files")
        self._names.add(name)
        if len(self._names) == 1:
            _demand(name == STORE, f"it does not begin with {STORE}")
        elif name not in TREES:
            _demand(name.rpartition("/")[0] in self._directories, f"{name} lies in no directory of the backup")
        _demand(info.mode & ~0o777 == 0, f"{name} has set-id bits")
        _demand({info.uname, info.gname} <= {ROOT, SERVICE}, f"{name} belongs to somebody unknown")
        return self._of_kind(info)

    def _of_kind(self, info: tarfile.TarInfo) -> Member:
        member = Member(info.name, "file", info.mode, info.uname, info.gname)
        if info.isdir():
            self._directories.add(info.name)
            return Member(**{**vars(member), "kind": "directory"})
        _demand(info.name not in TREES, f"{info.name} is no directory")
        if info.islnk():
            _demand(
                info.linkname in self.hashes and info.linkname != STORE, f"{info.name} is a link to what is not there"
            )
            return Member(**{**vars(member), "kind": "hard-link", "target": info.linkname})
        if info.issym():
            _demand(info.name == CURRENT and _PUBLICATION.fullmatch(info.linkname), f"{info.name} is a symbolic link")
            return Member(**{**vars(member), "kind": "link", "target": info.linkname})
        _demand(info.type in (tarfile.REGTYPE, tarfile.AREGTYPE), f"{info.name} is no file, directory or link")
        return member


@contextmanager
def reading(stream: IO[bytes]) -> Iterator[Reading]:
    """Read an archive from a stream. Raises InvalidBackup for whatever is wrong with it."""
    try:
        with tarfile.open(fileobj=stream, mode="r|gz") as tar:
            info = _next(tar)
            _demand(info.name == HEAD and info.isreg(), f"it does not begin with {HEAD}")
            text = _text(tar, info)
            yield Reading(tar, Head.from_text(text), hashes={HEAD: sha256(text).hexdigest()})
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InvalidBackup(f"this is no whole backup: {error}") from error


def _check_member_name(name: str) -> None:
    try:
        check_name(name)
    except ManifestError as error:
        raise InvalidBackup(f"this backup cannot be used: {error.message}") from error
    _demand(name == STORE or name.split("/", maxsplit=1)[0] in TREES, f"{name} has no place")


def _info(member: Member, kind: bytes) -> tarfile.TarInfo:
    _check_writable(member.name)
    info = tarfile.TarInfo(member.name)
    info.type, info.mode, info.uname, info.gname = kind, member.mode & 0o777, member.owner, member.group
    return info


def _check_writable(name: str) -> None:
    try:
        check_name(name)
    except ManifestError as error:
        raise InvalidBackup(
            f"a file cannot be put into a backup: {error.message}", hint="give it another name"
        ) from error


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo:
    info = _next_or_none(tar)
    if info is None:
        raise InvalidBackup("this is no whole backup: it was cut off")
    return info


def _next_or_none(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    info = tar.next()
    # A stream keeps a list of all members, which nobody needs.
    tar.members = []  # type: ignore[attr-defined]  # typeshed does not know it
    return info


def _contents(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    contents = tar.extractfile(info)
    assert contents is not None
    return contents


def _text(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    _demand(info.isreg() and info.size <= _LARGEST_TEXT, f"{info.name} is not as it must be")
    return _contents(tar, info).read()


def _parsed(text: bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except InvalidData as error:
        raise InvalidBackup(f"this backup cannot be used: {name} is {error.message}") from error


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and set(row) == {"name", "documents", "digest"}


def _drain(contents: _Hashing) -> None:
    while contents.read(1 << 16):
        pass


def _demand(condition: object, problem: str) -> None:
    if not condition:
        raise InvalidBackup(f"this backup cannot be used: {problem}")


class _Hashing:
    """A file that is read, with the hash of what was read so far."""

    def __init__(self, contents: IO[bytes]) -> None:
        self._contents = contents
        self._hash = sha256()
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._contents.read(size)
        self._hash.update(data)
        self.count += len(data)
        return data

    @property
    def digest(self) -> str:
        """SHA-256 in hex."""
        return self._hash.hexdigest()
