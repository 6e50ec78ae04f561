"""What the files of both distributions have to say alike: versions, supported Pythons, licenses."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from penguindome_tools.packaging.wheelhouse import ROLES, locked, requirements

CHECKOUT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]


def read(name: str) -> str:
    return (CHECKOUT / name).read_text()


def test_project_changelogs_and_recipes_have_one_version() -> None:
    in_debian = re.match(r"penguindome \(([^)-]+)-[^)]+\)", read("debian/changelog"))
    in_arch = re.search(r"^pkgver=(\S+)$", read("arch/PKGBUILD"), re.MULTILINE)
    in_changelog = re.search(r"^(?:## \[|To become )(\d+\.\d+\.\d+)", read("CHANGELOG.md"), re.MULTILINE)
    assert [found and found[1] for found in (in_debian, in_arch, in_changelog)] == [VERSION] * 3


@pytest.mark.parametrize("role", ["client", "server"])
def test_the_package_names_the_pythons_that_it_has_wheels_for(role: str) -> None:
    stanza = read("debian/control").partition(f"Package: penguindome-{role}\n")[2].partition("\nPackage:")[0]
    oldest, newest = ROLES[role][0], ROLES[role][-1]
    assert f"python3 (>= 3.{oldest})" in stanza
    assert f"It runs on Python 3.{oldest} to 3.{newest}." in stanza


def test_each_library_that_packages_carry_has_its_copyright_and_a_license() -> None:
    text = read("debian/copyright")
    stanzas = {
        found[1]: found[2]
        for found in re.finditer(
            r"^Files: wheelhouse/wheels/(\w+)-\*\.whl\nCopyright: .+\nLicense: (.+)$", text, re.MULTILINE
        )
    }
    entries = [entry for role in ("client", "server") for entry in locked(read(f"tools/locks/{role}.txt"))]
    carried = {entry.partition("==")[0].replace("-", "_") for entry in entries} | {"pip"}
    assert set(stanzas) == carried
    explained = set(re.findall(r"^License: (\S+)\n ", text, re.MULTILINE))
    assert {name for terms in stanzas.values() for name in terms.split(" and ")} <= explained


def test_tests_of_autopkgtest_are_programs() -> None:
    names = re.findall(r"^Tests: (.*)$", read("debian/tests/control"), re.MULTILINE)
    assert names
    assert [name for name in names if not os.access(CHECKOUT / "debian/tests" / name, os.X_OK)] == []


def test_requirements_keep_only_hashes_of_wheels_that_are_there() -> None:
    first, second = "a" * 64, "b" * 64
    lock = f"# made\npenguin==1 \\\n    --hash=sha256:{first} \\\n    --hash=sha256:{second}\n"
    assert requirements(lock, {second: "penguin-1-py3-none-any.whl"}) == f"penguin==1 \\\n    --hash=sha256:{second}\n"
    with pytest.raises(SystemExit, match="no wheel of penguin==1"):
        requirements(lock, {})
