"""What `make` prepares before a task: a venv that fits the lock, system packages, a mongod that does not outlive us."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from needs import require
from penguindome_tools.development import mongod as mongod_module
from penguindome_tools.development.mongod import Deployment, locate, running_mongod
from running import is_running

CHECKOUT = Path(__file__).resolve().parents[2]
DEVELOPMENT = CHECKOUT / "tools/penguindome_tools/development"


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that prepares, as a module of the test's own, that may run no program."""
    spec = importlib.util.spec_from_file_location("environment", DEVELOPMENT / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def refuse(command: list[str], env: object = None) -> None:
        pytest.fail(f"ran {command}")

    monkeypatch.setattr(module, "_run", refuse)
    return module


def test_the_second_make_installs_nothing(environment: ModuleType) -> None:
    home = Path(sys.prefix)
    require((home / "stamp.lock").exists(), "this Python's environment was not made by make")
    environment.ensure_venv(home, Path(sys.executable), sys.version)


def test_a_changed_lock_makes_the_venv_anew(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(environment, "_run", lambda command, env=None: commands.append(list(command)))
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    monkeypatch.setattr(environment, "LOCK", tmp_path / "lock.txt")
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / ".venv").mkdir()

    (tmp_path / "lock.txt").write_text("a==1\n")
    environment.ensure_venv(tmp_path / ".venv", Path(sys.executable), sys.version)
    assert [command[1:4] for command in commands] == [
        ["-m", "venv", "--clear"],
        ["-m", "pip", "--quiet"],
        ["-m", "pip", "--quiet"],
    ]
    assert "--require-hashes" in commands[1]

    commands.clear()
    environment.ensure_venv(tmp_path / ".venv", Path(sys.executable), sys.version)
    assert commands == []

    (tmp_path / "lock.txt").write_text("a==2\n")
    environment.ensure_venv(tmp_path / ".venv", Path(sys.executable), sys.version)
    assert commands[0][1:4] == ["-m", "venv", "--clear"]


@pytest.mark.parametrize(("manager", "words"), [("apt-get", "sudo apt-get install"), ("pacman", "sudo pacman --sync")])
def test_a_user_who_is_not_root_is_told_which_system_package_is_missing(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str, words: str
) -> None:
    (tmp_path / manager).write_text("#!/bin/sh\n")
    (tmp_path / manager).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setitem(environment.PACKAGES, "no-such-program", ("its-package", "its-package"))
    with pytest.raises(environment.Missing, match=f"{words} .*its-package"):
        environment.ensure_system_packages(["no-such-program"])


def test_a_distribution_without_a_known_package_manager_is_told_the_names(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(environment.PACKAGES, "no-such-program", ("its-package", "its-package"))
    with pytest.raises(environment.Missing, match="its-package"):
        environment.ensure_system_packages(["no-such-program"])


def test_root_installs_what_is_missing_and_nothing_else(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(environment, "_run", lambda command, env=None: commands.append(list(command)))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for program in ("apt-get", "is-there"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(environment.PACKAGES, "is-there", ("not-wanted", "not-wanted"))
    monkeypatch.setitem(environment.PACKAGES, "no-such-program", ("its-package", "its-package"))
    environment.ensure_system_packages(["is-there", "no-such-program"])
    assert commands[-1][:2] == ["apt-get", "install"]
    assert "its-package" in commands[-1]
    assert "not-wanted" not in commands[-1]


def test_an_old_python_is_refused_with_words(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "OLDEST_PYTHON", (4, 0))
    with pytest.raises(environment.Missing, match="newer is needed"):
        environment.main(["venv"])


def test_a_mongod_on_path_is_used_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mongod").write_text("#!/bin/sh\n")
    (tmp_path / "mongod").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert locate() == mongod_module.Binary(tmp_path / "mongod")


def test_a_mongod_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(shutil.which("setpriv"), "setpriv (util-linux) is not installed")
    (tmp_path / "mongod").write_text("#!/bin/sh\necho the disk is made of cheese\nexit 1\n")
    (tmp_path / "mongod").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(mongod_module.MongodError, match="made of cheese"), running_mongod():
        pytest.fail("it started")


def test_a_mongod_dies_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    program = (
        "import signal\n"
        "from pathlib import Path\n"
        "from penguindome_tools.development.mongod import running_mongod\n"
        f"with running_mongod(directory=Path({str(tmp_path)!r})) as server:\n"
        "    print(server.members[0].pid, flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        starter.kill()
    wait_until(lambda: not is_running(pid), "mongod outlived its starter")


def test_a_mongod_that_was_killed_comes_back_on_its_port_with_its_data() -> None:
    require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    with running_mongod() as server:
        member = server.members[0]
        address = member.address
        insert(server)
        member.kill()
        assert member.pid is None
        member.start()
        assert member.address == address
        assert count(server) == 1


@pytest.mark.long
def test_a_replica_set_elects_another_primary() -> None:
    require(locate(), "no mongod: python -m penguindome_tools.development.mongod fetch")
    with running_mongod(members=3) as server:
        first = server.primary()
        insert(server)
        first.kill()
        assert server.primary() is not first
        assert count(server) == 1
        first.start()
        server.wait_until_steady()


def insert(server: Deployment) -> None:
    from pymongo import MongoClient, WriteConcern

    with MongoClient(server.uri("house")) as client:
        client.house.get_collection("things", write_concern=WriteConcern("majority", j=True)).insert_one({"_id": 1})


def count(server: Deployment) -> int:
    from pymongo import MongoClient

    with MongoClient(server.uri("house")) as client:
        return client.house.things.count_documents({})
