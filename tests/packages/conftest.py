"""Built packages, and systems on which they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from built import Packages, debian_packages
from roots import Root, fresh_root, layered, layers, require_roots


@pytest.fixture(scope="session")
def packages() -> Packages:
    """The Debian packages of this checkout."""
    require_roots()
    return debian_packages()


@pytest.fixture(scope="session")
def installed(packages: Packages) -> list[Path]:
    """Debian 12 with both packages installed, and nothing answered: see `layered`."""

    def install(root: Root) -> None:
        root.apt("install", str(packages.client), str(packages.server))

    return layered("installed", layers("debian12-ready"), packages.digest, install)


@pytest.fixture
def root(installed: list[Path]) -> Iterator[Root]:
    """A Debian 12 of the test's own with both packages installed."""
    with fresh_root(installed) as made:
        yield made


@pytest.fixture
def ready() -> Iterator[Root]:
    """A Debian 12 of the test's own with what our packages depend on."""
    with fresh_root("debian12-ready") as made:
        yield made
