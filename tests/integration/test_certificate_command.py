"""`penguindome certificate`, on a server with real keys that serves over TLS, and a client that follows."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from administered import AdministeredSite, parsed, penguindome, runs
from client_packages import TREE, carry
from client_peer import Machine
from needs import require_program
from penguindome.bundle import Bundle
from penguindome.client import authorities
from penguindome_tools.answers import next_files, self_signed_files
from penguindome_tools.releases.unpacking import unpack
from web_server import PREFIX, until

CREATE = ("release", "create", "--yes")


@pytest.fixture
def site(sqlite_uri: str, tmp_path: Path) -> Iterator[AdministeredSite]:
    """A server with the certificate that setup makes, which carries small packages of the client."""
    for program in ("dpkg-deb", "zstd"):
        require_program(program)
    made = AdministeredSite(tmp_path / "site", sqlite_uri)
    made.server.settings["server.url"] = f"https://127.0.0.1:{made.server.port}"
    made.set_up()
    made("setup", "--self-signed", "--client-tree", str(made.tree))
    (tmp_path / "scratch").mkdir()
    carry(made.paths, tmp_path / "scratch")
    yield made
    made.server.kill()


def shown(site: AdministeredSite, certificate: str) -> bool:
    """Whether the running server shows this certificate (PEM)."""
    file = site.paths.root / "to-verify.pem"
    file.write_text(certificate)
    try:
        url = f"https://127.0.0.1:{site.server.port}{PREFIX}healthz"
        return requests.get(url, verify=str(file), timeout=5).status_code == 200
    except requests.RequestException:
        return False


def restart(site: AdministeredSite, certificate: str) -> None:
    """(Re)start the server, which writes down what clients said of themselves when it stops."""
    if site.server.process is not None:
        site.server.stop()
    site.server.spawn()
    until(lambda: shown(site, certificate), seconds=60, what="start of the server")


def certificates(text: str | None) -> list[str]:
    """Each certificate of a PEM file."""
    found = (text or "").split(ssl.PEM_FOOTER)
    return [f"{each.strip()}\n{ssl.PEM_FOOTER}\n" for each in found if each.strip()]


def exported(site: AdministeredSite) -> list[str]:
    """The certificates in a bundle of now."""
    return certificates(Bundle.from_text(site("enrolment", "export", "-")).ca_certificate)


def install(site: AdministeredSite, machine: Machine, number: int, tmp_path: Path) -> list[str]:
    """Put what a release brings beside the code in place, as its package does; the certificates in it."""
    (package,) = site.paths.releases.glob(f"{number}/*.tar")
    tree = unpack("tar", package, tmp_path / f"unpacked-{number}").root / TREE
    target = machine.paths.client_code
    for directory in ("plugins", "settings"):
        shutil.rmtree(target / directory, ignore_errors=True)
        if (tree / directory).exists():
            shutil.copytree(tree / directory, target / directory)
    for name in ("manifest.json", "manifest.json.asc"):
        shutil.copy(tree / name, target / name)
    return certificates((target / authorities.RELEASED).read_text())


def reports(site: AdministeredSite, machine: Machine) -> int:
    """Let the machine report; how many reports of it have come so far."""
    runs(machine)
    return int(site.document(machine)["sequence"])


def release_of(site: AdministeredSite, machine: Machine) -> Any:
    return site.document(machine).get("release")


@pytest.mark.timeout(300)
def test_a_certificate_is_renewed_without_a_visit_to_any_machine(site: AdministeredSite, tmp_path: Path) -> None:
    file, key = self_signed_files(site.paths)
    old, old_key = file.read_text(), key.read_bytes()
    restart(site, old)
    machine = site.machine(tmp_path / "laptop", "laptop")
    runs(machine)
    assert exported(site) == certificates((machine.paths.client_state / "ca.pem").read_text()) == [old]

    assert "made: " in site("certificate", "renew")
    new = next_files(site.paths)[0].read_text()
    assert exported(site) == [old, new]
    site(*CREATE)
    refused = penguindome(site.paths.root, "certificate", "use", status=2).stderr.decode()
    assert "would cut off machines that have no release with the next certificate (1): laptop" in refused
    assert (file.read_text(), key.read_bytes()) == (old, old_key)

    assert install(site, machine, 1, tmp_path) == [old, new]
    runs(machine)
    runs(machine, "update")
    restart(site, old)
    assert release_of(site, machine) == 1
    before = reports(site, machine)
    site("certificate", "use")
    assert (file.read_text(), next_files(site.paths)[0].exists()) == (new, False)
    restart(site, new)
    assert not shown(site, old)
    assert reports(site, machine) > before

    # The next release carries the new one alone, and so do bundles.
    assert exported(site) == [new]
    site(*CREATE)
    assert install(site, machine, 2, tmp_path) == [new]
    runs(machine)
    runs(machine, "update")
    restart(site, new)
    assert release_of(site, machine) == 2


def test_a_machine_without_the_release_is_cut_off_by_force_alone_until_it_has_a_new_bundle(
    site: AdministeredSite, tmp_path: Path
) -> None:
    restart(site, self_signed_files(site.paths)[0].read_text())
    machine = site.machine(tmp_path / "laptop", "laptop")
    before = reports(site, machine)
    site("certificate", "renew")
    site("certificate", "use", "--force")
    restart(site, self_signed_files(site.paths)[0].read_text())
    assert reports(site, machine) == before
    site("enrolment", "export", str(tmp_path / "new-bundle"))
    runs(machine, "setup", "--bundle", str(tmp_path / "new-bundle"))
    until(lambda: reports(site, machine) > before, what="a report")


def test_a_renewal_that_was_begun_is_not_begun_anew(site: AdministeredSite) -> None:
    site("certificate", "renew")
    files = next_files(site.paths)
    before = [path.read_bytes() for path in files]
    assert "there already: " in site("certificate", "renew")
    assert [path.read_bytes() for path in files] == before
    assert [path.stat().st_mode & 0o777 for path in files] == [0o644, 0o640]
    (row,) = (row for row in parsed(site("keys", "list", "--json"))["keys"] if row["key"] == "tls-next")
    assert "certificate use" in row["purpose"]


def test_one_that_was_interrupted_half_way_is_finished_by_giving_it_again(site: AdministeredSite) -> None:
    site("certificate", "renew")
    (file, key), (following, next_key) = self_signed_files(site.paths), next_files(site.paths)
    new = following.read_text(), next_key.read_bytes()
    next_key.rename(key)
    assert "certificate use" in penguindome(site.paths.root, "certificate", "renew", status=2).stderr.decode()
    site("certificate", "use")
    assert (file.read_text(), key.read_bytes()) == new
    assert not following.exists()


def test_a_next_certificate_that_does_not_fit_its_key_is_not_used(site: AdministeredSite) -> None:
    site("certificate", "renew")
    (file, key), (following, _) = self_signed_files(site.paths), next_files(site.paths)
    before = file.read_text(), key.read_bytes()
    following.write_text(file.read_text())
    assert "cannot be used" in penguindome(site.paths.root, "certificate", "use", status=1).stderr.decode()
    assert (file.read_text(), key.read_bytes()) == before


def test_nothing_is_used_before_there_is_a_next_one(site: AdministeredSite) -> None:
    assert "certificate renew" in penguindome(site.paths.root, "certificate", "use", status=2).stderr.decode()


def test_a_certificate_of_the_sites_own_is_renewed_where_it_comes_from(site: AdministeredSite, tmp_path: Path) -> None:
    file, key = self_signed_files(site.paths)
    for path in (file, key):
        shutil.copy(path, tmp_path / path.name)
    site.server.write_settings(tls__certificate=str(tmp_path / file.name), tls__key=str(tmp_path / key.name))
    said = penguindome(site.paths.root, "certificate", "renew", status=2).stderr.decode()
    assert str(tmp_path / file.name) in said
    assert not next_files(site.paths)[0].exists()


def test_authorities_of_the_sites_settings_go_to_clients_too(site: AdministeredSite, tmp_path: Path) -> None:
    own = self_signed_files(site.paths)[0].read_text()
    site("certificate", "renew")
    authority = next_files(site.paths)[0].rename(tmp_path / "authority.pem")
    site.server.write_settings(tls__authorities=str(authority))
    assert exported(site) == [own, authority.read_text()]
    site(*CREATE)
    (package,) = site.paths.releases.glob("1/*.tar")
    tree = unpack("tar", package, tmp_path / "unpacked").root / TREE
    assert certificates((tree / authorities.RELEASED).read_text()) == [own, authority.read_text()]
    authority.write_text("nothing\n")
    said = penguindome(site.paths.root, *CREATE, status=1).stderr.decode()
    assert f"{authority} holds no certificate" in said
