"""Signed manifests: which files may run, with which contents.

The text is JSON, signed as it stands (armoured, detached) by the server key:
`{"format":1,"kind":"release","release":0,"issued_at":...,"expires_at":...,"files":{"plugins/os_info.py":ENTRY, ...}}`
with entries `{"sha256":HEX,"size":NUMBER,"mode":"0755"}`.

Rules of `Manifest.load`, in this order and without I/O:
1. At most 8 MiB.
2. The signature is by the pinned certificate and over exactly these bytes. Nothing is parsed before.
3. The text is JSON of format 1 with exactly these keys and types, and `issued_at` lies before `expires_at`.
4. Every name is a relative path of plain components: no `..`, `.`, empty component, backslash, NUL or other control
   character, nothing absolute, nothing over 255 bytes a component or 1,024 in all; no name is a directory of another.
Whether a manifest has expired, or is older than one seen before, is for the caller to judge: he knows the clock and the
past.

A file agrees with the manifest when it is a regular file, reached without following a link below the root, with that
size, hash and mode. Below the directories of `RUNNABLE` a file that no manifest names is a problem too.

Not all that runs lies in one tree: the functions below take `places`, a mapping of a first component (`code`) to the
directory where what is named below it lies (`code/penguindome/paths.py` is `penguindome/paths.py` there).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from penguindome import json
from penguindome.errors import InvalidData, ManifestError

if TYPE_CHECKING:
    from penguindome.openpgp import Certificate

FORMAT = 1
LARGEST = 8 * 1024 * 1024
RUNNABLE = ("plugins", "commands")
"""Directories whose every file is run, so that none may be there unsigned."""
CODE = "code"
"""First component of the names of our own modules, which lie in the directory that holds the package `penguindome`."""
Places = Mapping[str, Path]
NOWHERE_ELSE: Places = MappingProxyType({})
_KEYS = {"format", "kind", "release", "issued_at", "expires_at", "files"}
_MODE = re.compile("0[0-7]{3}")
_HASH = re.compile("[0-9a-f]{64}")
_CACHE = "__pycache__"


@dataclass(frozen=True)
class FileEntry:
    """What a manifest says of one file. `mode` holds the permission bits."""

    sha256: str
    size: int
    mode: int


@dataclass(frozen=True)
class Problem:
    """A file that is not as signed. `reason`: missing, changed, mode, not-regular, link, unsigned or unreadable."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Manifest:
    """A verified manifest. `sha256` is the hash (hex) of its text."""

    kind: str
    release: int
    issued_at: datetime
    expires_at: datetime
    files: Mapping[str, FileEntry]
    sha256: str
    data: bytes = field(repr=False)

    @classmethod
    def load(cls, data: bytes, signature: bytes, certificate: Certificate) -> Manifest:
        """Verify and read a manifest. Raises SignatureError or ManifestError."""
        if len(data) > LARGEST:
            raise ManifestError("the manifest is too large")
        certificate.verify(data, signature)
        return cls.of_trusted(data)

    @classmethod
    def of_trusted(cls, data: bytes) -> Manifest:
        """Read a text that was shown to be the server's in another way than by a signature. Raises ManifestError."""
        if len(data) > LARGEST:
            raise ManifestError("the manifest is too large")
        try:
            content = json.loads(data)
        except InvalidData as error:
            raise ManifestError(f"the manifest is {error.message}") from error
        return cls.from_content(content, data)

    @classmethod
    def from_content(cls, content: Any, data: bytes) -> Manifest:
        """Check rules 3 and 4 for parsed content, whose text is `data`; for text just verified, or made."""
        _demand(isinstance(content, dict) and set(content) == _KEYS, "it has not the keys of a manifest")
        _demand(_is_int(content["format"]) and content["format"] == FORMAT, f"its format is not {FORMAT}")
        _demand(isinstance(content["kind"], str) and bool(content["kind"]), "its kind is not a text")
        _demand(_is_int(content["release"]) and content["release"] >= 0, "its release is not a number")
        for key in ("issued_at", "expires_at"):
            _demand(isinstance(content[key], datetime), f"{key} is not a point in time")
        _demand(content["issued_at"] < content["expires_at"], "it expires before it was issued")
        _demand(isinstance(content["files"], dict), "its files are not a mapping")
        check_names(content["files"])
        return cls(
            content["kind"],
            content["release"],
            content["issued_at"],
            content["expires_at"],
            {name: file_entry(name, entry) for name, entry in content["files"].items()},
            sha256(data).hexdigest(),
            data,
        )


def build(
    root: Path,
    names: Iterable[str],
    *,
    kind: str,
    release: int,
    issued_at: datetime,
    expires_at: datetime,
    places: Places = NOWHERE_ELSE,
) -> bytes:
    """The text of a manifest of the files `names` below `root` or `places`; to be signed as it is.

    Raises ManifestError for a name that breaks the rules, or a file that is missing or reached through a link.
    """
    files: dict[str, dict[str, Any]] = {}
    for name in sorted(set(names)):
        check_name(name)
        contents, mode, reason = _read(*_place(root, places, name))
        if reason is not None:
            raise ManifestError(f"{name}: {reason}")
        files[name] = {"sha256": sha256(contents).hexdigest(), "size": len(contents), "mode": f"{mode:04o}"}
    content = {"format": FORMAT, "kind": kind, "release": release, "issued_at": issued_at, "expires_at": expires_at}
    data = json.dumps({**content, "files": files}).encode("ascii")
    Manifest.from_content(json.loads(data), data)
    return data


def verify_tree(
    manifest: Manifest, root: Path, *, places: Places = NOWHERE_ELSE, runnable: Iterable[str] = RUNNABLE
) -> list[Problem]:
    """What is not as signed, sorted by path; an empty list means that all of it may be used."""
    problems = []
    for name, entry in manifest.files.items():
        reason = _compare(entry, *_read(*_place(root, places, name), entry.size))
        if reason is not None:
            problems.append(Problem(name, reason))
    for directory in runnable:
        problems += [Problem(name, "unsigned") for name in _names_below(root, directory) if name not in manifest.files]
    return sorted(problems, key=lambda problem: problem.path)


def open_verified(manifest: Manifest, root: Path, name: str, *, places: Places = NOWHERE_ELSE) -> bytes:
    """The contents of a file, read once and checked: what is returned is what was signed, whatever happens to the file
    later.

    Raises ManifestError.
    """
    entry = manifest.files.get(name)
    if entry is None:
        raise ManifestError(f"{name}: unsigned")
    contents, mode, reason = _read(*_place(root, places, name), entry.size)
    reason = _compare(entry, contents, mode, reason)
    if reason is not None:
        raise ManifestError(f"{name}: {reason}")
    return contents


def check_name(name: object) -> None:
    """Raise ManifestError unless `name` is a path that a manifest may name (rule 4)."""
    _demand(isinstance(name, str) and bool(name), "a file has no name")
    assert isinstance(name, str)
    shown = ascii(name[:100])
    _demand(name.isprintable() and "\\" not in name, f"the name {shown} holds characters that are not allowed")
    components = name.split("/")
    _demand(not {"", ".", ".."} & set(components), f"the name {shown} is not a plain relative path")
    try:
        lengths = [len(component.encode("utf-8")) for component in components]
    except UnicodeEncodeError as error:
        raise ManifestError(f"this is not a usable manifest: the name {shown} is not UTF-8") from error
    _demand(max(lengths) <= 255 and sum(lengths) + len(lengths) <= 1024, f"the name {shown} is too long")


def check_names(names: Iterable[object]) -> None:
    """`check_name` for each, and that none is a directory of another."""
    known = set()
    for name in names:
        check_name(name)
        known.add(str(name))
    for name in known:
        parts = name.split("/")
        for count in range(1, len(parts)):
            parent = "/".join(parts[:count])
            _demand(parent not in known, f"{parent[:100]!a} is both a file and a directory")


def file_entry(name: str, entry: Any) -> FileEntry:
    """What parsed JSON says of a file: exactly sha256, size and mode (permission bits alone). Raises ManifestError."""
    _demand(
        isinstance(entry, dict) and set(entry) == {"sha256", "size", "mode"}, f"{name!r} has not the keys of a file"
    )
    digest, size, mode = entry["sha256"], entry["size"], entry["mode"]
    _demand(isinstance(digest, str) and bool(_HASH.fullmatch(digest)), f"the hash of {name!r} is none")
    _demand(_is_int(size) and size >= 0, f"the size of {name!r} is none")
    _demand(isinstance(mode, str) and bool(_MODE.fullmatch(mode)), f"the mode of {name!r} is none")
    return FileEntry(digest, size, int(mode, 8))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _demand(condition: object, problem: str) -> None:
    if not condition:
        raise ManifestError(f"this is not a usable manifest: {problem}")


def _compare(entry: FileEntry, contents: bytes, mode: int, reason: str | None) -> str | None:
    if reason is not None:
        return reason
    if len(contents) != entry.size or sha256(contents).hexdigest() != entry.sha256:
        return "changed"
    return None if mode == entry.mode else "mode"


def _place(root: Path, places: Places, name: str) -> tuple[Path, str]:
    """The directory below which a file lies, and its name there."""
    first, _, rest = name.partition("/")
    elsewhere = places.get(first) if rest else None
    return (root, name) if elsewhere is None else (elsewhere, rest)


def _read(root: Path, name: str, limit: int | None = None) -> tuple[bytes, int, str | None]:
    """Contents (of more than `limit` bytes one more), permission bits, and what is wrong with the file.

    Links are followed for `root` itself only.
    """
    directory = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        descriptor = os.open(root, directory)
        try:
            *parents, last = name.split("/")
            for parent in parents:
                inner = os.open(parent, directory | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            file = os.open(
                last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=descriptor
            )
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return b"", 0, "missing"
    except NotADirectoryError:
        return b"", 0, "link" if _crosses_link(root, name) else "missing"
    except OSError as error:
        return b"", 0, "link" if _crosses_link(root, name) else f"unreadable ({error.strerror})"
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return b"", 0, "not-regular"
        with open(file, "rb", closefd=False) as stream:
            return stream.read(-1 if limit is None else limit + 1), stat.S_IMODE(status.st_mode), None
    except OSError as error:
        return b"", 0, f"unreadable ({error.strerror})"
    finally:
        os.close(file)


def _crosses_link(root: Path, name: str) -> bool:
    path = Path(root)
    for part in name.split("/"):
        path /= part
        if path.is_symlink():
            return True
    return False


def _names_below(root: Path, directory: str) -> Iterator[str]:
    """Everything below a directory that is not a directory itself; Python's caches do not run by themselves."""
    for parent, directories, files in os.walk(Path(root) / directory):
        relative = Path(parent).relative_to(root)
        directories[:] = [name for name in directories if name != _CACHE]
        for name in [*files, *(name for name in directories if (Path(parent) / name).is_symlink())]:
            yield str(relative / name)
