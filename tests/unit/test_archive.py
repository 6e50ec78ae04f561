"""The inside of backups: what is written comes back, and what nobody should unpack is refused as a whole."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from penguindome import json
from penguindome.times import utc_now
from penguindome_tools import archive
from penguindome_tools.archive import CONTENTS, HEAD, ROOT, SERVICE, STORE, Head, InvalidBackup, Member

HEAD_OF_ALL = Head(
    "0" * 32, utc_now().replace(microsecond=0), "0.1.0", "/", "A" * 40, "https://penguindome.example",
    ({"name": "clients", "documents": 1, "digest": "0" * 64},),
)  # fmt: skip

Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def entry(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, **values: Any
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.uname, info.gname, info.mode, info.size = kind, ROOT, ROOT, 0o600, len(data)
    for key, value in values.items():
        setattr(info, key, value)
    return info, data


def good() -> list[tuple[tarfile.TarInfo, bytes]]:
    return [
        entry(HEAD, HEAD_OF_ALL.to_text().encode()), entry(STORE, b"store"),
        entry("keys", kind=tarfile.DIRTYPE, mode=0o700), entry("keys/a", b"a"),
        entry("releases", kind=tarfile.DIRTYPE), entry("releases/b", b"b" * 100_000),
        entry("repo", kind=tarfile.DIRTYPE), entry("repo/b", kind=tarfile.LNKTYPE, linkname="releases/b"),
        entry("repo/current", kind=tarfile.SYMTYPE, linkname="publications/1"),
    ]  # fmt: skip


def packed(entries: list[tuple[tarfile.TarInfo, bytes]], *, listed: dict[str, str] | None = None) -> bytes:
    """The archive of these entries, with a last member that fits them unless another is given."""
    hashes = {info.name: sha256(data).hexdigest() for info, data in entries if info.isreg()}
    if not any(info.name == CONTENTS for info, _ in entries):
        text = json.dumps({"files": hashes if listed is None else listed}).encode()
        entries = [*entries, entry(CONTENTS, text)]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|gz") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def read(data: bytes) -> dict[str, tuple[Member, bytes | None]]:
    with archive.reading(io.BytesIO(data)) as found:
        return {
            member.name: (member, contents.read() if contents is not None else None)
            for member, contents in found.members()
        }


def test_what_is_written_comes_back() -> None:
    stream = io.BytesIO()
    with archive.writing(stream) as writer:
        writer.add_text(HEAD, HEAD_OF_ALL.to_text())
        writer.add_file(Member(STORE, "file", 0o600, SERVICE, SERVICE), io.BytesIO(b"store"), 5)
        writer.add(Member("settings", "directory", 0o755, ROOT, ROOT))
        writer.add_file(Member("settings/server.yml", "file", 0o640, ROOT, SERVICE), io.BytesIO(b"x: 1\n"), 5)
    found = read(stream.getvalue())
    assert found["settings/server.yml"] == (Member("settings/server.yml", "file", 0o640, ROOT, SERVICE), b"x: 1\n")
    with archive.reading(io.BytesIO(stream.getvalue())) as again:
        assert again.head == HEAD_OF_ALL


def test_a_file_that_shrinks_while_it_is_read_is_no_backup() -> None:
    with pytest.raises(InvalidBackup, match="became shorter"), archive.writing(io.BytesIO()) as writer:
        writer.add_file(Member("keys/a", "file", 0o600, ROOT, ROOT), io.BytesIO(b"short"), 100)


def test_a_good_archive_is_taken() -> None:
    assert read(packed(good()))["repo/b"][0] == Member("repo/b", "hard-link", 0o600, ROOT, ROOT, "releases/b")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry("../etc/passwd", b"x"), "plain relative path"),
        (entry("keys/../../x", b"x"), "plain relative path"),
        (entry("/etc/passwd", b"x"), "plain relative path"),
        (entry("keys//x", b"x"), "plain relative path"),
        (entry("keys/a\x1b[2J", b"x"), "not allowed"),
        (entry("etc/passwd", b"x"), "has no place"),
        (entry("keys", b"x"), "twice"),
        (entry("keys/a", b"x"), "twice"),
        (entry("keys/a/b", b"x"), "lies in no directory"),
        (entry("keys/new/b", b"x"), "lies in no directory"),
        (entry("tls", b"x"), "is no directory"),
        (entry("keys/x", kind=tarfile.SYMTYPE, linkname="/etc/shadow"), "is a symbolic link"),
        (entry("keys/x", kind=tarfile.SYMTYPE, linkname="a"), "is a symbolic link"),
        (entry("keys/x", kind=tarfile.LNKTYPE, linkname="/etc/shadow"), "link to what is not there"),
        (entry("keys/x", kind=tarfile.LNKTYPE, linkname="../../etc/shadow"), "link to what is not there"),
        (entry("keys/x", kind=tarfile.LNKTYPE, linkname="repo/b"), "link to what is not there"),
        (entry("keys/x", kind=tarfile.LNKTYPE, linkname=STORE), "link to what is not there"),
        (entry("keys/x", kind=tarfile.CHRTYPE, devmajor=1, devminor=3), "no file, directory or link"),
        (entry("keys/x", kind=tarfile.BLKTYPE, devmajor=8), "no file, directory or link"),
        (entry("keys/x", kind=tarfile.FIFOTYPE), "no file, directory or link"),
        (entry("keys/x", b"x", mode=0o4755), "set-id"),
        (entry("keys/x", b"x", uname="mallory"), "somebody unknown"),
    ],
)
def test_what_should_not_be_unpacked_is_refused(bad: tuple[tarfile.TarInfo, bytes], reason: str) -> None:
    with pytest.raises(InvalidBackup, match=reason):
        read(packed([*good(), bad]))


def test_the_link_to_the_publication_leads_nowhere_else() -> None:
    entries = good()[:-1]
    for target in ("/", "..", "publications/../../keys", "publications/x", "publications/1/.."):
        with pytest.raises(InvalidBackup, match="symbolic link"):
            read(packed([*entries, entry("repo/current", kind=tarfile.SYMTYPE, linkname=target)]))


def test_contents_that_are_not_those_listed_or_are_missing_are_refused() -> None:
    hashes = {info.name: sha256(data).hexdigest() for info, data in good() if info.isreg()}
    for listed in ({**hashes, "keys/a": "0" * 64}, {**hashes, "keys/b": "0" * 64}, {}):
        with pytest.raises(InvalidBackup, match="not those that it lists"):
            read(packed(good(), listed=listed))
    without = [(info, data) for info, data in good() if info.name != "keys/a"]
    with pytest.raises(InvalidBackup, match="not those that it lists"):
        read(packed(without, listed=hashes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entries: entries.pop(0), f"does not begin with {HEAD}"),
        (lambda entries: entries.pop(1), f"does not begin with {STORE}"),
        (lambda entries: entries.insert(2, entries.pop(0)), "does not begin"),
        (lambda entries: entries.__setitem__(0, entry(HEAD, b"{}")), "no backup of a PenguinDome server"),
        (lambda entries: entries.__setitem__(0, entry(HEAD, b"nonsense")), "not JSON"),
        (
            lambda entries: entries.__setitem__(
                0, entry(HEAD, HEAD_OF_ALL.to_text().replace('"format":1', '"format":2').encode())
            ),
            "format 2",
        ),
    ],
)
def test_an_archive_in_another_order_or_of_another_kind_is_refused(change: Change, reason: str) -> None:
    entries = good()
    change(entries)
    with pytest.raises(InvalidBackup, match=reason):
        read(packed(entries))


def test_an_archive_without_its_end_or_with_more_after_it_is_refused() -> None:
    whole = gzip.decompress(packed(good()))
    end = whole.index(CONTENTS.encode())
    for data in (b"", b"\0" * 10240, whole[:end], whole[: end + 600], whole[:100_000]):
        with pytest.raises(InvalidBackup):
            read(gzip.compress(data))
    more = [*good(), entry(CONTENTS, json.dumps({"files": {}}).encode()), entry("keys/x", b"x")]
    hashes = {info.name: sha256(data).hexdigest() for info, data in good() if info.isreg()}
    more[-2] = entry(CONTENTS, json.dumps({"files": hashes}).encode())
    with pytest.raises(InvalidBackup, match="something after its end"):
        read(packed(more))


@pytest.mark.parametrize("data", [b"", b"nonsense", gzip.compress(b"nonsense" * 1000), packed(good())[:-100]])
def test_what_is_no_archive_is_refused_in_our_words(data: bytes) -> None:
    with pytest.raises(InvalidBackup):
        read(data)
