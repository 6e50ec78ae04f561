"""What tells apt of the site's repository: when it is put in place, renewed and taken away. That apt can use it is
shown in tests/packages/test_apt_sources.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from client_peer import Machine, Peer, soon
from needs import require_program
from penguindome import json
from penguindome.client import apt_sources
from penguindome.client.installation import set_up
from penguindome.openpgp import DeviceKey


@pytest.fixture
def debian(ready: Machine) -> Machine:
    """A machine whose client came in a package of Debian's kind, after its first minutes."""
    (ready.paths.client_code / "package-kind").write_text("deb\n")
    ready.minute()
    assert soon((ready.paths.client_state / apt_sources.STAMP).exists)
    return ready


def file(machine: Machine, name: str) -> Path:
    return machine.paths.root / name


def soon_there(machine: Machine, name: str, text: str) -> bool:
    path = file(machine, name)
    return soon(lambda: path.exists() and text in path.read_text())


def test_once_enrolled_a_machine_tells_apt_of_the_repository(debian: Machine, peer: Peer) -> None:
    assert soon_there(debian, apt_sources.SOURCES, f"URIs: {peer.url}/penguindome/v1/repo/apt\n")
    assert file(debian, apt_sources.KEYRING).read_text() == peer.server_key.certificate.text
    credentials = file(debian, apt_sources.CREDENTIALS)
    assert f"login {debian.client().identity.client_id}\npassword secret\n" in credentials.read_text()
    assert credentials.stat().st_mode & 0o777 == 0o600


def test_apt_is_told_of_packages_for_this_kind_of_machine_alone(debian: Machine, peer: Peer) -> None:
    asked = [require_program("dpkg"), "--print-architecture"]
    here = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert soon_there(debian, apt_sources.SOURCES, f"Architectures: {here}")
    assert "Architectures: arm64\n" in apt_sources.sources(peer.url, "arm64")


def test_before_it_is_enrolled_it_does_not(ready: Machine, peer: Peer) -> None:
    (ready.paths.client_code / "package-kind").write_text("deb\n")
    peer.enrolment = {"status": "pending"}
    ready.minute()
    assert not (ready.paths.client_state / apt_sources.TRIED).exists()


@pytest.mark.parametrize("kind", ["pacman", "tar"])
def test_other_kinds_of_machines_have_no_apt_to_tell(ready: Machine, kind: str) -> None:
    (ready.paths.client_code / "package-kind").write_text(f"{kind}\n")
    ready.minute()
    assert not (ready.paths.client_state / apt_sources.TRIED).exists()


def test_nothing_is_written_while_nothing_changed(debian: Machine) -> None:
    file(debian, apt_sources.SOURCES).write_text("# changed by hand\n")
    tried = (debian.paths.client_state / apt_sources.TRIED).stat().st_mtime_ns
    debian.minute()
    assert (debian.paths.client_state / apt_sources.TRIED).stat().st_mtime_ns == tried


def test_new_credentials_and_another_url_are_told(debian: Machine, peer: Peer) -> None:
    assert soon_there(debian, apt_sources.SOURCES, peer.url)
    credentials = {"user": "me", "password": "another"}
    (debian.paths.client_state / "repository.json").write_text(json.dumps(credentials))
    debian.minute()
    assert soon_there(debian, apt_sources.CREDENTIALS, "password another\n")
    (debian.paths.settings / "client.yml").write_text(f"server.url: {peer.url}/\n")
    debian.minute()
    assert soon_there(debian, apt_sources.SOURCES, f"URIs: {peer.url}/penguindome/v1/repo/apt\n")


def test_authorities_are_told_to_apt_for_the_host_of_the_server(debian: Machine, tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_text("a certificate\n")
    text = f"server.url: https://watch.example.org:8443\nca_certificate: {authorities}\n"
    (debian.paths.settings / "client.yml").write_text(text)
    assert debian.run("repository").returncode == 0
    assert file(debian, apt_sources.AUTHORITIES).read_text() == "a certificate\n"
    told = file(debian, apt_sources.CONFIGURATION).read_text()
    assert 'Acquire::https::watch.example.org::CAInfo "/etc/apt/keyrings/penguindome-tls.pem";' in told
    machine = "machine watch.example.org:8443/penguindome/v1/repo/apt\n"
    assert machine in file(debian, apt_sources.CREDENTIALS).read_text()


@pytest.mark.parametrize("of_bundle", ["of the bundle\n", None])
def test_authorities_that_a_release_brings_are_told_to_apt_beside_the_others(
    debian: Machine, peer: Peer, of_bundle: str | None
) -> None:
    (debian.paths.settings / "client.yml").write_text("server.url: https://watch.example.org:8443\n")
    system = file(debian, apt_sources.SYSTEM_AUTHORITIES)
    system.parent.mkdir(parents=True)
    system.write_text("of the system\n")
    if of_bundle is not None:
        (debian.paths.client_state / "ca.pem").write_text(of_bundle)
    debian.plugin("ca.pem", "of the release\n", directory="settings", mode=0o644)
    peer.lay(debian.paths.client_code, release=1)
    # The server is not asked: nobody of that name is there.
    debian.minute()
    beside = of_bundle or "of the system\n"
    assert soon_there(debian, apt_sources.AUTHORITIES, f"{beside}of the release\n")
    assert soon_there(debian, apt_sources.CONFIGURATION, apt_sources.AUTHORITIES)
    (debian.paths.client_code / "settings/ca.pem").write_text("of nobody\n")
    debian.run("repository")
    told = file(debian, apt_sources.AUTHORITIES)
    assert (told.read_text() if told.exists() else None) == of_bundle


def test_who_does_not_want_it_managed_is_left_without(debian: Machine, peer: Peer) -> None:
    assert soon_there(debian, apt_sources.SOURCES, peer.url)
    (debian.paths.settings / "client.yml").write_text("repository.manage: false\n")
    debian.minute()
    assert soon(lambda: not any(file(debian, name).exists() for name in apt_sources.FILES))


def test_another_server_takes_away_what_was_told_of_the_old_one(debian: Machine, peer: Peer) -> None:
    assert soon_there(debian, apt_sources.SOURCES, peer.url)
    other = peer.bundle(server_certificate=DeviceKey.generate("other").certificate.text)
    set_up(debian.client(), other, force=True)
    assert not any(file(debian, name).exists() for name in apt_sources.FILES)
