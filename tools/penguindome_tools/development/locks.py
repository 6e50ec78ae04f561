"""Write `tools/locks/`: for each role the exact versions and hashes of all that it needs (`make lock`).

client       what goes onto a client: Python 3.10 and newer
server       client and server: Python 3.11 and newer
packaging    the server's, and what builds packages: Python 3.11 and newer
development  client, server and the tools that test them: Python 3.10 and newer; the others hold the same versions

Existing versions are kept as long as pyproject.toml allows them; `--upgrade` takes the newest. Stdlib only; uv, which
compiles the locks, comes into a venv of its own below `.cache/`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
LOCKS = CHECKOUT / "tools/locks"
UV_HOME = CHECKOUT / ".cache/uv"
HEADER = "# Made by `make lock` from pyproject.toml: {}. Do not edit.\n"

ROLES = {
    "development": ("client, server and the tools that test them", "3.10", ("--extra=server", "--group=development")),
    "client": ("what goes onto a client", "3.10", ()),
    "server": ("client and server", "3.11", ("--extra=server",)),
    "packaging": ("the server and what builds packages", "3.11", ("--extra=server", "--group=packaging")),
}


def main() -> None:
    """Compile the locks of all roles, development first: it pins the versions of the others."""
    parser = argparse.ArgumentParser(description="Write the locks of all roles.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    upgrade = parser.parse_args().upgrade
    uv = _uv()
    LOCKS.mkdir(exist_ok=True)
    for role in ROLES:
        print(f"{role}: {_compile(uv, role, upgrade=upgrade)} packages", flush=True)


def _uv() -> str:
    uv = UV_HOME / "bin/uv"
    if not uv.exists():
        venv.create(UV_HOME, with_pip=True)
        subprocess.run([UV_HOME / "bin/python", "-m", "pip", "--quiet", "install", "uv"], check=True)
    return str(uv)


def _compile(uv: str, role: str, *, upgrade: bool) -> int:
    title, python, options = ROLES[role]
    lock = LOCKS / f"{role}.txt"
    command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", python]
    command += ["--no-emit-index-url", "--no-annotate", "--no-header", *options]
    if role != "development":
        command += ["--constraint", str(LOCKS / "development.txt")]
    if upgrade:
        command += ["--upgrade"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    result = subprocess.run(
        [*command, "pyproject.toml", "--output-file", str(lock)], cwd=CHECKOUT, env=environment, check=False
    )
    if result.returncode:
        sys.exit(f"the lock of {role} could not be made")
    text = lock.read_text()
    lock.write_text(HEADER.format(title) + text)
    return text.count("==")


if __name__ == "__main__":
    main()
