"""Machines for tests: clean systems (see roots.py) booted with systemd, which reach each other and nothing else.

    with Site() as site:
        server = site.boot("server", "debian12")
        laptop = site.boot("laptop", "debian13")

All machines of a site share one loopback, where what one of them serves can be reached by the others; there is no
other network.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from needs import require_program
from roots import OVER_THERE, Finished, Root, finished, fresh_root

# nspawn ends with this status when the machine asked to be started again.
ASKED_FOR_REBOOT = 133
# Where a machine gets control groups of its own: without, two systemd would share one.
HIERARCHIES = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup"))

_numbers = itertools.count(1)


class DidNotHappen(AssertionError):
    """Something that was waited for did not come."""


def eventually(claim: str, condition: Callable[[], object], seconds: float = 60, pause: float = 0.2) -> None:
    """Poll until `condition` holds; DidNotHappen with `claim` when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DidNotHappen(f"not within {seconds:g} s: {claim}")
        time.sleep(pause)


class Machine:
    """A booted system. `root` is its tree, seen from the host."""

    def __init__(self, name: str, root: Root, namespace: str, options: Sequence[str] = ()) -> None:
        self.name, self.root = name, root
        self._options = list(options)
        self.namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._groups = [place / root.name for place in HIERARCHIES if (place / "cgroup.procs").exists()]

    def start(self) -> None:
        """Boot, and wait until systemd has started everything."""
        self.launch()
        self.wait_until_up()

    def launch(self) -> None:
        """Begin to boot. In the main thread: the machine goes down with the thread that launched it."""
        for group in self._groups:
            group.mkdir(exist_ok=True)
        joined = "".join(f"echo $$ > {group}/cgroup.procs; " for group in self._groups)
        nspawn = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=read-only",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", f"--hostname={self.name}",
            f"--machine={self.root.name}", f"--network-namespace-path=/run/netns/{self.namespace}",
            f"--directory={self.root.path}", *self._options,
        ]  # fmt: skip
        # Should the tests be killed, the machine is told to shut down.
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", "sh", "-c", f'{joined} exec "$@"', "sh", *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )

    def wait_until_up(self) -> None:
        """Wait until systemd has started everything."""
        eventually(f"{self.name} boots", self._is_up, 90)

    @property
    def _console(self) -> Path:
        return self.root.path.parent / "console"

    def console(self) -> str:
        """What the machine said while booting."""
        return self._console.read_text("utf-8", "replace")[-4000:] if self._console.exists() else ""

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise DidNotHappen(f"{self.name} did not boot: status {self._process.returncode}\n{self.console()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in {"running", "degraded"}

    def run(
        self, *command: str, check: bool = True, timeout: float = 300, user: str | None = None, stdin: str = ""
    ) -> Finished:
        """Run a command on the machine, as root or as `user`, as somebody would who has logged in."""
        if user is not None:
            command = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command)
        settings = [f"{name}={value}" for name, value in OVER_THERE.items()]
        words = ["nsenter", f"--target={self._leader}", "--all", "env", "--ignore-environment", *settings, *command]
        process = subprocess.run(
            words, input=stdin.encode(), cwd="/", capture_output=True, timeout=timeout, check=False
        )  # fmt: skip
        return finished(command, process, check=check)

    def shell(self, script: str, *, check: bool = True, timeout: float = 300) -> Finished:
        """Run a script, which ends at the first command that fails."""
        return self.run("bash", "-euo", "pipefail", "-c", script, check=check, timeout=timeout)

    def journal(self, unit: str | None = None) -> str:
        """What the machine's journal says, of one unit or of all."""
        units = [f"--unit={unit}"] if unit else []
        return self.run("journalctl", "--no-pager", "--output=short", *units).stdout

    def reboot(self) -> None:
        """Restart the machine, and wait until it is up again."""
        assert self._process is not None
        self.run("systemctl", "--no-block", "reboot")
        status = self._process.wait(90)
        if status != ASKED_FOR_REBOOT:
            raise DidNotHappen(f"{self.name} did not reboot: status {status}\n{self.console()}")
        self.start()

    def power_off(self) -> None:
        """Shut down in order, as somebody at the machine would."""
        assert self._process is not None
        self.run("systemctl", "--no-block", "poweroff")
        self._process.wait(90)

    @property
    def is_off(self) -> bool:
        """Whether it has been switched off, or was never started."""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """End it as a power cut does."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader or process.pid, signal.SIGKILL)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process = None
        for group in self._groups:
            _remove_group(group)


def _remove_group(group: Path) -> None:
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()


class Site:
    """Some machines on a network of their own. All of it is gone afterwards."""

    def __init__(self) -> None:
        self._all = contextlib.ExitStack()
        self.namespace = f"pd{os.getpid()}-{next(_numbers)}"

    def __enter__(self) -> Site:
        ip = require_program("ip")
        subprocess.run([ip, "netns", "add", self.namespace], check=True)
        self._all.callback(subprocess.run, [ip, "netns", "delete", self.namespace], check=False)
        subprocess.run([ip, "-netns", self.namespace, "link", "set", "lo", "up"], check=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._all.close()

    def boot(self, name: str, system: str, *options: str) -> Machine:
        """A machine called `name`, of a system that `fresh_root` knows, up and running."""
        machine = self.prepare(name, system, *options)
        machine.start()
        return machine

    def prepare(self, name: str, system: str, *options: str) -> Machine:
        """A machine that is not started yet, so that several can be started side by side; `options` are nspawn's."""
        root = self._all.enter_context(fresh_root(system))
        root.write("/etc/hostname", f"{name}\n")
        root.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n127.0.0.1 penguindome.example.org server\n")
        machine = Machine(name, root, self.namespace, options)
        self._all.callback(machine.kill)
        return machine


@contextlib.contextmanager
def booted(name: str, system: str) -> Iterator[Machine]:
    """One machine on a network of its own."""
    with Site() as site:
        yield site.boot(name, system)


def in_the_place_of(machine: Machine, unit: str, command: str) -> None:
    """Run a command with everything that a unit says but what it starts, and on what conditions; and without its
    directory in /run, which would go when the command has ended.
    """
    text = machine.run("systemctl", "cat", unit).stdout
    left_out = ("Exec", "Condition", "RuntimeDirectory", "[Install]", "WantedBy")
    lines = [line for line in text.splitlines() if not line.startswith(left_out)]
    lines = [line.replace("Type=notify", "Type=oneshot").replace("Restart=on-failure", "Restart=no") for line in lines]
    at = lines.index("[Service]") + 1
    machine.root.write("/run/systemd/system/instead.service", "")
    machine.run("sh", "-c", "cat > /run/systemd/system/instead.service",
                stdin="\n".join([*lines[:at], f"ExecStart={command}", *lines[at:], ""]))  # fmt: skip
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "instead.service")
