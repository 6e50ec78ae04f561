"""What a test needs of the machine: `from needs import require`."""

from __future__ import annotations

import os
import shutil

import pytest


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


def testing_all() -> bool:
    """Whether this is `make test-all`: soaks, whole matrices, many examples."""
    return bool(os.environ.get("PENGUINDOME_TEST_ALL"))
