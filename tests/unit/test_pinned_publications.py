"""Which publication a connection sees, and for how long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penguindome_server.publication import PINNED_SECONDS, Publications
from penguindome_server.tree_files import are_names
from published import publish

FILE = ("arch", "penguindome.db")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def read(publications: Publications, memory: dict[str, object] | None) -> bytes:
    file = publications.open(FILE, memory)
    try:
        return os.read(file.descriptor, file.size)
    finally:
        file.close()


def test_a_connection_keeps_its_publication_for_two_minutes_and_others_do_not(tmp_path: Path) -> None:
    clock = Clock()
    publications, memory = Publications(tmp_path, monotonic=clock), dict[str, object]()
    publish(tmp_path, 1, {"arch/penguindome.db": b"1"})
    assert read(publications, memory) == b"1"
    publish(tmp_path, 2, {"arch/penguindome.db": b"2"})
    clock.now += PINNED_SECONDS - 1
    assert (read(publications, memory), read(publications, {}), read(publications, None)) == (b"1", b"2", b"2")
    clock.now += 1
    assert read(publications, memory) == b"2"


def test_nothing_published_is_nothing_found(tmp_path: Path) -> None:
    publications = Publications(tmp_path)
    with pytest.raises(FileNotFoundError):
        publications.open(FILE, {})
    (tmp_path / "current").symlink_to("publications/1")
    with pytest.raises(FileNotFoundError):
        publications.open(FILE, {})


@pytest.mark.parametrize("name", [
    "", ".", "..", ".x", "-x", "a/b", "a\0", "a\n", "a b", "ä", "a\\b", "a%2f", "a?", "x" * 256,
])  # fmt: skip
def test_odd_names_are_no_names(name: str) -> None:
    assert not are_names((name,))
    assert not are_names(("apt", name, "x"))


def test_names_of_packages_are_names() -> None:
    assert are_names(("pool", "penguindome-client-1:5+0.1.0~rc1-1-x86_64.pkg.tar.zst.sig"))
