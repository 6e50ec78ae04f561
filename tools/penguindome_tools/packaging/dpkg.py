"""Run dpkg-buildpackage, on Debian or on Arch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from penguindome_tools.packaging.sources import run_builder

ONLY_CLIENT = "pkg.penguindome.client"
"""The build profile, known to debian/control and debian/rules, that leaves the server out."""


def build_debs(source: Path, output: Path, *, only_client: bool = False) -> list[Path]:
    """Build the Debian packages of exported sources into `output`; returns them, the client's first.

    What the build leaves in `source`, and beside it, is for nobody else.
    """
    environment = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH", "TMPDIR")}
    environment |= {"LC_ALL": "C.UTF-8", "TZ": "UTC", "DEB_BUILD_OPTIONS": "nocheck"}
    command = ["dpkg-buildpackage", "--build=binary", "--unsigned-source", "--unsigned-changes"]
    if only_client:
        command.append(f"--build-profiles={ONLY_CLIENT}")
    if not Path("/etc/debian_version").exists():
        command.append("--no-check-builddeps")  # dpkg knows nothing of what another distribution has installed
    run_builder("dpkg-buildpackage", command, source, environment)
    made = sorted(source.parent.glob("*.deb"))
    for path in (*made, *source.parent.glob("*.changes"), *source.parent.glob("*.buildinfo")):
        shutil.copyfile(path, output / path.name)
    return [output / path.name for path in made]
