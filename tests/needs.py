"""What a test needs of the machine: `from needs import require`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

import pytest

NOBODY = 65534


def require(condition: object, reason: str) -> None:
    """Go on when `condition` is true; else skip the test with `reason`, or fail it where `CI` is set."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"this machine must have what the test needs: {reason}", pytrace=False)
    pytest.skip(reason)


def require_program(name: str) -> str:
    """The path of a program on PATH; see `require` for what happens when it is missing."""
    path = shutil.which(name)
    require(path, f"the program {name} is not installed")
    return str(path)


def ordinary_user(environment: Mapping[str, str]) -> list[str]:
    """The words in front of a command that run it as an ordinary user, who can reach this Python and our library."""
    require(os.geteuid() == 0, "only root can become another user")
    become = [require_program("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    probe = [*become, sys.executable, "-c", "import penguindome"]
    can_reach = subprocess.run(probe, env=dict(environment), check=False, capture_output=True)
    require(can_reach.returncode == 0, "the work tree and its python are out of reach for an ordinary user")
    return become


def testing_all() -> bool:
    """Whether this is `make test-all`: soaks, whole matrices, many examples."""
    return bool(os.environ.get("PENGUINDOME_TEST_ALL"))
