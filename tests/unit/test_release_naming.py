"""Versions of releases: dpkg and pacman themselves order them by number."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable

import pytest

from needs import require_program
from penguindome.release import InvalidRelease
from penguindome_tools.releases.naming import base_of, deb_version, file_name, machine_of, pacman_version

RISING = [(1, "0.1.0"), (2, "0.1.0"), (9, "0.2.0"), (10, "0.1.0"), (11, "0.1.0~rc1"), (12, "0.1.0"), (100, "0.0.9")]
BASES = ["0.1.0-1", "0.9-1", "9.9.9-9", "2026.12-1", "1000-1"]


def dpkg_is_older(first: str, second: str) -> bool:
    words = [require_program("dpkg"), "--compare-versions", first, "lt", second]
    return subprocess.run(words, check=False).returncode == 0


def pacman_is_older(first: str, second: str) -> bool:
    words = [require_program("vercmp"), first, second]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) < 0


@pytest.mark.parametrize(
    ("version", "is_older"), [(deb_version, dpkg_is_older), (pacman_version, pacman_is_older)], ids=["dpkg", "pacman"]
)
class TestOrder:
    def test_a_higher_number_is_newer_whatever_the_client_inside(
        self, version: Callable[[int, str], str], is_older: Callable[[str, str], bool]
    ) -> None:
        versions = [version(number, base) for number, base in RISING]
        for older, newer in itertools.pairwise(versions):
            assert is_older(older, newer), (older, newer)
            assert not is_older(newer, older), (older, newer)

    def test_a_release_is_newer_than_any_package_that_is_none(
        self, version: Callable[[int, str], str], is_older: Callable[[str, str], bool]
    ) -> None:
        for base in BASES:
            assert is_older(base, version(1, "0.1.0")), base


@pytest.mark.parametrize(
    "text", ["0.1.0", "0.1.0-1", "0.1.0-1ubuntu2", "5+0.1.0", "1:5+0.1.0", "1:5+0.1.0-1", "1:12345+0.1.0-1"]
)
def test_the_base_version_is_found_in_all_versions(text: str) -> None:
    assert base_of(text) == "0.1.0"


@pytest.mark.parametrize("text", ["", "a", "1:", "0.1 0", "1:5+", "5+6+0.1", "0.1/0", "-1", "0.1\n", "1" * 80])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidRelease):
        base_of(text)


def test_the_files_are_named_as_the_tools_would() -> None:
    assert file_name("deb", 5, "0.1.0", "amd64") == "penguindome-client_5+0.1.0_amd64.deb"
    assert file_name("pacman", 5, "0.1.0", "x86_64") == "penguindome-client-1:5+0.1.0-1-x86_64.pkg.tar.zst"
    assert file_name("tar", 5, "0.1.0", "amd64") == "penguindome-client-5+0.1.0.tar"


def test_both_distributions_words_for_a_machine_are_one() -> None:
    assert machine_of("amd64") == machine_of("x86_64") == "x86_64"
    with pytest.raises(InvalidRelease):
        machine_of("all")
