"""Build the packages of Arch: `python -m penguindome_tools.packaging.pacman [--output DIRECTORY] [--version VERSION]`.

They are built by makepkg, on Arch or on Debian, one after the other, because the server's carries the client's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from penguindome_tools.packaging import client_packages, wheelhouse
from penguindome_tools.packaging.makepkg import SUFFIX, build_package
from penguindome_tools.packaging.sources import CACHE, export, options


def main() -> None:
    """Build into `dist/`, or where `--output` says, and name the packages."""
    asked = options("Build the packages of Arch.").parse_args()
    for package in build(asked.output, version=asked.version, cache=asked.cache):
        print(package)


def build(output: Path, *, version: str | None = None, cache: Path = CACHE) -> list[Path]:
    """Build both packages; returns their files in `output`, the client's first."""
    wheelhouse.main()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="penguindome-sources-") as directory:
        source = Path(directory) / "penguindome"
        export(source, version=version)
        (client,) = (path for path in client_packages.add_to(source, cache) if path.name.endswith(SUFFIX))
        shutil.copyfile(client, output / client.name)
        return [output / client.name, build_package(source, "server", output)]


if __name__ == "__main__":
    main()
