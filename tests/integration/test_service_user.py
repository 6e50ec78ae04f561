"""What the service user, and so a web process that was taken over, can do to root: tried as that user, with links.

The user exists in a mount namespace of the test's own, by another /etc/passwd. There he can also read the interpreter
and the code, as on a machine where they were installed, wherever the developer keeps them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from needs import require, require_program
from penguindome.paths import ROOT_VARIABLE, Paths
from web_server import PREFIX, free_port, until

REPOSITORY = Path(__file__).parents[2]
USER_ID = 64321

COMMANDS = (
    ("setup", "--yes"),
    ("clients", "list"),
    ("issues", "audit", "--mail"),
    ("enrolment", "token", "--expires", "1h"),
    ("store", "check"),
    ("keys", "list"),
    ("keys", "rotate", "server", "--yes"),
    ("keys", "rotate", "client", "--yes"),
)


@dataclass
class Site:
    """A server's root, and beside it what root alone may touch.

    `script` makes the mount namespace; `names` is what server and commands leave in the service user's directories.
    """

    paths: Paths
    victim: Path
    script: str
    port: int
    names: set[Path] = field(default_factory=set)

    @property
    def backing_up(self) -> tuple[str, ...]:
        """The words that make a backup."""
        return ("backup", str(self.victim.with_name("backup")), *self._passphrase)

    @property
    def restoring(self) -> tuple[str, ...]:
        """The words that restore it."""
        return ("restore", str(self.victim.with_name("backup")), *self._passphrase, "--yes", "--force")

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """All commands that root is held to."""
        return (*COMMANDS, self.backing_up, self.restoring)

    @property
    def _passphrase(self) -> tuple[str, str]:
        return ("--passphrase-file", str(self.victim.with_name("passphrase")))

    @property
    def own_directories(self) -> list[Path]:
        """The directories that the service user owns."""
        return [self.paths.server_state, self.paths.logs / "server", self.paths.runtime]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, ROOT_VARIABLE: str(self.paths.root), "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, *words: str, service: bool) -> list[str]:
        """A command line that runs `words` in the namespace, as the service user or as root."""
        user = ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups"] if service else []
        return ["unshare", "--mount", "sh", "-ec", self.script, "sh", *user, *words]

    def run(self, *words: str, service: bool) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*words, service=service), env=self.environment, cwd="/", stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def as_root(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`penguindome` with these words, run by root, who knows the service user."""
        return self.run(sys.executable, "-m", "penguindome_tools.cli", *words, service=False)

    def as_service(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A program, run by the service user."""
        return self.run(*words, service=True)

    def serve_once(self) -> None:
        """Run the server as the service user, so that it leaves behind what it leaves behind."""
        with subprocess.Popen(
            self.command(sys.executable, "-m", "penguindome_server", service=True), cwd="/", env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                until(lambda: process.poll() is not None or self._answers(), seconds=60, what="start of the server")
                assert process.poll() is None
            finally:
                process.terminate()

    def _answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}{PREFIX}healthz", timeout=5).status_code == 200
        except requests.RequestException:
            return False


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server that root has set up, the service user has run, and root has looked at."""
    require(os.geteuid() == 0, "only root can become the service user")
    for program in ("unshare", "setpriv", "mount", "find"):
        require_program(program)
    # The directories of pytest are closed to other users.
    with tempfile.TemporaryDirectory(prefix="penguindome-", dir="/var/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        made = Site(Paths(top / "root"), top / "victim", namespace(top), free_port())
        made.paths.root.mkdir()
        looked = made.as_service(sys.executable, "-c", "import penguindome_server")
        require(looked.returncode == 0, f"no mount namespace can be made here: {looked.stderr[-300:]}")
        plugins = REPOSITORY / "plugins"
        shutil.copytree(plugins, made.paths.client_code / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
        done = made.as_root(
            "setup", "--url", f"http://localhost:{made.port}", "--address", "127.0.0.1", "--port", str(made.port),
            "--client-tree", str(made.paths.client_code),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        # As systemd does for RuntimeDirectory=.
        os.chown(made.paths.runtime, USER_ID, USER_ID)
        made.serve_once()
        (top / "passphrase").write_text("correct horse\n")
        (top / "passphrase").chmod(0o600)
        for words in made.commands:
            done = made.as_root(*words)
            assert done.returncode == 0, (words, done.stderr)
        made.names = {path for directory in made.own_directories for path in directory.iterdir()}
        yield made


def namespace(directory: Path) -> str:
    """A script that makes the namespace, and then becomes the program that its arguments name."""
    lines = []
    for name, line in (
        ("passwd", f"penguindome:x:{USER_ID}:{USER_ID}::/:/usr/sbin/nologin"),
        ("group", f"penguindome:x:{USER_ID}:"),
    ):
        path = directory / name
        path.write_text(Path("/etc", name).read_text() + line + "\n")
        lines.append(f"mount --bind {path} /etc/{name}")
    needed = {Path(sys.base_prefix), Path(sys.prefix), REPOSITORY}
    closed = {path: next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o1), None)
              for path in needed}  # fmt: skip
    hidden = sorted(path for path, above in closed.items() if above is not None)
    for number, path in enumerate(hidden):
        stage = directory / f"stage-{number}"
        stage.mkdir()
        lines.append(f"mount --bind {shlex.quote(str(path))} {stage}")
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(above))}" for above in {*closed.values()} - {None}]
    for number, path in enumerate(hidden):
        quoted = shlex.quote(str(path))
        lines.append(f"mkdir -p {quoted}; mount --bind {directory / f'stage-{number}'} {quoted}")
    return "\n".join([*lines, 'exec "$@"'])


def everything(directory: Path) -> dict[str, tuple[object, ...]]:
    """Names, kinds, owners, modes, times and contents below a directory."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        contents = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        own = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, contents)
        found[str(path.relative_to(directory))] = own
    return found


def test_the_signing_keys_are_unreadable_for_the_service_user(site: Site) -> None:
    keys = [path for path in site.paths.keys.rglob("*") if path.is_file()]
    assert any("private-keys" in str(path) for path in keys)
    assert site.paths.keys / "enrolment.key" in keys
    for path in keys:
        done = site.as_service("cat", str(path))
        assert (done.returncode, done.stdout) == (1, ""), path
    assert site.as_service("ls", str(site.paths.keys)).returncode != 0


def test_the_service_user_writes_nowhere_but_in_its_own_directories(site: Site) -> None:
    done = site.as_service("find", str(site.paths.root), "-writable", "!", "-type", "l")
    writable = {Path(line) for line in done.stdout.splitlines()}
    assert set(site.own_directories) <= writable
    for path in writable:
        assert any(path.is_relative_to(directory) for directory in site.own_directories), path


def test_the_service_user_cannot_put_a_link_in_place_of_its_directories(site: Site) -> None:
    for directory in site.own_directories:
        assert site.as_service("mv", str(directory), f"{directory}.moved").returncode != 0
        assert directory.is_dir()
        assert not directory.is_symlink()


@pytest.fixture
def victim(site: Site) -> Iterator[Path]:
    """A directory of root's with a secret file; whatever a test did to it is gone afterwards."""
    site.victim.mkdir(mode=0o700)
    (site.victim / "secret").write_text("geheim\n")
    (site.victim / "secret").chmod(0o600)
    yield site.victim
    shutil.rmtree(site.victim)


def plant(site: Site, links: Mapping[Path, Path]) -> None:
    """As the service user, leave nothing in its directories but links to these targets."""
    script = ["set -e"]
    script += [f"find {directory} -mindepth 1 -delete" for directory in site.own_directories]
    script += [f"ln -s {target} {name}" for name, target in links.items()]
    done = site.as_service("sh", "-c", "\n".join(script))
    assert done.returncode == 0, done.stderr


def root_leaves_alone(site: Site, victim: Path) -> None:
    """Run the commands as root, and hold each to having left the victim as it was, and said nothing of its contents."""
    before = everything(victim)
    for words in site.commands:
        done = site.as_root(*words)
        assert "geheim" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert everything(victim) == before, words


def names_to_plant(site: Site) -> list[Path]:
    """Every name that was seen in the service user's directories, and those that come and go."""
    store = site.paths.server_state / "store.sqlite"
    assert store in site.names
    passing = {store.with_name(store.name + end) for end in ("-wal", "-shm", "-journal", "-queue", ".lock")}
    logs = {site.paths.logs / "server" / name for name in ("debug.log", "debug.log.1", "penguindome.log")}
    return sorted(site.names | passing | logs)


def owners(site: Site) -> dict[str, tuple[int, int, int]]:
    """Owner, group and mode of everything that a backup holds, and of the store."""
    paths = site.paths
    found: dict[str, tuple[int, int, int]] = {}
    for directory in (paths.keys, paths.settings, paths.releases, paths.server_state):
        for path in [directory, *sorted(directory.rglob("*"))]:
            if not path.is_socket() and not path.name.endswith(("-wal", "-shm", "-queue", "lock", "~", "random_seed")):
                status = path.lstat()
                found[str(path)] = (status.st_uid, status.st_gid, status.st_mode)
    return {name: values for name, values in found.items() if ".replaced-" not in name}


def test_what_is_restored_belongs_to_whom_it_belonged_and_the_service_user_can_serve(site: Site) -> None:
    plant(site, {})
    site.serve_once()
    before = owners(site)
    assert before[str(site.paths.server_state / "store.sqlite")][:2] == (USER_ID, USER_ID)
    assert site.as_root(*site.backing_up).returncode == 0
    for directory in (site.paths.keys, site.paths.settings, site.paths.releases, site.paths.server_state):
        shutil.rmtree(directory)
    done = site.as_root(*site.restoring)
    assert done.returncode == 0, done.stderr
    assert owners(site) == before
    site.serve_once()


def test_root_follows_no_link_that_the_service_user_planted_to_a_file(site: Site, victim: Path) -> None:
    plant(site, dict.fromkeys(names_to_plant(site), victim / "secret"))
    root_leaves_alone(site, victim)


def test_root_makes_no_file_where_a_link_that_the_service_user_planted_leads(site: Site, victim: Path) -> None:
    plant(site, {name: victim / f"new-{number}" for number, name in enumerate(names_to_plant(site))})
    root_leaves_alone(site, victim)


def test_root_enters_no_directory_that_a_planted_link_leads_to(site: Site, victim: Path) -> None:
    (victim / "counter_1.db").write_text("root's\n")
    plant(site, dict.fromkeys(names_to_plant(site), victim))
    root_leaves_alone(site, victim)
