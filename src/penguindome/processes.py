"""The one way in which PenguinDome runs other programs: bounded in time and output, and killed whole."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from penguindome.errors import ProcessError

DEFAULT_OUTPUT_LIMIT = 8 * 1024 * 1024
TERMINATION_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
LEFT_OPEN_GRACE = 1.0
"""Seconds for which output is still read after the program itself has ended and a child of it keeps the pipe open."""


class ProgramMissing(ProcessError):
    """The program is not installed, or may not be run."""

    code = "program-missing"


@dataclass(frozen=True)
class Completed:
    """What became of a program. `returncode` is negative for a signal; `stdout` and `stderr` are cut at the output
    limit.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    timed_out: bool = False

    @property
    def text(self) -> str:
        """Standard output as text; what is not UTF-8 becomes U+FFFD."""
        return self.stdout.decode("utf-8", "replace")


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    input: bytes | None = None,  # noqa: A002  # the name that subprocess gives it
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    check: bool = True,
    output_limit: int = DEFAULT_OUTPUT_LIMIT,
    ok_codes: Sequence[int] = (0,),
) -> Completed:
    """Run a program (no shell) to its end and return its output.

    It gets a session and process group of its own, which is killed whole (SIGTERM, then SIGKILL) after `timeout`
    seconds or when stdout or stderr passes `output_limit` bytes; standard input is `input`, or empty. With `check`, a
    status that is not in `ok_codes`, the time-out and the limit are a ProcessError; without, they are for the caller to
    see. A program that is missing is always a ProcessError (ProgramMissing). Safe to call from several threads at once.
    """
    words = [os.fspath(word) for word in command]
    _log_debug(words)
    try:
        # Closed by _Run.close, which also reaps the process.
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise _not_started(words, cwd, error) from error
    running = _Run(process, timeout, output_limit, input)
    try:
        running.communicate()
    finally:
        running.close()
    completed = running.completed()
    if check:
        _check(words, completed, timeout, output_limit, ok_codes)
    return completed


def start_detached(command: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None) -> None:
    """Start a program that goes on by itself, in a session of its own, with nothing of our files, input or output.

    Raises ProcessError when it cannot be started. What becomes of it is not known here.
    """
    words = [os.fspath(word) for word in command]
    _log_debug(words)
    # The one in between ends at once, so that nobody has to reap the program.
    between = ["/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *words]
    try:
        process = subprocess.Popen(
            between,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=None if env is None else dict(env),
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise _not_started(words, "/", error) from error
    process.wait()


class Filter:
    """A running program that we write to, or read from, through `stream`, as much as we like and as long as it takes.

    Made by `filtering`.
    """

    def __init__(self, process: subprocess.Popen[bytes], stream: IO[bytes], complaints: IO[bytes]) -> None:
        self._process = process
        self._complaints = complaints
        self.stream = stream

    def finish(self, *, timeout: float) -> Completed:
        """Close `stream`, wait for the program's end, and tell how it went. Raises ProcessError when it does not end.

        What is left to be read then breaks its pipe.
        """
        with suppress(BrokenPipeError):
            self.stream.close()
        try:
            returncode = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise ProcessError(f"{self._process.args!r} did not end within {timeout:g} s") from error
        self._complaints.seek(0)
        return Completed(returncode, b"", self._complaints.read(DEFAULT_OUTPUT_LIMIT))


@contextmanager
def filtering(
    command: Sequence[str | os.PathLike[str]],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    descriptors: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Filter]:
    """Run a program whose standard input or output (the one that is not given as a descriptor) is ours to write or read
    while it runs. It gets `descriptors` too, under their numbers.

    It has ended when the block has: whoever wants to know how calls `Filter.finish`; otherwise it is killed, whole.
    Raises ProcessError when it cannot be started.
    """
    words = [os.fspath(word) for word in command]
    _log_debug(words)
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE if stdin is None else stdin,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=complaints,
                pass_fds=tuple(descriptors),
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise _not_started(words, None, error) from error
        stream = process.stdin if stdin is None else process.stdout
        assert stream is not None
        try:
            yield Filter(process, stream, complaints)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            with suppress(OSError):
                stream.close()


class _Run:
    """One running program, its pipes and its deadline."""

    def __init__(self, process: subprocess.Popen[bytes], timeout: float, limit: int, data: bytes | None) -> None:
        self.process = process
        self.limit = limit
        self.unsent = memoryview(data or b"")
        self.output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.truncated = self.timed_out = self.ended = False
        self.deadline = time.monotonic() + timeout
        self.selector = selectors.DefaultSelector()
        self.pidfd: int | None = None
        self.open = 0
        self._register()

    def _register(self) -> None:
        for name, pipe in (
            ("stdin", self.process.stdin),
            ("stdout", self.process.stdout),
            ("stderr", self.process.stderr),
        ):
            if pipe is None:
                continue
            os.set_blocking(pipe.fileno(), False)
            self.selector.register(pipe, selectors.EVENT_WRITE if name == "stdin" else selectors.EVENT_READ, name)
            self.open += name != "stdin"
        # Kernels before 5.3 have no descriptor for a process: then its end is looked for between reads.
        with suppress(OSError, AttributeError):
            self.pidfd = os.pidfd_open(self.process.pid)
            self.selector.register(self.pidfd, selectors.EVENT_READ, "end")

    def communicate(self) -> None:
        """Feed and read until the program has ended and closed its output, or has to be killed."""
        while self.open or not self.ended:
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.timed_out = not self.ended
                break
            for key, _ in self.selector.select(left if self.pidfd is not None else min(left, 0.05)):
                self._handle(key)
            if self.truncated:
                break
            if not self.ended and self._has_ended():
                self.ended = True
                self.deadline = min(self.deadline, time.monotonic() + LEFT_OPEN_GRACE)

    def _handle(self, key: selectors.SelectorKey) -> None:
        if key.data == "end":
            self.selector.unregister(key.fileobj)
        elif key.data == "stdin":
            self._feed(key.fileobj)  # type: ignore[arg-type]  # registered with the file object itself
        else:
            self._read(key)

    def _feed(self, pipe: IO[bytes]) -> None:
        try:
            self.unsent = self.unsent[os.write(pipe.fileno(), self.unsent[:65536]) :]
        except BlockingIOError:
            return
        except OSError:
            self.unsent = self.unsent[:0]
        if not self.unsent:
            self.selector.unregister(pipe)
            pipe.close()

    def _read(self, key: selectors.SelectorKey) -> None:
        try:
            data = os.read(key.fd, 65536)
        except BlockingIOError:
            return
        buffer = self.output[key.data]
        if not data:
            self.selector.unregister(key.fileobj)
            self.open -= 1
        elif len(buffer) + len(data) > self.limit:
            buffer += data[: self.limit - len(buffer)]
            self.truncated = True
        else:
            buffer += data

    def _has_ended(self) -> bool:
        # WNOWAIT leaves the process unreaped, so that its number, and its group's, cannot become another's.
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self) -> None:
        """Kill what is left of the group, reap the program and close everything."""
        if self.open or not self.ended:
            self._kill()
        self.process.wait()
        self.selector.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + TERMINATION_GRACE
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def completed(self) -> Completed:
        """What became of it."""
        return Completed(
            self.process.returncode,
            bytes(self.output["stdout"]),
            bytes(self.output["stderr"]),
            truncated=self.truncated,
            timed_out=self.timed_out,
        )


def _not_started(words: Sequence[str], cwd: object, error: Exception) -> ProcessError:
    if isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError)):
        if cwd is not None and not Path(str(cwd)).is_dir():
            return ProcessError(f"cannot run {words[0]}: {cwd} is not a directory")
        return ProgramMissing(f"cannot run {words[0]}: {error.strerror}", hint=f"install {Path(words[0]).name}")
    return ProcessError(f"cannot run {words[0]}: {error}")


def _check(words: Sequence[str], completed: Completed, timeout: float, limit: int, ok_codes: Sequence[int]) -> None:
    if completed.timed_out:
        raise ProcessError(f"{words[0]} did not end within {timeout:g} s")
    if completed.truncated:
        raise ProcessError(f"{words[0]} printed more than {limit} bytes")
    if completed.returncode not in ok_codes:
        lines = completed.stderr.decode("utf-8", "replace").strip().splitlines()
        how = f"exit status {completed.returncode}" if completed.returncode >= 0 else f"signal {-completed.returncode}"
        said = f": {lines[-1][:300]}" if lines else ""
        raise ProcessError(f"{words[0]} failed ({how}){said}")


def _log_debug(words: Sequence[str]) -> None:
    import shlex

    from penguindome.logging import get_logger

    get_logger(__name__).debug("running: {}", shlex.join(words))
