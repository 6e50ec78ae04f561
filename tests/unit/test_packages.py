"""Lists of packages are kept apart from the report, and changed by what differs."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penguindome_server import packages
from penguindome_server.compare import Change


def listing(*entries: tuple[str, str] | tuple[str, str, str]) -> dict[str, Any]:
    keys = ("name", "version", "architecture")
    return {"manager": "dpkg", "packages": [dict(zip(keys, entry, strict=False)) for entry in entries]}


def stored(output: dict[str, Any]) -> dict[str, Any]:
    return packages.apply(None, packages.delta(None, output), "A")


def test_changes_are_told_by_the_name_of_the_package() -> None:
    old = stored(listing(("bash", "5.2"), ("python3.11", "3.11.2"), ("vim", "9")))
    new = listing(("bash", "5.3"), ("python3.11", "3.11.2"), ("zsh", "5"))
    assert list(packages.changes(old, new)) == [
        Change("packages.bash", "changed", "5.2", "5.3"),
        Change("packages.vim", "removed", old="9"),
        Change("packages.zsh", "added", new="5"),
    ]


def test_one_library_of_two_architectures_is_two_packages() -> None:
    old = stored(listing(("libc6", "1", "amd64"), ("libc6", "1", "i386")))
    new = listing(("libc6", "2", "amd64"), ("libc6", "1", "i386"))
    assert list(packages.changes(old, new)) == [Change("packages.libc6:amd64", "changed", "1", "2")]


def test_several_installed_kernels_are_one_row_with_all_versions() -> None:
    old = stored(listing(("kernel", "6.1"), ("kernel", "6.2")))
    new = listing(("kernel", "6.3"), ("kernel", "6.2"))
    assert list(packages.changes(old, new)) == [Change("packages.kernel", "changed", "6.1, 6.2", "6.2, 6.3")]


def test_another_order_is_no_change() -> None:
    old = stored(listing(("a", "1"), ("b", "2")))
    new = listing(("b", "2"), ("a", "1"))
    assert list(packages.changes(old, new)) == []
    assert packages.delta(old, new) == {"manager": "dpkg", "set": [], "unset": []}


def test_what_is_no_list_of_packages_is_left_alone() -> None:
    for output in ("unknown", None, {"packages": "x"}, {"packages": [{"name": 1}]}, {"packages": ["bash"]}, []):
        assert not packages.is_list(output)
    assert packages.is_list({"packages": []})


def test_hostile_versions_do_no_harm() -> None:
    output = {"manager": {"$gt": ""}, "packages": [{"name": "a", "version": {"x": [1]}}, {"name": "a"}]}
    assert packages.summary(output) == {"manager": None, "count": 2}
    assert stored(output)["packages"] == [{"name": "a"}, {"name": "a", "version": {"x": [1]}}]


NAMES = st.sampled_from(["a", "b", "c.d", "$e"])
LISTS = st.lists(
    st.tuples(NAMES, st.sampled_from(["1", "2"])) | st.tuples(NAMES, st.just("1"), st.sampled_from(["x", "y"]))
)


@given(LISTS, LISTS)
def test_applying_a_delta_gives_the_new_list_and_applying_it_again_changes_nothing(old: Any, new: Any) -> None:
    before, output = stored(listing(*old)), listing(*new)
    delta = packages.delta(before, output)
    after = packages.apply(before, delta, "A")
    assert after == stored(output)
    assert packages.apply(after, delta, "A") == after
    assert bool(list(packages.changes(before, output))) <= bool(delta["set"] or delta["unset"])
