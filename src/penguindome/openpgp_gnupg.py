"""gpg, driven by python-gnupg, on home directories whose names may be of any length. A part of `openpgp.py`."""

from __future__ import annotations

import atexit
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from penguindome.errors import KeyMaterialError, PenguinDomeError, ProcessError

T = TypeVar("T")


class GnuPG:
    """gpg on a home directory whose name may be of any length.

    The agent's socket lies in the home directory, and its name may have no more than 107 bytes: gpg is given a short
    link to the directory instead. The link goes, with the agent, in `close`, which the end of the process calls if need
    be.
    """

    def __init__(self, home: Path, options: Sequence[str] = ()) -> None:
        self.home = home
        self.options = list(options)
        self._link: Path | None = None
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
        """End the agent and remove the link; `call` makes another."""
        from penguindome.processes import run

        link, self._link, self._gpg = self._link, None, None
        if link is None:
            return
        atexit.unregister(self.close)
        gpgconf = ["gpgconf", "--homedir", str(link)]
        try:
            run([*gpgconf, "--kill", "all"], timeout=10, check=False)
            deadline = time.monotonic() + 2
            while (link / "S.gpg-agent").exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            if os.access(f"/run/user/{os.getuid()}", os.X_OK):
                # There gpg puts its sockets into a directory of its own, one for every name of a home directory.
                run([*gpgconf, "--remove-socketdir"], timeout=10, check=False)
        except ProcessError as error:
            raise KeyMaterialError(f"cannot end the agent of gpg: {error.message}") from error
        finally:
            link.unlink(missing_ok=True)
            link.parent.rmdir()

    def _open(self) -> Any:
        if self._gpg is None:
            import gnupg  # noqa: TID251  # openpgp.py, whose part this is, drives gpg through here alone

            self._link = Path(tempfile.mkdtemp(prefix="pd-", dir=short_directory())) / "g"
            atexit.register(self.close)
            self._link.symlink_to(self.home)
            self._gpg = gnupg.GPG(gnupghome=str(self._link), options=self.options)
        return self._gpg


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
