"""Build the Debian packages: `python -m penguindome_tools.packaging.deb [--output DIRECTORY] [--version VERSION]`.

They are built by dpkg-buildpackage in a copy of the checkout, so that nothing is left behind in it, from what git knows
or would take up, and the wheelhouse. Two builds of the same sources are the same, byte by byte.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from penguindome_tools.packaging import wheelhouse

CHECKOUT = Path(__file__).resolve().parents[3]


def main() -> None:
    """Build into `dist/`, or where `--output` says, and name the packages."""
    parser = argparse.ArgumentParser(description="Build the Debian packages.")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist", help="where the packages go")
    parser.add_argument("--version", help="the version that they get, in place of the one in debian/changelog")
    options = parser.parse_args()
    for package in build(options.output, version=options.version):
        print(package)


def build(output: Path, *, version: str | None = None) -> list[Path]:
    """Build both packages; returns their files in `output`, the client's first."""
    wheelhouse.main()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="penguindome-deb-") as directory:
        source = Path(directory) / "penguindome"
        export(source)
        if version:
            _set_version(source, version)
        _run_dpkg_buildpackage(source)
        made = sorted(Path(directory).glob("*.deb"))
        for path in (*made, *Path(directory).glob("*.changes"), *Path(directory).glob("*.buildinfo")):
            shutil.copyfile(path, output / path.name)
    return [output / path.name for path in made]


def _set_version(source: Path, version: str) -> None:
    for name, pattern, text in (
        ("debian/changelog", r"\(.*?\)", f"({version})"),
        ("pyproject.toml", r'^version = ".*"$', f'version = "{version.partition("-")[0]}"'),
    ):
        path = source / name
        path.write_text(re.sub(pattern, text, path.read_text(), count=1, flags=re.MULTILINE))


def export(target: Path) -> None:
    """Copy into `target` what belongs to the project, and the wheelhouse; file modes are those that git knows."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (CHECKOUT / ".git").exists():
        sys.exit(f"make: {CHECKOUT} is no checkout of git, which knows what belongs to the sources")
    listed = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = CHECKOUT / name
        if not path.is_file() or name.startswith("tests/"):
            continue
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    shutil.copytree(wheelhouse.WHEELHOUSE, target / "wheelhouse", copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _run_dpkg_buildpackage(source: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH", "TMPDIR")}
    environment |= {"LC_ALL": "C.UTF-8", "TZ": "UTC", "DEB_BUILD_OPTIONS": "nocheck"}
    command = ["dpkg-buildpackage", "--build=binary", "--unsigned-source", "--unsigned-changes"]
    run_builder("dpkg-buildpackage", command, source, environment)


def run_builder(name: str, command: Sequence[str], place: Path, environment: Mapping[str, str]) -> None:
    """Run a program that builds packages in the directory `place`; when it fails, end with all that it said, and its
    `name`.
    """
    done = subprocess.run(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{name} failed with status {done.returncode}")


if __name__ == "__main__":
    main()
