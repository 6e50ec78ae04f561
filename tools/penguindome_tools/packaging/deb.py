"""Build the Debian packages: `python -m penguindome_tools.packaging.deb [--output DIRECTORY] [--version VERSION]`.

They are built by dpkg-buildpackage in a copy of the checkout, so that nothing is left behind in it, from what git knows
or would take up, the wheelhouse, and the client's packages that the server's carries. Two builds of the same sources
are the same, byte by byte.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from penguindome_tools.packaging import client_packages, wheelhouse
from penguindome_tools.packaging.dpkg import build_debs
from penguindome_tools.packaging.sources import CACHE, export, options


def main() -> None:
    """Build into `dist/`, or where `--output` says, and name the packages."""
    asked = options("Build the Debian packages.").parse_args()
    for package in build(asked.output, version=asked.version, cache=asked.cache):
        print(package)


def build(output: Path, *, version: str | None = None, cache: Path = CACHE) -> list[Path]:
    """Build both packages; returns their files in `output`, the client's first."""
    wheelhouse.main()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="penguindome-deb-") as directory:
        source = Path(directory) / "penguindome"
        export(source, version=version)
        client_packages.add_to(source, cache)
        return build_debs(source, output)


if __name__ == "__main__":
    main()
