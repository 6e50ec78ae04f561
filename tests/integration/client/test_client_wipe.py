"""A wipe of a machine of its own: other processes, mounts and accounts than those of the machine that tests it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from needs import require, require_program

CHECKOUT = Path(__file__).resolve().parents[3]

# $1 becomes the root: this system, which cannot be written, with everything of people and services laid aside.
MACHINE = r"""
new=$1 python=$2; shift 2
mount --bind / "$new"
mount -o remount,bind,ro "$new"
for place in etc home var srv tmp run; do mount -t tmpfs -o mode=0755 "$place" "$new/$place"; done
for place do
    mkdir -p "$new$place"
    mountpoint -q "$new$place" || mount --bind "$place" "$new$place"
done
mount -t proc proc "$new/proc"
mount -t tmpfs -o mode=0755 dev "$new/dev"
for place in null zero urandom; do : > "$new/dev/$place"; mount --bind "/dev/$place" "$new/dev/$place"; done
cp -a /etc/ld.so.cache /etc/pam.d /etc/nsswitch.conf "$new/etc/" 2>/dev/null || :
cd "$new/etc"
printf 'root:x:0:0::/root:/bin/sh\nrobot:x:200:200::/home/robot:/bin/sh\n' > passwd
printf 'root:x:0:\nrobot:x:200:\n' > group
printf 'root:*:19000::::::\nrobot:*:19000::::::\n' > shadow
printf 'UID_MIN 64000\nUID_MAX 64999\n' > login.defs
for each in alice bob; do
    number=$((64001 + $(wc -l < passwd)))
    printf '%s:x:%d:%d::/home/%s:/bin/sh\n' $each $number $number $each >> passwd
    printf '%s:x:%d:\n' $each $number >> group; printf '%s:*:19000::::::\n' $each >> shadow
    mkdir "$new/home/$each"; echo secret > "$new/home/$each/file"; chown -R $number:$number "$new/home/$each"
done
mkdir -m 1777 "$new/srv/public" "$new/var/mail"; mkdir "$new/home/robot"; echo kept > "$new/home/robot/kept"
exec chroot "$new" "$python" -c "$program"
"""

PROGRAM = """
import json, os, subprocess, sys
from penguindome.client import wipe

assert os.getpid() == 1 and os.path.ismount("/home")
told = []

def run(script, user=0):
    words = ["setpriv", f"--reuid={{user}}", f"--regid={{user}}", "--clear-groups", "sh", "-ec", script]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd="/")

def start(script, user):
    # Its first line says that it has begun.
    words = ["setpriv", f"--reuid={{user}}", f"--regid={{user}}", "--clear-groups", "sh", "-ec", script]
    subprocess.Popen(words, stdout=subprocess.PIPE, cwd="/").stdout.readline()

def attempt(before=None, progress=told.append):
    wiping = wipe.Wiping(before, progress)
    wiping.run(is_last=False)
    return {{step["name"]: step for step in wiping.steps}}

{body}
print(json.dumps({{"steps": steps, "there": sorted(
    os.path.join(place, name) for top in ("/home", "/srv") for place, names, files in os.walk(top)
    for name in [*names, *files]
), "accounts": [line.split(":")[0] for line in open("/etc/passwd")], **globals().get("more", {{}})}}))
"""


def wiped(tmp_path: Path, body: str) -> Any:
    """What `body` leaves on the machine: `steps`, the files that are `there`, and `accounts`."""
    require(os.geteuid() == 0, "only root can mount")
    for program in ("setpriv", "usermod", "userdel", "chroot"):
        require_program(program)
    words = [require_program("unshare"), "--mount", "--pid", "--fork", "--kill-child"]
    probe = subprocess.run([*words, "mount", "--bind", tmp_path, tmp_path], capture_output=True, check=False)
    require(probe.returncode == 0, f"there are no namespaces: {probe.stderr!r}")
    root = tmp_path / "root"
    root.mkdir()
    places = dict.fromkeys([str(CHECKOUT), sys.prefix, sys.base_prefix])
    done = subprocess.run(
        [*words, "sh", "-euc", MACHINE, "sh", str(root), sys.executable, *places],
        env={**os.environ, "program": PROGRAM.format(body=body)}, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


def test_what_is_peoples_goes_and_everything_else_stays(tmp_path: Path) -> None:
    found = wiped(tmp_path, "steps = attempt()")
    assert {step["outcome"] for step in found["steps"].values()} == {"done"}, found["steps"]
    assert found["accounts"] == ["root", "robot"]
    assert "/home/robot/kept" in found["there"]
    assert not [path for path in found["there"] if path.startswith(("/home/alice", "/home/bob"))]


# Whoever sees that the first mount goes puts a link into the path of the others.
MANY_MOUNTS = """
run("mount -t tmpfs volume /srv; mkdir /srv/home; mount -t tmpfs volume /srv/home; echo kept > /srv/home/kept")
for number in range(100):
    run(f"mkdir -p /home/alice/a/home{number}; mount -t ramfs ramfs /home/alice/a/home{number}")
run("mkdir -p /home/alice/b; mount -t ramfs ramfs /home/alice/b; chown -R 64003:64003 /home/alice")
run("for each in $(seq 0 99); do ln -s /srv/home /srv/home$each; done; mkdir /srv/real; mv /srv/home[0-9]* /srv/real")
run("for each in $(seq 0 99); do mkdir /srv/home$each; mount -t tmpfs volume /srv/home$each; done")
start(r'''echo begun
while grep -q ' /home/alice/b ' /proc/self/mountinfo; do :; done
mv /home/alice/a /home/alice/old; ln -s /srv /home/alice/a''', 64003)
steps = attempt()
more = {"mounted": [line.split()[4] for line in open("/proc/self/mountinfo")]}
"""


def test_whoever_moves_things_about_while_mounts_are_detached_loses_only_what_is_his(tmp_path: Path) -> None:
    found = wiped(tmp_path, MANY_MOUNTS)
    left = {f"/srv/home{number}" for number in range(100)} - set(found["mounted"])
    assert left == set()
    assert "/srv/home/kept" in found["there"]
    assert not [path for path in found["there"] if path.startswith("/home/alice")], found["steps"]


def test_a_home_that_is_missing_is_not_done(tmp_path: Path) -> None:
    found = wiped(tmp_path, 'run("mv /home/alice /srv/alice"); steps = attempt()')
    step = found["steps"]["home of alice"]
    assert step["outcome"] == "failed"
    assert "/home/alice was not there" in step["detail"]
    assert found["steps"]["account alice"]["outcome"] == "failed"
    assert "alice" in found["accounts"]
    assert found["steps"]["home of bob"]["outcome"] == "done"


CUT_OFF = """
class Killed(Exception):
    pass

def cut_off(steps):
    told.append(steps)
    outcomes = {step["name"]: step["outcome"] for step in steps}
    if outcomes.get("home of alice") == "begun":
        # As far as it comes before it can tell.
        run("rm -r /home/alice")
        raise Killed

try:
    attempt(progress=cut_off)
except Killed:
    pass
steps = attempt({"steps": told[-1]})
"""


def test_a_home_that_was_deleted_by_an_attempt_which_was_cut_off_is_done(tmp_path: Path) -> None:
    found = wiped(tmp_path, CUT_OFF)
    assert {step["outcome"] for step in found["steps"].values()} == {"done"}, found["steps"]
    assert found["accounts"] == ["root", "robot"]


def test_a_home_that_two_people_share_is_deleted_with_the_first(tmp_path: Path) -> None:
    body = 'run("sed -i s,/home/bob,/home/alice, /etc/passwd"); steps = attempt()'
    found = wiped(tmp_path, body)
    assert {step["outcome"] for step in found["steps"].values()} == {"done"}, found["steps"]


def test_names_that_are_no_text_keep_nobody_from_being_told(tmp_path: Path) -> None:
    body = r"""
run("printf '/home/alice/x\\377\\nname' > /srv/name; mkdir \"$(cat /srv/name)\"; mount -t ramfs x \"$(cat /srv/name)\"")
steps = attempt()
for step in steps.values():
    step["detail"].encode()
"""
    found = wiped(tmp_path, body)
    assert r"/home/alice/x\udcff" in found["steps"]["mounts in homes"]["detail"]
    assert not [path for path in found["there"] if path.startswith("/home/alice")]


@pytest.mark.parametrize("character", ["\u2028", "\x0c", "\x85", "\r"])
def test_what_may_end_a_line_hides_no_mount(tmp_path: Path, character: str) -> None:
    body = f"""
name = {f"/home/alice/a{character}b"!r}
run(f"mkdir '{{name}}'; mount -t ramfs x '{{name}}'")
steps = attempt()
"""
    found = wiped(tmp_path, body)
    assert found["steps"]["home of alice"]["outcome"] == "done", found["steps"]
