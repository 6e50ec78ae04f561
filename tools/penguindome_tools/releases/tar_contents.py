"""What the tar of a release holds: the client's tree, what a system needs beside it, and the program that installs it.

penguindome-client-5+0.1.0/setup, release, bundle.json
penguindome-client-5+0.1.0/root/usr/..., root/etc/...     as on a machine
penguindome-client-5+0.1.0/root/units/, root/cron/        for where the system has its units and cron entries
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from penguindome_tools.releases import naming
from penguindome_tools.releases.content import TREE
from penguindome_tools.releases.packing import Stamp
from penguindome_tools.releases.unpacking import Unpacked

FILES = (
    "usr/bin/penguindome-client",
    "usr/share/man/man1/penguindome-client.1.gz",
    "usr/share/bash-completion/completions/penguindome-client",
    "usr/share/doc/penguindome-client/copyright",
    "etc/penguindome/client.yml",
)
PLACES = {"units": ("lib/systemd/system", "usr/lib/systemd/system", "units"), "cron": ("etc/cron.d", "cron")}
"""Directory in the tar -> where its files lie in packages of Debian, of Arch, or in another tar."""
NOT_FOR_TAR = "-repair.service"
"""dpkg's own repair."""
OWN_FILES = {
    "units": ("penguindome-client-python.path", "penguindome-client-python.service"),
    "cron": ("penguindome-client-python",),
}
"""Directory in the tar -> files that only it has: they make the environment anew after an upgrade of Python."""


def tar_root(unpacked: Unpacked) -> Path:
    """Turn an unpacked package of any kind into what the tar has below `root/`; the tree is moved, not copied."""
    root = unpacked.root.with_name("tar-root")
    (root / TREE).parent.mkdir(parents=True)
    (unpacked.root / TREE).rename(root / TREE)
    for name in FILES:
        _copy_if_there(unpacked.root / name, root / name)
    for target, places in PLACES.items():
        (root / target).mkdir()
        for path in (path for place in places for path in (unpacked.root / place).glob("*")):
            if not path.name.endswith(NOT_FOR_TAR):
                _copy_if_there(path, root / target / path.name)
        for name in OWN_FILES[target]:
            (root / target / name).write_bytes(_own(name))
    return root


def beside(stamp: Stamp, machine: str, bundle: str) -> Mapping[str, tuple[bytes, int]]:
    """The files on top: name -> contents and mode. `bundle` is the text of an enrolment bundle, a secret."""
    version = naming.version(stamp.number, stamp.base)
    said = f"number={stamp.number}\nversion={version}\nmachine={machine}\n"
    return {
        "setup": (_own("setup"), 0o755),
        "release": (said.encode(), 0o644),
        "bundle.json": (bundle.encode(), 0o600),
    }


def _own(name: str) -> bytes:
    directory = files("penguindome_tools.releases") / "tar_files"
    return (directory / {"setup": "setup.sh", "penguindome-client-python": f"{name}.cron"}.get(name, name)).read_bytes()


def _copy_if_there(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
