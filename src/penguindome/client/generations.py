"""The directories that the overlay is made of, one for each time that it changed, and the link that says which is in
force.

`overlay` in the client's state is a link to `generations/NAME` beside it. A generation is written whole, and is on
disk, before the link is turned to it: every reader, and a crash at any instant, sees the old one or the new. All is
reached by descriptors of directories, following no link, so that nothing that was planted leads anywhere else.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from penguindome.files import sync_directory

LINK = "overlay"
DIRECTORY = "generations"
_NAME = re.compile("[0-9a-f]{16}")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def in_force(state: Path) -> Path | None:
    """The generation in force; None when there is none, or when the link is not one of ours."""
    try:
        directory, _, name = os.readlink(state / LINK).partition("/")
    except OSError:
        return None
    if directory != DIRECTORY or not _NAME.fullmatch(name):
        return None
    path = state / DIRECTORY / name
    with suppress(OSError):
        if all(stat.S_ISDIR(os.lstat(each).st_mode) for each in (path.parent, path)):
            return path
    return None


def is_damaged(state: Path) -> bool:
    """Whether something lies in the place of the link that is not a link to a generation."""
    return os.path.lexists(state / LINK) and in_force(state) is None


def write(state: Path, files: Mapping[str, tuple[bytes, int]]) -> Path:
    """A new generation with these files (path -> contents and permission bits), which is not in force yet.

    Raises OSError, and then leaves nothing.
    """
    name = os.urandom(8).hex()
    top = _open_top(state)
    try:
        os.mkdir(name, 0o700, dir_fd=top)
        generation = os.open(name, _OPEN, dir_fd=top)
        try:
            for path, (contents, mode) in files.items():
                _write_file(generation, path, contents, mode)
            _sync_tree(generation)
        except BaseException:
            _remove(state / DIRECTORY / name)
            raise
        finally:
            os.close(generation)
        os.fsync(top)
    finally:
        os.close(top)
    return state / DIRECTORY / name


def switch(state: Path, generation: Path) -> None:
    """Put a generation in force; those before it go. Raises OSError, leaving the one in force before."""
    temporary = state / f".{LINK}.{os.urandom(6).hex()}.new"
    os.symlink(f"{DIRECTORY}/{generation.name}", temporary)
    try:
        if (state / LINK).is_dir() and not (state / LINK).is_symlink():
            # Nobody but an intruder makes a directory of it.
            _remove(state / LINK)
        os.rename(temporary, state / LINK)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(state)
    remove_others(state, generation)


def clear(state: Path) -> None:
    """Put no generation in force, and remove all."""
    if (state / LINK).is_dir() and not (state / LINK).is_symlink():
        _remove(state / LINK)
    (state / LINK).unlink(missing_ok=True)
    sync_directory(state)
    remove_others(state, None)


def copy(state: Path, to: Path) -> None:
    """Copy the generation in force, if there is one, to a directory, in the place of what is there. Raises OSError."""
    import shutil

    _remove(to)
    generation = in_force(state)
    if generation is not None:
        shutil.copytree(generation, to, symlinks=True)
        # What is recorded next outlives a power cut, and so must this.
        os.sync()


def bring_back(state: Path, copied: Path) -> None:
    """Put a generation that was copied in force again; nothing happens where there is no copy. Raises OSError."""
    if not copied.is_dir():
        return
    files = {
        str(path.relative_to(copied)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in copied.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    switch(state, write(state, files))


def remove_others(state: Path, generation: Path | None) -> None:
    """Remove every generation but one; what cannot be removed goes with the next."""
    directory = state / DIRECTORY
    if directory.is_symlink() or not directory.is_dir():
        return
    for other in directory.iterdir():
        if generation is None or other.name != generation.name:
            _remove(other)


def _open_top(state: Path) -> int:
    with suppress(FileExistsError):
        os.mkdir(state / DIRECTORY, 0o700)
    try:
        return os.open(state / DIRECTORY, _OPEN)
    except OSError:
        if (state / DIRECTORY).is_dir() and not (state / DIRECTORY).is_symlink():
            raise
    # A link or a file was planted here.
    os.unlink(state / DIRECTORY)
    os.mkdir(state / DIRECTORY, 0o700)
    return os.open(state / DIRECTORY, _OPEN)


def _write_file(generation: int, path: str, contents: bytes, mode: int) -> None:
    *parents, last = path.split("/")
    directory = os.dup(generation)
    try:
        for parent in parents:
            with suppress(FileExistsError):
                os.mkdir(parent, 0o700, dir_fd=directory)
            inner = os.open(parent, _OPEN, dir_fd=directory)
            os.close(directory)
            directory = inner
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(last, flags, 0o600, dir_fd=directory)
        try:
            with open(file, "wb", closefd=False) as stream:
                stream.write(contents)
            os.fchmod(file, mode)
            os.fsync(file)
        finally:
            os.close(file)
    finally:
        os.close(directory)


def _sync_tree(generation: int) -> None:
    for _, _, _, descriptor in os.fwalk(".", dir_fd=generation):
        os.fsync(descriptor)


def _remove(path: Path) -> None:
    """Remove a file, a link, or a directory with all in it; none of it is followed."""
    import shutil

    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
