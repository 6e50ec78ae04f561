"""Make our own wheel of a role: the client's holds `penguindome` alone, the server's also server and command line.

The same sources give the same bytes, whoever builds them where, as long as SOURCE_DATE_EPOCH is the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
PACKAGES = {
    "client": ("src/penguindome",),
    "server": ("src/penguindome", "server/penguindome_server", "tools/penguindome_tools"),
}
"""Role -> what its wheel holds."""
OF_DEVELOPERS = {
    *("bench", "development", "fleet", "packaging"),
    *("demonstration.py", "fleet_simulator.py", "scratch_site.py"),
}
"""What lies in penguindome_tools and is not for administrators."""
DESCRIPTIVE = ("LICENSE", "README.md")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def make_wheel(role: str, destination: Path) -> Path:
    """Write the wheel of `role` into the directory `destination`; the Python that runs this has setuptools."""
    destination.mkdir(parents=True, exist_ok=True)
    before = set(destination.glob("penguindome-*.whl"))
    with tempfile.TemporaryDirectory() as directory:
        stage = Path(directory)
        _lay_out(role, stage)
        done = subprocess.run(
            [sys.executable, "-I", "-c", BUILD, str(destination.resolve())],
            cwd=stage,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"{done.stdout}wheel: the wheel of the {role} could not be made")
    (made,) = set(destination.glob("penguindome-*.whl")) - before
    return made


def _lay_out(role: str, stage: Path) -> None:
    """Lay out what setuptools shall see: sources of the role only, with modes that no umask has changed."""
    for name in ("src", "server", "tools"):
        (stage / name).mkdir()
    for package in PACKAGES[role]:
        left_out = OF_DEVELOPERS if package.startswith("tools/") else set()
        root = CHECKOUT / package
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and path.suffix != ".pyc" and inside.parts[0] not in left_out:
                _copy(path, stage / package / inside)
    for name in DESCRIPTIVE:
        _copy(CHECKOUT / name, stage / name)
    # Commands are wrappers of the packages; scripts in a private environment would be a second, confusing set.
    project, count = re.subn(
        r"^\[project\.scripts\]\n(?:[^\[\n].*\n|\n)*", "", (CHECKOUT / "pyproject.toml").read_text(), flags=re.MULTILINE
    )
    assert count == 1
    (stage / "pyproject.toml").write_text(project)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)
