"""Collect the locked wheels of every supported Python, once (`make wheelhouse`): `python -m ...wheelhouse [DIRECTORY]`.

The directory (`.cache/wheelhouse`) then holds `wheels/*.whl` and, for each role, `ROLE.txt`: the lock of the role with
the hashes of exactly these wheels. It is what building packages takes from outside; nothing is downloaded afterwards.
A wheel without native code is taken where a project offers one; else one for each Python. The architecture is that of
this machine. What a build tool offers as source only is made into a wheel here.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
WHEELHOUSE = CHECKOUT / ".cache/wheelhouse"
ROLES = {"client": (10, 11, 12, 13, 14), "server": (11, 12, 13, 14), "packaging": (11, 12, 13, 14)}
"""Role -> minor versions of Python 3 that its packages serve; README.md and debian/control name them too."""
WITHOUT_WHEEL = {"argparse-manpage"}
"""Build tools in plain Python that are published as source only."""
NEWEST_GLIBC = 35
"""The minor version of glibc 2 on the oldest supported system, Ubuntu 22.04; Debian 12 has 36."""


def main(directory: Path = WHEELHOUSE) -> None:
    """Fill `directory`, or do nothing where it was made from the same locks. Only one process at a time does."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _fill(directory)


def _fill(directory: Path) -> None:
    stamp = _stamp()
    if (directory / "stamp").exists() and (directory / "stamp").read_text() == stamp:
        return
    print("make: collecting the wheels of all supported Pythons", file=sys.stderr, flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    wheels = directory / "wheels"
    wheels.mkdir(parents=True)
    wanted: dict[str, set[int]] = {}
    for role, minors in ROLES.items():
        for requirement in locked(lock_of(role).read_text()):
            wanted.setdefault(requirement, set()).update(minors)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: _collect(item[0], sorted(item[1]), wheels), wanted.items()))
    held = {sha256(path.read_bytes()).hexdigest(): path.name for path in wheels.iterdir()}
    for role, minors in ROLES.items():
        fitting = {digest: name for digest, name in held.items() if _serves(name, minors)}
        (directory / f"{role}.txt").write_text(requirements(lock_of(role).read_text(), fitting))
    (directory / "stamp").write_text(stamp)


def lock_of(role: str) -> Path:
    """The lock that the wheels of a role are taken from."""
    return CHECKOUT / "tools/locks" / f"{role}.txt"


def locked(text: str) -> Iterator[str]:
    """The entries of a lock, each in one line with all its hashes."""
    for line in text.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            yield " ".join(line.split())


def requirements(lock: str, held: Mapping[str, str]) -> str:
    """The entries of `lock` with the hashes of those wheels only that are `held`: sha256 -> name of the file."""
    lines = []
    for entry in locked(lock):
        name, *hashes = entry.split(" --hash=sha256:")
        if _project(name) in WITHOUT_WHEEL:
            start = name.replace("-", "_").replace("==", "-")
            hashes = [digest for digest, file in held.items() if file.startswith(f"{start}-")]
        kept = [f"--hash=sha256:{digest}" for digest in hashes if digest in held]
        if not kept:
            sys.exit(f"wheelhouse: there is no wheel of {name}")
        lines.append(" \\\n    ".join([name, *kept]))
    return "\n".join(lines) + "\n"


def _serves(wheel: str, minors: Sequence[int]) -> bool:
    """Whether a wheel is of use to one of these Pythons: native code for one of them, or for all."""
    native = re.search(r"-cp3(\d+)-cp3\1-", wheel)
    return native is None or int(native[1]) in minors


def _project(requirement: str) -> str:
    return requirement.partition("==")[0]


def _collect(requirement: str, minors: Sequence[int], wheels: Path) -> None:
    if _project(requirement) in WITHOUT_WHEEL:
        problem = _pip("wheel", requirement, ["--no-build-isolation", "--wheel-dir", str(wheels)])
        if problem:
            sys.exit(f"wheelhouse: {problem}")
        return
    pure = ["--python-version", f"3.{minors[0]}", "--implementation", "py", "--abi", "none", "--platform", "any"]
    problem = _download(requirement, pure, wheels)
    if not problem:
        return
    if "No matching distribution found" not in problem:
        sys.exit(f"wheelhouse: {problem}")
    for minor in minors:
        native = ["--python-version", f"3.{minor}", "--implementation", "cp"]
        native += [word for abi in (f"cp3{minor}", "abi3", "none") for word in ("--abi", abi)]
        native += [word for name in _platforms() for word in ("--platform", name)]
        problem = _download(requirement, native, wheels)
        if problem:
            sys.exit(f"wheelhouse: Python 3.{minor}: {problem}")


def _download(requirement: str, options: Sequence[str], wheels: Path) -> str:
    return _pip("download", requirement, ["--only-binary", ":all:", "--dest", str(wheels), *options])


def _pip(verb: str, requirement: str, options: Sequence[str]) -> str:
    """Let pip take one requirement; returns what it complained of."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirement + "\n")
        file.flush()
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", verb, "--quiet", "--no-deps"]
        command += ["--require-hashes", *options, "--requirement", file.name]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    return (done.stderr.strip() or "pip failed") if done.returncode else ""


def _platforms() -> list[str]:
    machine = platform.machine()
    names = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, 4, -1)]
    return [*names, *(f"manylinux{name}_{machine}" for name in ("2014", "2010", "1"))]


def _stamp() -> str:
    # What is collected, and how: a change of this file makes another wheelhouse.
    parts = [platform.machine(), Path(__file__).read_text(), *(lock_of(role).read_text() for role in ROLES)]
    return sha256("\0".join(parts).encode()).hexdigest() + "\n"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:] or [os.fspath(WHEELHOUSE)]))
