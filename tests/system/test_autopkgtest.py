"""The tests that Debian's own infrastructure would run, on a booted machine where the packages were installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import debian_packages
from containers import Machine, Site
from roots import require_roots

pytestmark = pytest.mark.timeout(900)

TESTS = Path(__file__).resolve().parents[2] / "debian/tests"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    require_roots()
    packages = debian_packages()
    with Site() as site:
        made = site.prepare("server", "debian12-ready")
        for file in (packages.client, packages.server, TESTS / "smoke", TESTS / "daemon"):
            shutil.copy(file, made.root.at("/var/tmp"))
        made.start()
        made.shell("apt-get install --yes --quiet /var/tmp/*.deb")
        yield made


@pytest.mark.parametrize("name", ["smoke", "daemon"])
def test_what_is_installed_passes_the_tests_of_the_source_package(machine: Machine, name: str) -> None:
    machine.run(f"/var/tmp/{name}")
