"""What the service user, and so a web process that was taken over, can do to root: tried as that user, with links."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from service_site import USER_ID, Site, service_site

COMMANDS = (
    ("setup", "--yes"),
    ("clients", "list"),
    ("issues", "audit", "--mail"),
    ("enrolment", "token", "--expires", "1h"),
    ("store", "check"),
    ("patch", "list"),
    ("patch", "remove", "plugins/x", "--all", "--yes"),
    ("log", "show"),
    ("log", "verify"),
    ("keys", "list"),
    ("keys", "rotate", "server", "--yes"),
    ("keys", "rotate", "client", "--yes"),
    ("release", "list"),
    ("release", "refresh", "--force"),
)
FLEET = """
import sys
from penguindome_server.store import open_store
store = open_store(sys.argv[1])
store.collection("clients").insert_new([{"_id": "A" * 40, "state": "enrolled", "hostname": "laptop"}])
store.close()
"""


def backing_up(site: Site) -> tuple[str, ...]:
    """The words that make a backup."""
    return ("backup", str(site.victim.with_name("backup")), "--passphrase-file", str(site.passphrase))


def restoring(site: Site) -> tuple[str, ...]:
    """The words that restore it."""
    name = str(site.victim.with_name("backup"))
    return ("restore", name, "--passphrase-file", str(site.passphrase), "--yes", "--force")


def commands(site: Site) -> tuple[tuple[str, ...], ...]:
    """All commands that root is held to."""
    return (*COMMANDS, backing_up(site), restoring(site))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server that root has set up, the service user has run, and root has looked at."""
    with service_site() as made:
        made.serve_once()
        done = made.as_service(sys.executable, "-c", FLEET, f"sqlite://{made.paths.server_state}/store.sqlite")
        assert done.returncode == 0, done.stderr
        made.passphrase.write_text("correct horse\n")
        made.passphrase.chmod(0o600)
        for words in commands(made):
            done = made.as_root(*words)
            assert done.returncode == 0, (words, done.stderr)
        made.names = {path for directory in made.own_directories for path in directory.iterdir()}
        yield made


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


def test_the_service_user_signs_no_action_and_root_does(site: Site) -> None:
    words = ("wipe", "laptop", "--reason", "evil", "--confirm", "laptop")
    done = site.as_service(sys.executable, "-m", "penguindome_tools.cli", *words)
    assert done.returncode == 1, done.stderr
    assert "root" in done.stderr
    assert json.loads(site.as_root("wipe", "list", "--json").stdout) == []
    done = site.as_root(*words)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(site.as_root("wipe", "list", "--json").stdout)
    assert row["states"] == {"pending": 1}


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
    for words in commands(site):
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
    return {name: values for name, values in found.items() if ".replaced-" not in name and ".acts/" not in name}


def test_what_is_restored_belongs_to_whom_it_belonged_and_the_service_user_can_serve(site: Site) -> None:
    plant(site, {})
    site.serve_once()
    before = owners(site)
    assert before[str(site.paths.server_state / "store.sqlite")][:2] == (USER_ID, USER_ID)
    assert site.as_root(*backing_up(site)).returncode == 0
    for directory in (site.paths.keys, site.paths.settings, site.paths.releases, site.paths.server_state):
        shutil.rmtree(directory)
    done = site.as_root(*restoring(site))
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


@pytest.mark.parametrize(
    "words",
    [("release", "list"), ("patch", "list"), ("keys", "list"), ("wipe", "laptop", "--reason", "lost"),
     ("command", "run", "--all", "--", "id"), ("setup", "--yes"), ("release", "refresh")],
)  # fmt: skip
def test_another_user_is_told_to_become_root(site: Site, words: tuple[str, ...]) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = site.run(*nobody, sys.executable, "-m", "penguindome_tools.cli", *words, service=False)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("run this with sudo\n")
