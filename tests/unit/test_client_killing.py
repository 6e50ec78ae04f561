"""The processes of a user are killed, whatever they do against it. All of it happens in a namespace that has no other
processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from needs import require, require_program
from penguindome.client import killing

USER = 64397
HOPPING = """export hop='sh -c "$hop" &'; eval "$hop" """
FORKING = "for each in 1 2 3 4; do (while :; do sh -c 'sleep 1000 & sleep 0.01'; done) & done; wait"
NO_TEXT = r"printf '\377\013Uid:' > /proc/self/comm; while :; do read line < /dev/null; done"
DEAF = "trap '' TERM HUP INT; while :; do :; done"

PROGRAM = """
import json, os, select, subprocess, sys
from penguindome.client import killing

users, others, scripts = json.loads(sys.argv[1])
assert os.getpid() == 1
started = []
for user, script in scripts:
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sh", "-c", f"echo begun; {script}"]
    started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"))
    assert os.read(started[-1].stdout.fileno(), 6) == b"begun\\n"

def is_over(process):
    # The output of a script ends with the last process of it.
    readable, _, _ = select.select([process.stdout], [], [], 1)
    return bool(readable) and os.read(process.stdout.fileno(), 1) == b""

seen, left = killing.kill(users, [range(*each) for each in others])
print(json.dumps({"seen": seen, "left": left, "over": [is_over(each) for each in started], "user": os.getresuid()}))
"""


def kill(*scripts: tuple[int, str], users: tuple[int, ...] = (USER,), others: tuple[Any, ...] = ()) -> dict[str, Any]:
    """What became of these scripts, each of a user, when these users' processes were killed."""
    require(os.geteuid() == 0, "only root can become another user")
    require_program("setpriv")
    words = [require_program("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    probe = subprocess.run([*words, "true"], capture_output=True, check=False)
    require(probe.returncode == 0, f"there are no namespaces of processes: {probe.stderr!r}")
    program = [sys.executable, "-c", PROGRAM, json.dumps([users, others, scripts])]
    done = subprocess.run([*words, *program], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["user"] == [0, 0, 0]
    return found


@pytest.mark.parametrize("script", [HOPPING, FORKING, NO_TEXT, DEAF], ids=["hopping", "forking", "no-text", "deaf"])
def test_nothing_of_a_user_goes_on(script: str) -> None:
    found = kill((USER, script))
    assert (found["left"], found["over"]) == ([], [True])


def test_others_are_left_alone() -> None:
    found = kill((USER, "sleep 1000"), (USER + 1, "sleep 1000"), (0, "sleep 1000"))
    assert found["over"] == [True, False, False]


def test_numbers_that_are_given_to_containers_count() -> None:
    found = kill((USER + 1, DEAF), (USER + 3, DEAF), others=((USER + 1, USER + 3),))
    assert found["over"] == [True, False]


def test_root_is_never_meant() -> None:
    with pytest.raises(ValueError, match="root"):
        killing.kill([1000, 0])
