"""`make test-pythons`: the tests on each Python from 3.10 to 3.14 that is on PATH or that pyenv has.

Each gets a venv below `.cache/venvs/`. On 3.10 the tests of client and library run; the server wants 3.11.
Arguments are handed to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from penguindome_tools.development.environment import CACHE, CHECKOUT, Missing, ensure_venv

# Installed packages run on the Python of the machine, whichever runs the tests.
THE_SAME_ON_EACH = ("--ignore=tests/packages", "--ignore=tests/system")
RESULTS = {0: "passed", 5: "none of these tests is for it"}  # pytest's exit status
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def candidates(version: str) -> Iterator[Path]:
    """Where an interpreter of this version may lie."""
    if program := shutil.which(f"python{version}"):
        yield Path(program)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def find(version: str) -> tuple[Path, str] | None:
    """The first candidate that runs, is of this version and can make a venv (a shim may not), and its `sys.version`."""
    probe = "import ensurepip, sys; sys.stdout.write(sys.version)"
    for program in candidates(version):
        done = subprocess.run([str(program), "-c", probe], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith(f"{version}."):
            return program, done.stdout
    return None


def run_tests(version: str, program: Path, full_version: str, arguments: Sequence[str]) -> str:
    """Run the tests and say in a word or two how it went."""
    home = CACHE / "venvs" / version
    try:
        ensure_venv(home, program, full_version)
    except Missing as problem:
        return f"FAILED: {problem}"
    print(f"== Python {version} ({program})", flush=True)
    command = [str(home / "bin/python"), "-m", "pytest", "--numprocesses", "2", "--dist", "worksteal", "-q"]
    command += [*THE_SAME_ON_EACH, *arguments]
    status = subprocess.run(command, cwd=CHECKOUT, check=False).returncode
    return RESULTS.get(status, f"FAILED with status {status}")


def main(arguments: Sequence[str]) -> int:
    """Run them one after the other; 0 when none failed."""
    results = {}
    for version in VERSIONS:
        found = find(version)
        results[version] = run_tests(version, *found, arguments) if found else "not on this machine"
    for version, result in results.items():
        print(f"Python {version}: {result}")
    return 1 if any(result.startswith("FAILED") for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
