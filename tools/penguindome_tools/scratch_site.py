"""A server and a client with a scratch directory as their root: for `make run` and for measurements."""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from penguindome.errors import PenguinDomeError
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome_server.settings import load_server_settings

CHECKOUT = Path(__file__).resolve().parents[2]
START_DEADLINE = 60.0
PORTS_OF_ONE = 200
MODULES = {"penguindome": "penguindome_tools.cli", "penguindome-client": "penguindome.client"}


class ScratchSite:
    """A scratch root with a server and a client in it, worked on by the programs that an administrator types."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(root)
        self.environment: Mapping[str, str] = {**os.environ, ROOT_VARIABLE: str(root)}

    def command(self, *words: str, ok: Sequence[int] = (0,)) -> str:
        """Run `penguindome` or `penguindome-client` as a user would; returns what it prints on standard output.

        Raises PenguinDomeError when its exit status is none of `ok`; what it says on standard error is passed on.
        """
        done = subprocess.run(
            [*program(words[0]), *words[1:]],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode not in ok:
            raise PenguinDomeError(f"`{' '.join(words)}` ended with status {done.returncode}")
        return done.stdout

    def install_plugins(self) -> None:
        """Put the plugins of the checkout where a package would put them."""
        target = self.paths.client_code / "plugins"
        shutil.copytree(CHECKOUT / "plugins", target, ignore=shutil.ignore_patterns("__pycache__"))

    @contextmanager
    def server(self, *module_and_arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """The server (or another module that listens where the settings say) as a child process.

        Yields once it accepts connections; told to stop at the end, and killed when it does not within 15 s.
        """
        words = module_and_arguments or ("penguindome_server",)
        process = subprocess.Popen([sys.executable, "-m", *words], env=self.environment, stdin=subprocess.DEVNULL)
        try:
            self._await_server(process)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await_server(self, process: subprocess.Popen[bytes]) -> None:
        port = load_server_settings(self.paths)["listen.port"]
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise PenguinDomeError(f"the server ended with status {process.returncode}")
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise PenguinDomeError(f"the server did not answer within {START_DEADLINE:.0f} s")


def program(name: str) -> list[str]:
    """The command line that runs `penguindome` or `penguindome-client` with this interpreter."""
    return [sys.executable, "-m", MODULES[name]]


def free_port() -> int:
    """A loopback port that nobody listens on, and that `free_port` gives to no other process while this one lives.

    It is none of those that the kernel gives to whoever connects, or listens without a wish.
    """
    ports = _own_ports()
    for _ in range(PORTS_OF_ONE):
        port = next(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise PenguinDomeError("there is no free port")


@functools.cache
def _own_ports() -> Iterator[int]:
    for start in random.sample(range(10_000, 30_000, PORTS_OF_ONE), 20_000 // PORTS_OF_ONE):
        with socket.socket(socket.AF_UNIX) as lock, suppress(OSError):
            # A name that the kernel gives to one process at a time, and takes back when that ends.
            lock.bind(f"\0penguindome-ports-{start}")
            lock.detach()
            return itertools.cycle(range(start, start + PORTS_OF_ONE))
    raise PenguinDomeError("all ports are taken")
