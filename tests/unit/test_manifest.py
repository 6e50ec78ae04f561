"""Signed manifests: nothing runs that they do not name with the right hash."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome import json, manifest
from penguindome.errors import ManifestError, SignatureError
from penguindome.manifest import Manifest, Problem
from penguindome.openpgp import DeviceKey

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
NAMES = ("plugins/os_info.py", "plugins/sshd", "penguindome/json.py")


@pytest.fixture(scope="module")
def key() -> DeviceKey:
    """A key that signs manifests."""
    return DeviceKey.generate("signer")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small installation."""
    root = tmp_path / "tree"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"contents of {name}")
        (root / name).chmod(0o755)
    return root


@pytest.fixture
def signed(tree: Path, key: DeviceKey) -> Manifest:
    """The manifest of the installation."""
    data = build(tree)
    return Manifest.load(data, key.sign(data), key.certificate)


def build(tree: Path, names: tuple[str, ...] = NAMES) -> bytes:
    return manifest.build(tree, names, kind="release", release=7, issued_at=NOW, expires_at=NOW + timedelta(days=30))


def content(**changes: Any) -> dict[str, Any]:
    entry = {"sha256": "0" * 64, "size": 1, "mode": "0755"}
    return {
        "format": 1,
        "kind": "release",
        "release": 0,
        "issued_at": NOW,
        "expires_at": NOW + timedelta(days=1),
        "files": {"a": entry},
        **changes,
    }


def entry(**changes: Any) -> dict[str, Any]:
    return {"files": {"a": {"sha256": "0" * 64, "size": 1, "mode": "0755", **changes}}}


def test_what_was_built_and_signed_is_loaded(tree: Path, signed: Manifest) -> None:
    assert (signed.kind, signed.release, signed.issued_at, signed.expires_at) == (
        "release",
        7,
        NOW,
        NOW + timedelta(days=30),
    )
    assert set(signed.files) == set(NAMES)
    assert signed.sha256 == sha256(build(tree)).hexdigest()
    assert manifest.verify_tree(signed, tree) == []


def test_one_tree_has_one_manifest(tree: Path) -> None:
    assert build(tree) == build(tree, NAMES[::-1])


def test_a_manifest_signed_by_another_is_refused(tree: Path, key: DeviceKey) -> None:
    data = build(tree)
    with pytest.raises(SignatureError):
        Manifest.load(data, DeviceKey.generate("another").sign(data), key.certificate)


def test_a_changed_manifest_is_refused_before_it_is_parsed(tree: Path, key: DeviceKey) -> None:
    signature = key.sign(build(tree))
    for data in (build(tree) + b" ", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(SignatureError):
            Manifest.load(data, signature, key.certificate)


@pytest.mark.parametrize(
    "wrong",
    [
        content(format=2),
        content(format=True),
        content(format="1"),
        content(kind=""),
        content(kind=1),
        content(release=-1),
        content(release=1.0),
        content(release=True),
        content(release=None),
        content(issued_at="yesterday"),
        content(expires_at=NOW),
        content(files=[]),
        content(files=None),
        content(more=1),
        {},
        {key: value for key, value in content().items() if key != "release"},
        [],
        None,
        "text",
        content(files={"a": "0" * 64}),
        content(**entry(sha256="0" * 63)),
        content(**entry(sha256="A" * 64)),
        content(**entry(sha256="0" * 64 + "\n")),
        content(**entry(size=-1)),
        content(**entry(size="1")),
        content(**entry(size=True)),
        content(**entry(mode="755")),
        content(**entry(mode="4755")),
        content(**entry(mode=493)),
        content(**entry(link="b")),
    ],
)
def test_a_signed_text_that_is_no_manifest_is_refused(key: DeviceKey, wrong: Any) -> None:
    data = json.dumps(wrong).encode()
    with pytest.raises(ManifestError):
        Manifest.load(data, key.sign(data), key.certificate)


def test_a_signed_text_that_is_no_json_is_refused(key: DeviceKey) -> None:
    for data in (b"", b"{", b"\xff", b"[" * 100_000, b"NaN"):
        with pytest.raises(ManifestError):
            Manifest.load(data, key.sign(data), key.certificate)


def test_a_huge_manifest_is_refused_unseen(key: DeviceKey) -> None:
    with pytest.raises(ManifestError, match="large"):
        Manifest.load(b" " * (manifest.LARGEST + 1), b"", key.certificate)


BAD_NAMES = [
    "",
    "/etc/passwd",
    "../x",
    "a/../b",
    "a/..",
    "..",
    ".",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "a\\b",
    "..\\a",
    "a\0b",
    "a\nb",
    "a\x1b[31m",
    "a\u202eb",
    "a\ud800",
    "x" * 256,
    "/".join(["x" * 100] * 11),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_signed_name_that_leads_elsewhere_is_refused(key: DeviceKey, name: str) -> None:
    data = json.dumps(content(files={name: entry()["files"]["a"]})).encode()
    with pytest.raises(ManifestError):
        Manifest.load(data, key.sign(data), key.certificate)


@pytest.mark.parametrize("name", [None, 1, b"a", ["a"]])
def test_a_name_is_text(name: object) -> None:
    with pytest.raises(ManifestError):
        manifest.check_name(name)


def test_a_file_that_is_also_a_directory_is_refused(key: DeviceKey) -> None:
    both = dict.fromkeys(["a", "a/b"], entry()["files"]["a"])
    data = json.dumps(content(files=both)).encode()
    with pytest.raises(ManifestError, match="both"):
        Manifest.load(data, key.sign(data), key.certificate)


COMPONENTS = (
    st.sampled_from(["a", "..", ".", "", "...", "~", "a b", "-rf", "é", "\\", "\0", "\n", "a/b", "/"]) | st.text()
)


@given(st.lists(COMPONENTS, min_size=1, max_size=5).map("/".join))
def test_whatever_name_is_accepted_stays_below_the_root(name: str) -> None:
    try:
        manifest.check_name(name)
    except ManifestError:
        return
    joined = os.path.normpath(f"/root-of-tree/{name}")
    assert joined == f"/root-of-tree/{name}"
    assert "\0" not in name
    assert "\n" not in name
    name.encode("utf-8")


@given(st.lists(st.from_regex(r"[a-z_][a-z0-9_.-]{0,20}", fullmatch=True), min_size=1, max_size=5).map("/".join))
def test_plain_names_are_accepted(name: str) -> None:
    manifest.check_name(name)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "missing"),
    "changed": (lambda path: path.write_text("contents of plugins/SSHD"), "changed"),
    "longer": (lambda path: path.write_text(path.read_text() + "x"), "changed"),
    "mode": (lambda path: path.chmod(0o4755), "mode"),
    "fifo": (lambda path: (path.unlink(), os.mkfifo(path)), "not-regular"),
    "directory": (lambda path: (path.unlink(), path.mkdir()), "not-regular"),
    "link": (lambda path: (path.rename(path.parent.parent / "moved"), path.symlink_to("../moved")), "link"),
    "dangling": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "link"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_not_as_signed_is_found_and_not_opened(tree: Path, signed: Manifest, change: str) -> None:
    alter, reason = CHANGES[change]
    alter(tree / "plugins/sshd")
    assert manifest.verify_tree(signed, tree) == [Problem("plugins/sshd", reason)]
    with pytest.raises(ManifestError, match=f"plugins/sshd: {reason}"):
        manifest.open_verified(signed, tree, "plugins/sshd")


def test_a_directory_that_is_a_link_is_found(tree: Path, signed: Manifest) -> None:
    (tree / "plugins").rename(tree / "elsewhere")
    (tree / "plugins").symlink_to("elsewhere")
    reasons = {problem.path: problem.reason for problem in manifest.verify_tree(signed, tree)}
    assert reasons["plugins/sshd"] == reasons["plugins/os_info.py"] == "link"
    with pytest.raises(ManifestError, match="link"):
        manifest.open_verified(signed, tree, "plugins/sshd")


def test_the_root_itself_may_be_a_link(tree: Path, signed: Manifest, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    assert manifest.verify_tree(signed, tmp_path / "link") == []


@pytest.mark.parametrize("name", ["plugins/extra", "plugins/deep/er/extra", "commands/extra", "plugins/.hidden"])
def test_an_unsigned_file_where_files_run_is_found(tree: Path, signed: Manifest, name: str) -> None:
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).touch()
    assert manifest.verify_tree(signed, tree) == [Problem(name, "unsigned")]
    with pytest.raises(ManifestError, match="unsigned"):
        manifest.open_verified(signed, tree, name)


def test_an_unsigned_link_where_files_run_is_found(tree: Path, signed: Manifest) -> None:
    (tree / "plugins/extra").symlink_to("/usr/bin")
    assert manifest.verify_tree(signed, tree) == [Problem("plugins/extra", "unsigned")]


def test_other_files_and_caches_are_nobodys_business(tree: Path, signed: Manifest) -> None:
    for name in ("README", "penguindome/extra.py", "plugins/__pycache__/os_info.cpython-311.pyc"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    assert manifest.verify_tree(signed, tree) == []


def test_a_missing_tree_is_missing_files(signed: Manifest, tmp_path: Path) -> None:
    assert [problem.reason for problem in manifest.verify_tree(signed, tmp_path / "none")] == ["missing"] * 3


def test_what_is_opened_is_what_was_signed(tree: Path, signed: Manifest) -> None:
    assert manifest.open_verified(signed, tree, "plugins/sshd") == b"contents of plugins/sshd"


@pytest.mark.parametrize("name", ["none", "../tree/plugins/sshd", "/etc/passwd", "plugins"])
def test_nothing_else_is_built_into_a_manifest(tree: Path, name: str) -> None:
    with pytest.raises(ManifestError):
        build(tree, (name,))


def test_a_link_is_not_built_into_a_manifest(tree: Path) -> None:
    (tree / "plugins/link").symlink_to("sshd")
    with pytest.raises(ManifestError, match="plugins/link: link"):
        build(tree, ("plugins/link",))


def test_code_is_looked_for_where_the_package_lies(tmp_path: Path, key: DeviceKey) -> None:
    tree, packages = tmp_path / "tree", tmp_path / "site-packages"
    (tree / "code").mkdir(parents=True)
    (packages / "penguindome").mkdir(parents=True)
    module = packages / "penguindome/paths.py"
    module.write_text("here = 1\n")
    places = {"code": packages}
    data = manifest.build(
        tree, ["code/penguindome/paths.py"], kind="release", release=7, issued_at=NOW,
        expires_at=NOW + timedelta(days=30), places=places,
    )  # fmt: skip
    signed = Manifest.load(data, key.sign(data), key.certificate)
    assert manifest.verify_tree(signed, tree, places=places) == []
    assert manifest.open_verified(signed, tree, "code/penguindome/paths.py", places=places) == b"here = 1\n"
    module.write_text("here = 2\n")
    problem = Problem("code/penguindome/paths.py", "changed")
    assert manifest.verify_tree(signed, tree, places=places) == [problem]
    # Without that place it is a file of the tree as any other.
    assert manifest.verify_tree(signed, tree) == [Problem("code/penguindome/paths.py", "missing")]
