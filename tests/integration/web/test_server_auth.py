"""Who may download: addresses, users, groups, passwords of the endpoint, and clients by their own credentials."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
from email.utils import formatdate
from pathlib import Path
from typing import Any

import requests

from needs import require_program
from penguindome import json
from penguindome.times import utc_now
from penguindome_server.enrolment import revoke
from penguindome_server.passwords import password_context
from published import publish, release
from web_server import PREFIX, Device, Server, refused, until

QUICK = password_context().using(pbkdf2_sha256__default_rounds=1000)
FRED, ANNA, INSTALLER = (QUICK.hash(word) for word in ("fred's-word", "anna's-word", "installer's-word"))
INDEX = "repo/apt/dists/stable/InRelease"


def get(server: Server, path: str = INDEX, user: str = "", word: str = "", **headers: str) -> requests.Response:
    auth = (user, word) if user else None
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(f"{server.url}{PREFIX}{path}", auth=auth, headers=named, timeout=20)


def credentials(device: Device) -> tuple[str, str]:
    """Enrol; user and password that came of it."""
    answer = device.enroll().json()
    given = json.loads(device.key.decrypt(answer["repository_credentials"].encode()))
    return given["user"], given["password"]


def start(server: Server, **values: Any) -> Server:
    publish(server.paths.repository, 1, {"apt/dists/stable/InRelease": b"index"})
    started = server.start(
        workers=1, enrolment__policy="automatic", enrolment__automatic_ranges=["127.0.0.0/8"],
        trusted_proxies=["127.0.0.1"], users={"fred": FRED, "anna": ANNA}, **values,
    )  # fmt: skip
    release(server, 1)
    return started


def test_without_settings_packages_are_open_and_the_tar_is_for_clients_alone(server: Server) -> None:
    start(server)
    user, word = credentials(server.device())
    for path in (INDEX, "download_release?format=deb", "download_release?format=tar.asc"):
        assert get(server, path).status_code == 200
        # An old password of a client's package manager does no harm where none is needed.
        assert get(server, path, "somebody", "wrong").status_code == 200
    for path in ("download_release?format=tar", "download_release"):
        answer = get(server, path)
        refused(answer, 403, "not-allowed")
        assert "server_auth.download_release" in answer.text
        refused(get(server, path, "fred", "fred's-word"), 401, "unauthorised")
        refused(get(server, path, user, "wrong"), 401, "unauthorised")
        assert get(server, path, user, word).content == next(server.paths.releases.glob("1/*.tar")).read_bytes()


def test_any_one_that_fits_lets_in_and_all_else_is_asked_for_a_password(server: Server) -> None:
    start(
        server,
        groups={"administrators": ["anna"]},
        server_auth__download_release__ipranges=["10.0.0.0/8", "2001:db8::/32"],
        server_auth__download_release__users=["fred"],
        server_auth__download_release__groups=["administrators"],
        server_auth__download_release__passwords={"installer": INSTALLER},
    )
    user, word = credentials(server.device())
    for path in (INDEX, "download_release?format=tar"):
        answer = get(server, path)
        refused(answer, 401, "unauthorised")
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        for pair in (
            ("fred", "fred's-word"), ("anna", "anna's-word"), ("installer", "installer's-word"), (user, word)
        ):  # fmt: skip
            assert get(server, path, *pair).status_code == 200
        for pair in (
            ("fred", "wrong-word"),
            ("nobody", "fred's-word"),
            (user, "wrong-word"),
            ("anna", "installer's-word"),
        ):
            refused(get(server, path, *pair), 401, "unauthorised")
        for address in ("10.1.2.3", "2001:db8::7"):
            assert get(server, path, X_Forwarded_For=address).status_code == 200
        refused(get(server, path, X_Forwarded_For="192.0.2.1"), 401, "unauthorised")
    refused(get(server, "repo/apt/nothing"), 401, "unauthorised")
    log = server.log()
    assert "refused repo from 192.0.2.1: unauthorised" in log
    assert not any(secret in log for secret in ("-word", word, FRED, INSTALLER, "Basic "))


def test_a_client_that_is_revoked_downloads_nothing_more(server: Server) -> None:
    start(server, server_auth__download_release__users=["fred"])
    user, word = credentials(server.device())
    assert get(server, INDEX, user, word).status_code == 200
    revoke(server.store, user, who="test", now=utc_now())
    until(lambda: get(server, INDEX, user, word).status_code == 401)


def test_who_guesses_is_told_to_wait_and_the_clients_at_the_same_address_are_not(server: Server) -> None:
    start(server, server_auth__download_release__users=["fred"])
    user, word = credentials(server.device())
    assert get(server, INDEX, "fred", "fred's-word").status_code == 200
    answers = [get(server, INDEX, "anna", f"guess {number}").status_code for number in range(12)]
    assert answers == [401] * 10 + [429] * 2
    limited = get(server, INDEX, "anna", "another guess")
    refused(limited, 429, "rate-limited")
    assert 0 < int(limited.headers["Retry-After"]) <= 61
    assert get(server, INDEX, user, word).status_code == 200
    assert get(server, INDEX, "fred", "fred's-word").status_code == 200


def test_changed_settings_count_after_a_reload_and_wrong_ones_do_not(server: Server) -> None:
    start(server)
    assert get(server).status_code == 200
    assert server.process is not None
    server.write_settings(server_auth__download_release__users=["fred"])
    server.process.send_signal(signal.SIGHUP)
    until(lambda: get(server).status_code == 401)
    server.write_settings(server_auth__download_release__users=["nobody"])
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "there is no user 'nobody'" in server.log())
    assert get(server, INDEX, "fred", "fred's-word").status_code == 200
    refused(get(server), 401, "unauthorised")
    server.write_settings(server_auth__download_release__users=[])
    server.process.send_signal(signal.SIGHUP)
    until(lambda: get(server).status_code == 200)


def test_a_server_does_not_start_when_its_settings_name_nobody(server: Server) -> None:
    server.write_settings(server_auth__pipe_create__groups=["nobody"])
    assert server.spawn().wait(timeout=60) != 0
    line = (
        (server.paths.settings / "server.yml")
        .read_text()
        .splitlines()
        .index('server_auth.pipe_create.groups: ["nobody"]')
    )
    assert f"server.yml:{line + 1}: server_auth.pipe_create.groups: there is no group 'nobody'" in server.log()


def test_curl_takes_the_credentials_from_its_file(server: Server, tmp_path: Path) -> None:
    start(server, server_auth__download_release__users=["fred"])
    user, word = credentials(server.device())
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {user} password {word}\n")
    done = subprocess.run(
        [require_program("curl"), "-sS", "--fail", "--netrc-file", netrc, f"{server.url}{PREFIX}{INDEX}"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"index"


def apt_repository(package: bytes) -> dict[str, bytes]:
    """A repository without a signature, of one package that is never installed."""
    packages = (
        "Package: penguindome-client\nVersion: 1:1+0.1.0\nArchitecture: amd64\nMaintainer: x <x@example.org>\n"
        "Description: x\nFilename: pool/main/penguindome-client_1+0.1.0_amd64.deb\n"
        f"Size: {len(package)}\nSHA256: {hashlib.sha256(package).hexdigest()}\n"
    ).encode()
    files = {"main/binary-amd64/Packages": packages, "main/binary-amd64/Packages.gz": gzip.compress(packages)}
    hashes = {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()}
    lines = [f" {hashes[name]} {len(contents)} {name}" for name, contents in files.items()]
    head = f"Suite: stable\nCodename: stable\nDate: {formatdate(usegmt=True)}\nAcquire-By-Hash: yes\n"
    head += "Architectures: amd64\nComponents: main\nSHA256:\n"
    by_hash = {f"main/binary-amd64/by-hash/SHA256/{hashes[name]}": contents for name, contents in files.items()}
    index = {**by_hash, "Release": (head + "\n".join(lines) + "\n").encode()}
    served = {f"apt/dists/stable/{name}": contents for name, contents in index.items()}
    return {**served, "apt/pool/main/penguindome-client_1+0.1.0_amd64.deb": package}


def test_apt_updates_and_downloads_as_a_client_and_keeps_what_it_has(server: Server, tmp_path: Path) -> None:
    apt = require_program("apt-get")
    start(server, server_auth__download_release__users=["fred"])
    package = os.urandom(2_000_000)
    publish(server.paths.repository, 2, apt_repository(package))
    user, word = credentials(server.device())
    for directory in ("etc/auth.conf.d", "etc/preferences.d", "lists/partial", "cache/archives/partial"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "status").touch()
    (tmp_path / "etc/sources.list").write_text(
        f"deb [arch=amd64 trusted=yes] {server.url}{PREFIX}repo/apt stable main\n"
    )
    auth = tmp_path / "etc/auth.conf.d/penguindome.conf"
    options = {
        "Dir::Etc": tmp_path / "etc", "Dir::Etc::sourceparts": "/nonexistent", "Dir::State": tmp_path,
        "Dir::State::status": tmp_path / "status", "Dir::Cache": tmp_path / "cache", "APT::Architecture": "amd64",
        "APT::Architectures::": "amd64", "APT::Sandbox::User": "", "Acquire::Retries": 0, "Acquire::Languages": "none",
        "APT::Update::Error-Mode": "any", "APT::Get::List-Cleanup": "no",
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return subprocess.run([apt, "-q", *given, *words], cwd=tmp_path, capture_output=True, check=False, timeout=60)

    auth.write_text(f"machine {server.url}{PREFIX} login {user} password wrong\n")
    assert run("update").returncode != 0
    auth.write_text(f"machine {server.url}{PREFIX} login {user} password {word}\n")
    assert run("update").returncode == 0, run("update")
    downloaded = run("download", "penguindome-client")
    (file,) = tmp_path.glob("*.deb")
    assert (downloaded.returncode, file.read_bytes()) == (0, package)
    assert b"stable Release\n" in run("update").stdout.partition(b"\nHit:")[2]
    assert word not in server.log()
