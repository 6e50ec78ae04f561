"""A machine with the client installed takes a patch, carries out signed commands, and a wipe that is cut off and goes
on: booted, with real accounts, processes, mounts and a real FUSE file system.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from built import debian_packages
from client_peer import Peer
from containers import Machine, Site, eventually
from needs import require, require_program
from penguindome import json, manifest
from penguindome.actions import Target
from penguindome.times import utc_now
from roots import CHECKOUT, require_roots

pytestmark = pytest.mark.timeout(900)

TREE = "/usr/lib/penguindome/client"
SERVICE = "penguindome-client.service"
LOG = "/srv/share.log"

PEOPLE = """
useradd --create-home alice
useradd --create-home bob
useradd --create-home --home-dir /srv/homes/carol carol
useradd --no-create-home --home-dir /usr/share/dave dave && mkdir /usr/share/dave && echo kept > /usr/share/dave/kept
useradd --system --create-home --home-dir /home/robot robot && echo kept > /home/robot/kept
mkdir -p /srv/data/inner /var/mail /var/spool/cron/crontabs /var/lib/systemd/linger /home/alice/deep/er /srv/share
echo secret | tee /home/alice/deep/er/file /home/bob/.secret /srv/homes/carol/x /srv/data/inner/file > /dev/null
ln -s /usr/share/dave /home/alice/link; ln -s / /home/bob/root
chown -R alice /home/alice; chown -R bob /home/bob
mkfifo /home/bob/fifo
echo mail > /var/mail/alice; echo '* * * * * touch /srv/ran' > /var/spool/cron/crontabs/alice
touch /var/lib/systemd/linger/alice
mkdir /home/alice/scratch /home/alice/data /home/alice/cloud /home/bob/cloud /home/bob/chroot
mount -t tmpfs tmpfs /home/alice/scratch && echo secret > /home/alice/scratch/file
mount --bind /srv/data /home/alice/data
mount --bind / /home/bob/chroot
"""
RUNNING = """
exec > /dev/null 2>&1 < /dev/null
setpriv --reuid=alice --regid=alice --clear-groups setsid sleep 1000 &
setpriv --reuid=bob --regid=bob --clear-groups setsid sh -c 'trap "" TERM HUP; sleep 1000' &
"""


@pytest.fixture
def site() -> Iterator[Site]:
    require_roots()
    require(Path("/dev/fuse").exists(), "the kernel has no FUSE")
    with Site() as made:
        yield made


@pytest.fixture
def peer(site: Site) -> Iterator[Peer]:
    peer = Peer(site.namespace)
    yield peer
    peer.close()


def sign(peer: Peer, machine: Machine) -> None:
    """The manifest of what may run on the machine."""
    tree = machine.root.at(TREE)
    names = [f"{each}/{path.name}" for each in ("plugins", "commands") for path in (tree / each).glob("*")]
    now = utc_now()
    text = manifest.build(tree, names, kind="release", release=0, issued_at=now, expires_at=now + timedelta(days=9))
    peer.signed_manifest = (text.decode(), peer.server_key.sign(text).decode())


def install(site: Site, peer: Peer) -> Machine:
    """A machine with the client's package, enrolled, whose timer does nothing: the test is the timer."""
    machine = site.boot("laptop", "debian12-ready", "--bind=/dev/fuse")
    package = debian_packages().client
    shutil.copyfile(package, machine.root.at(f"/root/{package.name}"))
    machine.run("apt-get", "install", "--yes", f"/root/{package.name}")
    machine.run("systemctl", "stop", "penguindome-client.timer")
    machine.root.at(f"{TREE}/commands").mkdir(exist_ok=True)
    machine.root.write(f"{TREE}/commands/once", "#!/bin/sh\ntouch /usr/local/once && ls /home\n", 0o755)
    sign(peer, machine)
    machine.root.write("/root/laptops.bundle", peer.bundle().to_text(), 0o600)
    machine.run("penguindome-client", "setup", "--bundle", "/root/laptops.bundle")
    minute(machine)
    return machine


def minute(machine: Machine) -> None:
    """What the timer does, in the service's own sandbox."""
    # systemd would refuse more than five within ten seconds.
    machine.shell(f"systemctl reset-failed {SERVICE} || true; systemctl start {SERVICE}")


def target(peer: Peer) -> Target:
    (client_id,) = peer.clients
    return Target(client_id, "laptop")


def steps(peer: Peer, wipe: str) -> dict[str, dict[str, str]]:
    return {step["name"]: step for step in peer.results[wipe][-1]["steps"]} if peer.results[wipe] else {}


def is_there(machine: Machine, path: str) -> bool:
    return os.path.lexists(machine.root.at(path))


def test_commands_run_outside_of_the_sandbox_and_a_wipe_takes_what_is_peoples_and_nothing_else(
    site: Site, peer: Peer
) -> None:
    machine = install(site, peer)

    # Plugins and settings of a patch are run and read in the minute's sandbox.
    files = {"plugins/patched": (b"#!/bin/sh\necho 42\n", 0o755), "settings/x.yml": (b"commands.timeout: 7m\n", 0o644)}
    patch = peer.offer(target(peer), files=files, remove=["plugins/os_info.py"])
    minute(machine)
    assert [result["status"] for result in peer.results[patch]] == ["done"]
    plugins = peer.reports[-1]["plugins"]
    assert plugins["patched"] == 42
    assert plugins["penguindome"]["patches"] == ["plugins/os_info.py", "plugins/patched", "settings/x.yml"]
    assert "os_info" not in plugins
    assert "plugins/patched" in machine.run("penguindome-client", "status").stdout

    # A signed command may do what the minute may not, and outlives it.
    script = b"touch /usr/local/ran && ls -d /home && cat /proc/self/cgroup"
    command = peer.offer(target(peer), kind="command", files={"command": (script, 0o700)})
    minute(machine)
    eventually("the command is told of", lambda: peer.results[command])
    result = peer.results[command][-1]
    assert (result["status"], result["exit_status"]) == ("done", 0), result
    assert "penguindome-client-command-" in result["output"]
    assert is_there(machine, "/usr/local/ran")

    # So may the release's own, whose file goes although the minute cannot write there.
    eventually("the release's command ran", lambda: not is_there(machine, f"{TREE}/commands/once"))
    minute(machine)
    reported = [report["commands"]["once"] for report in peer.reports if report["commands"]]
    assert [each["exit_status"] for each in reported] == [0]
    assert "verification" in peer.reports[-1]["plugins"]["penguindome"]
    assert peer.reports[-1]["plugins"]["penguindome"]["verification"] == []

    # A runner that is killed leaves nothing running: systemd sees to it.
    killed = peer.offer(
        target(peer), kind="command", attempts=1, files={"command": (b"setsid sleep 4711 & sleep 4711", 0o700)}
    )  # fmt: skip
    minute(machine)
    eventually("the command runs", lambda: sleepers(machine) == 2)
    machine.shell("systemctl kill --signal=KILL --kill-who=main 'penguindome-client-command-*'")
    eventually("nothing is left", lambda: sleepers(machine) == 0)
    minute(machine)
    assert "interrupted" in peer.results[killed][-1]["reason"]

    wipe_the(machine, peer)


def wipe_the(machine: Machine, peer: Peer) -> None:
    machine.shell(PEOPLE)
    machine.root.write("/root/fuse_share.py", (CHECKOUT / "tests/fuse_share.py").read_text())
    machine.shell(f"systemd-run --quiet --unit=share python3 /root/fuse_share.py /home/alice/cloud {LOG}")
    eventually("the share is mounted", lambda: is_there(machine, LOG))
    machine.shell("mount --bind /home/alice/cloud /home/bob/cloud; mount --bind /home/alice/cloud /srv/share")
    assert machine.run("cat", "/home/bob/cloud/deep/kept").stdout == "kept\n"
    machine.shell(RUNNING)
    state_before = json.loads(machine.root.at("/var/lib/penguindome/client/state.json").read_text())["sequence"]

    wipe = peer.offer(target(peer), kind="wipe", reason="stolen on a train")
    minute(machine)
    # It is cut off as soon as it has told that it deletes something, and goes on with the next minute.
    deadline = time.monotonic() + 60
    while "home of alice" not in steps(peer, wipe) and time.monotonic() < deadline:
        time.sleep(0.01)
    machine.shell("systemctl kill --signal=KILL 'penguindome-client-wipe-*'", check=False)
    assert peer.results[wipe][-1]["status"] == "trying"
    for _ in range(6):
        minute(machine)
        eventually("the runner ends", lambda: "penguindome-client-wipe" not in units(machine))
        if peer.results[wipe][-1]["status"] != "trying":
            break
        forget_waiting(machine, wipe)
    result = peer.results[wipe][-1]

    # One home was a directory of the system: it stays, and is named. All the rest is done.
    found = steps(peer, wipe)
    left = [name for name, step in found.items() if step["outcome"] != "done"]
    assert (result["status"], left) == ("failed", ["home of dave"]), found
    assert result["attempt"] == 3
    assert "/usr/share/dave" in found["home of dave"]["detail"]
    assert "/home/alice/cloud (fuse.share)" in found["network and FUSE mounts"]["detail"]
    assert "/home/bob/chroot (overlay)" in found["mounts in homes"]["detail"]
    assert "killed" in found["processes"]["detail"]
    for path in ("/home/alice", "/home/bob", "/srv/homes/carol", "/var/mail/alice", "/var/spool/cron/crontabs/alice"):
        assert not is_there(machine, path), path
    assert not is_there(machine, "/var/lib/systemd/linger/alice")
    for path in ("/home/robot/kept", "/usr/share/dave/kept", "/usr/bin/env", "/etc/passwd", "/srv/share"):
        assert is_there(machine, path), path
    assert list(machine.root.at("/srv/data").iterdir()) == []
    names = {line.partition(":")[0] for line in machine.root.at("/etc/passwd").read_text().splitlines()}
    assert not names & {"alice", "bob", "carol", "dave"}
    assert {"root", "robot", "nobody"} <= names
    assert sleepers(machine) == 0

    # What was mounted by FUSE was detached, everywhere, and nobody tried to change anything of it.
    eventually("the share is unmounted", lambda: "unmounted" in machine.root.at(LOG).read_text())
    assert machine.root.at(LOG).read_text().splitlines() == ["mounted", "unmounted with deep kept"]
    mounted = machine.run("cat", "/proc/self/mountinfo").stdout
    assert "fuse.share" not in mounted
    assert "/home/" not in mounted

    # The client goes on reporting.
    machine.run("penguindome-client", "collect")
    minute(machine)
    assert peer.reports[-1]["sequence"] > state_before
    assert "Traceback" not in machine.journal()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A block device that begins with a header of LUKS, which the word `open` opens."""
    cryptsetup, losetup = require_program("cryptsetup"), require_program("losetup")
    file = tmp_path / "disk"
    with file.open("wb") as opened:
        opened.truncate(32 << 20)
    quick = ["--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    subprocess.run([cryptsetup, "luksFormat", *quick, file, "-"], input=b"open", check=True)
    made = subprocess.run([losetup, "--find", "--show", file], capture_output=True, text=True, check=False)
    require(made.returncode == 0, f"there are no loop devices: {made.stderr}")
    yield Path(made.stdout.strip())
    subprocess.run([losetup, "--detach", made.stdout.strip()], check=True)


def can_be_opened(disk: Path) -> bool:
    words = ["cryptsetup", "open", "--test-passphrase", disk, "-"]
    return subprocess.run(words, input=b"open", capture_output=True, check=False).returncode == 0


def bring(machine: Machine, name: str) -> None:
    """A program of the machine that runs the tests, with its libraries."""
    program, place = require_program(name), f"/opt/{name}"
    libraries = [
        word for word in subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
        if word.startswith("/")
    ]  # fmt: skip
    machine.root.at(place).mkdir(parents=True)
    for path in (program, *libraries):
        shutil.copy(path, machine.root.at(place))
    (loader,) = (Path(path).name for path in libraries if Path(path).name.startswith("ld-"))
    script = f'#!/bin/sh\nexec {place}/{loader} --library-path {place} {place}/{name} "$@"\n'
    machine.root.write(f"/usr/local/sbin/{name}", script, 0o755)


def test_a_wipe_destroys_the_keys_of_disks_last_and_tells_it_before_it_switches_the_machine_off(
    site: Site, peer: Peer, disk: Path
) -> None:
    machine = install(site, peer)
    bring(machine, "cryptsetup")
    machine.shell("useradd --create-home alice && echo secret > /home/alice/file")
    number = disk.stat().st_rdev
    machine.run("mknod", str(disk), "b", str(os.major(number)), str(os.minor(number)))
    assert can_be_opened(disk)

    wipe = peer.offer(target(peer), kind="wipe", reason="stolen on a train", luks=True)
    minute(machine)
    eventually("the machine is off", lambda: machine.is_off, 120)

    assert not can_be_opened(disk)
    assert not is_there(machine, "/home/alice")
    result, keys = peer.results[wipe][-1], f"keys of {disk}"
    found = steps(peer, wipe)
    assert (result["status"], found[keys]["outcome"]) == ("done", "done"), found
    assert list(found)[-1] == keys
    told = [[step["name"] for step in each["steps"] if step["outcome"] == "done"] for each in peer.results[wipe]]
    before = next(names for names in told if keys in names)
    assert {"processes", "home of alice", "account alice"} <= set(before[: before.index(keys)])


def sleepers(machine: Machine) -> int:
    """How many processes sleep, of whomever."""
    return machine.shell("cat /proc/[0-9]*/comm", check=False).stdout.split().count("sleep")


def units(machine: Machine) -> str:
    return machine.run("systemctl", "list-units", "--no-legend", "penguindome-client-*").stdout


def forget_waiting(machine: Machine, action_id: str) -> None:
    """As if the time had come to try again."""
    path = machine.root.at(f"/var/lib/penguindome/client/actions/open/{action_id}.json")
    if path.exists():
        record: dict[str, Any] = json.loads_plain(path.read_bytes())
        path.write_text(json.dumps({**record, "not_before_at": None}))
