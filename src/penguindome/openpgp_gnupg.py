"""gpg, driven by python-gnupg, on home directories whose names may be of any length. A part of `openpgp.py`."""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from penguindome.errors import KeyMaterialError, PenguinDomeError, ProcessError

T = TypeVar("T")

LINK, USERS = "link.lock", "users.lock"
AGENT_SECONDS = 10.0
"""How long its end may take on a machine that is busy."""


class GnuPG:
    """gpg on a home directory whose name may be of any length.

    The agent's socket lies in the home directory, and its name may have no more than 107 bytes: gpg is given a short
    link to the directory instead. All who use a home directory at one time, in any process, share link and agent; the
    last of them ends both in `close`, which the end of the process calls if need be. An agent that one process ended
    while another one signed would fail that other.
    """

    def __init__(self, home: Path, options: Sequence[str] = ()) -> None:
        self.home = home
        self.options = list(options)
        self._shared: _Shared | None = None
        self._gpg: Any = None

    def __enter__(self) -> GnuPG:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def call(self, work: Callable[[Any], T], problem: str) -> T:
        """Call python-gnupg; whatever it raises is a KeyMaterialError."""
        try:
            return work(self._open())
        except PenguinDomeError:
            raise
        except Exception as error:
            raise KeyMaterialError(f"{problem}: {_first_line(error)}") from error

    def sign(self, data: bytes, fingerprint: str, form: str = "armoured") -> bytes:
        """A signature: `armoured` or `binary`, both detached, or `clear`: the text within its signature.

        Raises KeyMaterialError.
        """
        how = {"detach": form != "clear", "clearsign": form == "clear", "binary": form == "binary"}
        digest = ["--digest-algo", "SHA512"]
        result = self.call(
            lambda gpg: gpg.sign(data, keyid=full(fingerprint), extra_args=digest, **how),
            "gpg cannot sign",
        )
        if not result.data:
            raise KeyMaterialError(f"gpg cannot sign with {fingerprint}: {complaint(result)}")
        return bytes(result.data)

    def close(self) -> None:
        """End the agent and remove the link, unless somebody else uses them; `call` makes others."""
        shared, self._shared, self._gpg = self._shared, None, None
        if shared is not None:
            atexit.unregister(self.close)
            shared.leave()

    def _open(self) -> Any:
        if self._gpg is None:
            import gnupg  # noqa: TID251  # openpgp.py, whose part this is, drives gpg through here alone

            self._shared = _Shared(self.home)
            atexit.register(self.close)
            self._gpg = gnupg.GPG(gnupghome=str(self._shared.link), options=self.options)
        return self._gpg


class _Shared:
    """The short link to a home directory, and the agent behind it, as one of those who use them now.

    Who comes and who goes holds `LINK` for that moment; it tells where the link is. Who is there holds `USERS` shared.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        with self._door() as door:
            self.link = self._link_in(door) or self._made(door)
            self._users = _opened(home / USERS)
            fcntl.flock(self._users, fcntl.LOCK_SH)

    def leave(self) -> None:
        """Go; the last one ends the agent and removes the link. Raises KeyMaterialError."""
        with self._door() as door:
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                os.close(self._users)
            os.ftruncate(door, 0)
            _end_agent(self.link)

    @contextmanager
    def _door(self) -> Iterator[int]:
        descriptor = _opened(self._home / LINK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _link_in(self, door: int) -> Path | None:
        """The link that others use, or that somebody left who was killed; None when it is gone or leads elsewhere."""
        text = os.pread(door, 200, 0).decode("utf-8", "replace")
        try:
            return Path(text) if text and Path(text).readlink() == self._home else None
        except OSError:
            return None

    def _made(self, door: int) -> Path:
        link = Path(tempfile.mkdtemp(prefix="pd-", dir=short_directory())) / "g"
        link.symlink_to(self._home)
        os.ftruncate(door, 0)
        os.pwrite(door, str(link).encode(), 0)
        return link


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _end_agent(link: Path) -> None:
    from penguindome.processes import run

    gpgconf = ["gpgconf", "--homedir", str(link)]
    try:
        run([*gpgconf, "--kill", "all"], timeout=AGENT_SECONDS, check=False)
        deadline = time.monotonic() + AGENT_SECONDS
        while (link / "S.gpg-agent").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        if os.access(f"/run/user/{os.getuid()}", os.X_OK):
            # There gpg puts its sockets into a directory of its own, one for every name of a home directory.
            run([*gpgconf, "--remove-socketdir"], timeout=AGENT_SECONDS, check=False)
    except ProcessError as error:
        raise KeyMaterialError(f"cannot end the agent of gpg: {error.message}") from error
    finally:
        link.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            link.parent.rmdir()


def short_directory() -> str:
    """Where to make a directory (0700) with a short name; in memory and root's alone if possible."""
    for candidate in ("/run", tempfile.gettempdir()):
        if len(candidate) < 60 and os.access(candidate, os.W_OK):
            return candidate
    return "/tmp"  # noqa: S108  # only a directory of our own is made in it


def full(fingerprint: str) -> str:
    """The fingerprint, if it is a full one. Raises KeyMaterialError."""
    if not re.fullmatch("[0-9A-F]{40}", fingerprint):
        raise KeyMaterialError("a key is named by its full fingerprint: 40 upper-case hex digits")
    return fingerprint


def complaint(result: Any) -> str:
    """What gpg said last, in one line."""
    lines = [line for line in (result.stderr or "").splitlines() if line.startswith("gpg: ")]
    return lines[-1].removeprefix("gpg: ") if lines else str(result.status or "no reason given")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
