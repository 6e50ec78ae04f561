"""Releases and repositories, served by a real server to curl and others."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from needs import require_program
from penguindome.times import utc_now
from published import publish, release
from web_server import PREFIX, Server, refused, until

INDEX = b"Origin: a site\n" * 20
PACKAGE = os.urandom(3_000_000)
PACKAGES = b"Package: penguindome-client\n"
BY_HASH = hashlib.sha256(PACKAGES).hexdigest()
NAME = "penguindome-client-1:1+0.1.0-1-x86_64.pkg.tar.zst"
FILES = {
    "apt/dists/stable/InRelease": INDEX,
    f"apt/dists/stable/main/binary-amd64/by-hash/SHA256/{BY_HASH}": PACKAGES,
    "apt/pool/main/penguindome-client_1+0.1.0_amd64.deb": PACKAGE,
    "arch/penguindome.db": b"db 1",
    "arch/penguindome.db.sig": b"sig 1",
    f"arch/{NAME}": PACKAGE,
}
POOL = "apt/pool/main/penguindome-client_1+0.1.0_amd64.deb"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one publication; tests leave it as it is."""
    root = tmp_path_factory.mktemp("site")
    server = Server(root, f"sqlite://{root}/store.sqlite")
    publish(server.paths.repository, 1, FILES)
    try:
        server.start(enrolment__policy="automatic", workers=1, metrics__ipranges=["127.0.0.1"])
        release(server, 1, size=700_000)
        yield server
    finally:
        server.kill()


@pytest.fixture
def own_site(server: Server) -> Server:
    """A server of the test's own, with one publication."""
    publish(server.paths.repository, 1, FILES)
    return server.start(workers=1)


def get(server: Server, path: str, **options: Any) -> requests.Response:
    return requests.get(f"{server.url}{PREFIX}{path}", timeout=20, **options)


def curl(server: Server, path: str, *words: str, status: int = 0) -> bytes:
    done = subprocess.run(
        [require_program("curl"), "-sS", "--fail", "--max-time", "60", *words, f"{server.url}{PREFIX}{path}"],
        capture_output=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout


# What is served.


def test_every_file_of_a_publication_is_served_under_both_prefixes_as_what_it_is(site: Server) -> None:
    types = {"InRelease": "text/plain; charset=utf-8", ".deb": "application/vnd.debian.binary-package",
             ".zst": "application/zstd", ".sig": "application/pgp-signature"}  # fmt: skip
    for prefix in ("/penguindome/v1/", "/PenguinDome/v1/"):
        for name, contents in FILES.items():
            answer = requests.get(f"{site.url}{prefix}repo/{name}", timeout=20)
            assert (answer.status_code, answer.content) == (200, contents)
            expected = next((kind for end, kind in types.items() if name.endswith(end)), "application/octet-stream")
            assert answer.headers["Content-Type"] == expected
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_package_manager_may_write_the_odd_characters_of_a_name_as_it_likes(site: Server) -> None:
    for name in (NAME, NAME.replace("+", "%2b").replace(":", "%3A"), NAME.replace(":", "%3a")):
        assert get(site, f"repo/arch/{name}").content == PACKAGE


def test_head_tells_what_get_would_and_the_connection_goes_on(site: Server) -> None:
    with requests.Session() as session:
        url = f"{site.url}{PREFIX}repo/{POOL}"
        asked, told = session.head(url, timeout=20), session.get(url, timeout=20)
        for header in ("Content-Length", "ETag", "Last-Modified", "Content-Type"):
            assert asked.headers[header] == told.headers[header]
        assert (asked.content, told.content) == (b"", PACKAGE)


def test_an_etag_tells_the_contents_where_they_are_known(site: Server) -> None:
    name = f"apt/dists/stable/main/binary-amd64/by-hash/SHA256/{BY_HASH}"
    assert get(site, f"repo/{name}").headers["ETag"] == f'"{BY_HASH}"'
    answer = get(site, "download_release?format=deb")
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'


def test_what_a_reader_has_already_is_not_sent_again(site: Server) -> None:
    path = "repo/apt/dists/stable/InRelease"
    first = get(site, path)
    for condition in (
        {"If-None-Match": first.headers["ETag"]},
        {"If-Modified-Since": first.headers["Last-Modified"]},
    ):
        with requests.Session() as session:
            answer = session.get(f"{site.url}{PREFIX}{path}", headers=condition, timeout=20)
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["ETag"] == first.headers["ETag"]
            assert session.get(f"{site.url}{PREFIX}{path}", timeout=20).content == INDEX


def test_parts_are_served_as_asked_and_what_is_beyond_the_end_is_refused(site: Server) -> None:
    answer = get(site, f"repo/{POOL}", headers={"Range": "bytes=1000000-1999999"})
    assert (answer.status_code, answer.content) == (206, PACKAGE[1_000_000:2_000_000])
    assert answer.headers["Content-Range"] == f"bytes 1000000-1999999/{len(PACKAGE)}"
    answer = get(site, f"repo/{POOL}", headers={"Range": f"bytes={len(PACKAGE)}-"})
    refused(answer, 416, "range-not-satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(PACKAGE)}"
    refused(get(site, f"repo/{POOL}", headers={"If-Match": '"x"'}), 412, "precondition-failed")


def test_curl_resumes_a_download_where_it_was_cut(site: Server, tmp_path: Path) -> None:
    file = tmp_path / "package.deb"
    file.write_bytes(PACKAGE[:1_234_567])
    curl(site, f"repo/{POOL}", "--continue-at", "-", "--output", str(file))
    assert file.read_bytes() == PACKAGE


# Releases.


@pytest.mark.parametrize("form", ["deb", "pacman", "pacman.sig", "tar.asc"])
def test_the_newest_release_is_downloaded_by_its_own_name(site: Server, form: str, tmp_path: Path) -> None:
    curl(
        site, f"download_release?format={form}", "--remote-name", "--remote-header-name", "--output-dir", str(tmp_path)
    )
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == (site.paths.releases / "1" / file.name).read_bytes()
    assert "1+0.1.0" in file.name


def test_which_release_is_the_newest_is_for_the_database_to_say_and_any_can_be_named(server: Server) -> None:
    server.start(workers=1)
    refused(get(server, "download_release?format=deb"), 404, "not-found")
    contents = {
        2: release(server, 2),
        10: release(server, 10),
        11: release(server, 11, promoted_at=None, stage={"percent": 10, "clients": []}),
        12: release(server, 12, halted_at=utc_now()),
        13: release(server, 13, pruned_at=utc_now()),
    }
    until(lambda: get(server, "download_release?format=deb").content == contents[10]["deb"])
    for number, of_release in contents.items():
        assert get(server, f"download_release?format=pacman&release={number}").content == of_release["pacman"]
    refused(get(server, "download_release?format=deb&release=3"), 404, "not-found")
    promoted = {"promoted_at": utc_now()}
    server.store.collection("releases").update("000000011", lambda document: {**(document or {}), **promoted})
    until(lambda: get(server, "download_release?format=deb").content == contents[11]["deb"])


@pytest.mark.parametrize(
    "query",
    ["format=rpm", "format=deb&format=tar", "format=", "release=0&format=deb", "release=-1&format=deb", "x",
     "format=deb&x=1", "format=deb&release=01", "format=deb&release=1e3", "format=deb&release=../1",
     "format=deb&release=%00", "&&&&"],
)  # fmt: skip
def test_a_query_that_asks_for_nothing_there_can_be_is_refused(site: Server, query: str) -> None:
    refused(get(site, f"download_release?{query}"), 422, "invalid")


# What is not served.


def test_no_path_leads_out_of_the_tree_or_to_anything_but_a_file(own_site: Server, tmp_path: Path) -> None:
    repository = own_site.paths.repository
    tree = repository / "publications/1/apt"
    outside = tmp_path / "secret"
    outside.write_text("secret")
    (tree / "link").symlink_to(outside)
    (tree / "up").symlink_to("../../../..")
    (tree / "here").symlink_to("pool/main")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as local:
        directory = os.open(tree, os.O_RDONLY)
        local.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    (tree / ".hidden").write_text("secret")
    (repository / "other").write_text("secret")
    paths = [
        "apt", "apt/", "apt/pool", "apt/pool/", "apt/pool/main/", "", "/", "arch/", "apt//dists/stable/InRelease",
        "apt/./dists/stable/InRelease", "apt/dists/../dists/stable/InRelease", "apt/link", "apt/up/secret",
        "apt/here/penguindome-client_1+0.1.0_amd64.deb", "apt/pipe", "apt/socket", "apt/.hidden",
        "apt/pool/main/nothing",
        "apt/dists/stable/InRelease/", "apt/dists/stable/InRelease/x", "../repo/other", "other", "current/apt/link",
        "apt/dists%2fstable%2fInRelease", "apt/dists%2Fstable/InRelease", "apt/..%2f..%2f..%2fother",
        "apt/%2e%2e/%2e%2e/%2e%2e/other", "apt/dists/stable/InRelease%00", "apt/dists/stable/InRelease%00.gz",
        "apt/%252e%252e/other", "apt\\dists\\stable\\InRelease", "apt%5c..%5cother", "apt/" + "a/" * 100,
        "apt/" + "x" * 3000,
        "apt/dists/stable/InRelease%0a", "apt/dists/stable/InRelease%20", "APT/dists/stable/InRelease", "apt/%ff",
        "apt/dists/stable/..", "publications/1/apt/dists/stable/InRelease", "etc/passwd", "//etc/passwd", "apt/~root/x",
    ]  # fmt: skip
    for path in paths:
        with socket.create_connection(("127.0.0.1", own_site.port), timeout=20) as connection:
            connection.sendall(
                f"GET {PREFIX}repo/{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode("latin-1")
            )
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 404 "), (path, answer)
        assert b'"not-found"' in answer
        assert b"secret" not in answer
    assert get(own_site, f"repo/{POOL}").content == PACKAGE
    assert "Traceback" not in own_site.log()


@pytest.mark.parametrize("target", ["/etc", "../../..", "publications/1/../..", "publications/1/apt", "publications/x"])
def test_current_is_followed_to_a_publication_and_nowhere_else(own_site: Server, target: str) -> None:
    repository = own_site.paths.repository
    for directory in ("apt", "publications/1/apt/apt"):
        (repository / directory).mkdir(parents=True, exist_ok=True)
        (repository / directory / "file").write_text("secret")
    (repository / "current").unlink()
    (repository / "current").symlink_to(target)
    refused(get(own_site, "repo/apt/file"), 404, "not-found")
    (repository / "current").unlink()
    refused(get(own_site, f"repo/{POOL}"), 404, "not-found")


def test_what_root_published_unreadable_is_said_in_the_log(own_site: Server) -> None:
    own_site.paths.releases.joinpath("7").mkdir()
    (own_site.paths.releases / "7/release.json").write_text("{}")
    refused(get(own_site, "download_release?format=deb&release=7"), 404, "not-found")
    assert "release 7 has no usable description" in own_site.log()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_files_are_read_and_nothing_else(site: Server, method: str) -> None:
    for path in (f"repo/{POOL}", "download_release"):
        answer = requests.request(method, f"{site.url}{PREFIX}{path}", timeout=20)
        refused(answer, 405, "method-not-allowed")
        assert answer.headers["Allow"] == "GET"


# One publication for each connection.


@dataclass
class Reader:
    session: requests.Session
    server: Server

    def __call__(self, path: str) -> bytes:
        answer = self.session.get(f"{self.server.url}{PREFIX}repo/{path}", timeout=20)
        return answer.content if answer.status_code == 200 else b""


@pytest.fixture
def reader(own_site: Server) -> Iterator[Callable[[str], bytes]]:
    with requests.Session() as session:
        yield Reader(session, own_site)


def test_one_connection_sees_one_publication_while_the_next_is_published(
    own_site: Server, reader: Callable[[str], bytes]
) -> None:
    assert reader("arch/penguindome.db") == b"db 1"
    publish(own_site.paths.repository, 2, {"arch/penguindome.db": b"db 2", "arch/penguindome.db.sig": b"sig 2"})
    assert get(own_site, "repo/arch/penguindome.db").content == b"db 2"
    assert (reader("arch/penguindome.db.sig"), reader("arch/penguindome.db")) == (b"sig 1", b"db 1")


def test_a_connection_goes_on_with_the_current_publication_when_its_own_is_removed(
    own_site: Server, reader: Callable[[str], bytes]
) -> None:
    assert reader("arch/penguindome.db") == b"db 1"
    publish(own_site.paths.repository, 2, {"arch/penguindome.db": b"db 2", "arch/penguindome.db.sig": b"sig 2"})
    (own_site.paths.repository / "publications/1").rename(own_site.paths.repository / "gone")
    assert (reader("arch/penguindome.db.sig"), reader("arch/penguindome.db")) == (b"sig 2", b"db 2")
    (own_site.paths.repository / "gone").rename(own_site.paths.repository / "publications/1")
    assert reader("arch/penguindome.db") == b"db 2"


def test_a_file_that_is_being_read_is_read_to_its_end_though_it_is_replaced(own_site: Server) -> None:
    answer = get(own_site, f"repo/{POOL}", stream=True)
    path = own_site.paths.repository / "publications/1" / POOL
    path.unlink()
    path.write_bytes(b"other")
    assert b"".join(answer.iter_content(65536)) == PACKAGE


# What is counted.


def test_downloads_are_counted_by_kind_and_outcome(own_site: Server) -> None:
    etag = get(own_site, f"repo/{POOL}").headers["ETag"]
    get(own_site, f"repo/{POOL}", headers={"If-None-Match": etag})
    get(own_site, "repo/apt/nothing")
    get(own_site, f"repo/{POOL}", headers={"Range": "bytes=0-9"})
    requests.head(f"{own_site.url}{PREFIX}repo/{POOL}", timeout=20)
    get(own_site, "download_release?format=tar")

    def counted() -> dict[str, float]:
        lines = get(own_site, "metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    expected = {
        'penguindome_downloads_total{kind="apt",outcome="complete"}': 2,
        'penguindome_downloads_total{kind="apt",outcome="unchanged"}': 1,
        'penguindome_downloads_total{kind="apt",outcome="not-found"}': 1,
        'penguindome_downloads_total{kind="apt",outcome="asked-about"}': 1,
        'penguindome_downloads_total{kind="tar",outcome="refused"}': 1,
        'penguindome_download_bytes_total{kind="apt"}': len(PACKAGE) + 10,
        'penguindome_requests_total{endpoint="repo",status="206"}': 1,
    }
    until(lambda: counted().items() >= expected.items())
