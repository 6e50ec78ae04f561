"""`penguindome release promote|halt|resume|refresh`, called as an administrator and the timer call them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from needs import require_program
from penguindome.files import FileLock
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.server_keyring import ServerKeyring
from penguindome.times import utc_now
from penguindome_server import rollout
from penguindome_server.repository_index import index_times
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Document, Store, open_store
from penguindome_tools.cli import main
from penguindome_tools.installation import make_directories, make_keys
from penguindome_tools.releases.published import verify_publication
from penguindome_tools.releases.records import Stage, new_document
from publication_material import LIFE, Publisher
from report_material import A, B, enrol
from smtp_peer import smtp_peer

SETTINGS = """
business_time:
  hours: ["00:00", "24:00"]
  weekdays: [mon, tue, wed, thu, fri, sat, sun]
"""
PACKAGES = "apt/dists/stable/main/binary-amd64/Packages"


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A server with keys, whose making takes longer than all else."""
    for program in ("gpg", "dpkg-deb", "zstd"):
        require_program(program)
    paths = Paths(tmp_path_factory.mktemp("master"))
    make_directories(paths)
    make_keys(paths)
    return paths


@pytest.fixture
def site(master: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    paths = Paths(tmp_path_factory.mktemp("site"))
    shutil.copytree(
        master.root, paths.root, dirs_exist_ok=True, ignore=lambda _, names: [n for n in names if n[:2] == "S."]
    )
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    (paths.settings / "server.yml").write_text(SETTINGS)
    store = open_store(load_server_settings(paths)["database.uri"])
    with ServerKeyring(paths.keys / "gnupg") as keyring:
        fingerprint = (paths.keys / "server.fingerprint").read_text().strip()
        yield Site(Publisher(paths, keyring, fingerprint), store)
    store.close()


class Site:
    """A server, its store and its releases."""

    def __init__(self, publisher: Publisher, store: Store) -> None:
        self.publisher = publisher
        self.paths = publisher.paths
        self.store = store
        for client_id, hostname in ((A, "laptop"), (B, "other")):
            enrol(store, client_id, hostname, enrolled_at=utc_now())

    def release(self, number: int, *clients: str, percent: int = 0, age: timedelta = timedelta(0)) -> None:
        """A release, for everybody unless there are canaries."""
        now = utc_now() - age
        self.publisher.install(number, now=now, life=LIFE)
        stage = Stage(percent, clients)
        document = new_document(
            number, version=f"{number}+0.1.0", content_of=number, message="", who="tester", now=now, stage=stage
        )
        self.store.collection("releases").insert(document)

    def document(self, number: int) -> Document:
        found = self.store.collection("releases").get(f"{number:09d}")
        assert found is not None
        return found

    def due(self, client_id: str = A) -> int | None:
        found = rollout.due(rollout.offers(self.store), client_id)
        return None if found is None else found.release

    def indexed(self) -> str:
        """What the repository names, after a look at all of it."""
        verify_publication(self.publisher.current, self.publisher.certificate)
        return (self.publisher.current / PACKAGES).read_text()


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What `penguindome release WORDS` says."""
    found = main(["release", *words])
    output = capsys.readouterr()
    assert found == status, output
    return output.out + output.err


def audited(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["issues", "audit", "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_release_is_promoted_in_stages(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.release(1)
    site.release(2, A)
    said(capsys, "refresh")
    assert (site.due(A), site.due(B)) == (2, 1)
    assert "Version: 1:1+" in site.indexed()
    assert "2 of 2 clients" in said(capsys, "promote", "2", "--canary", "OTHER")
    assert site.document(2)["stage"] == {"percent": 0, "clients": [A, B]}
    assert "Version: 1:1+" in site.indexed()
    said(capsys, "promote", "2", "--canary", "30%")
    assert site.document(2)["stage"] == {"percent": 30, "clients": [A, B]}
    said(capsys, "promote")
    assert site.document(2)["promoted_at"] is not None
    assert "Version: 1:2+" in site.indexed()
    assert "everybody already" in said(capsys, "promote", "2", status=2)
    assert "no release waits" in said(capsys, "promote", status=2)


@pytest.mark.parametrize(
    "words",
    [("3",), ("2", "--canary", "0%"), ("2", "--canary", "101%"), ("2", "--canary", "1%", "--canary", "2%"),
     ("2", "--canary", "nobody"), ("2", "--canary", "²%"), ("2", "--canary", "2.5%"),
     ("2", "--canary=-5%"), ("0",), ("x",)],
)  # fmt: skip
def test_what_makes_no_sense_changes_nothing(
    site: Site, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    site.release(2, A)
    before = site.document(2)
    said(capsys, "promote", *words, status=2)
    assert site.document(2) == before
    assert not site.publisher.current.exists()


def test_a_release_whose_files_were_changed_is_not_promoted(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.release(2, A)
    package = next(iter((site.paths.releases / "2").glob("*.deb")))
    package.write_bytes(package.read_bytes() + b"!")
    assert "not what was signed" in said(capsys, "promote", "2", status=1)
    assert site.document(2)["promoted_at"] is None


def test_a_halted_release_is_offered_to_nobody_until_it_is_resumed(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.release(1)
    site.release(2)
    assert "0 of 2 clients" in said(capsys, "halt", "2", "--reason", "breaks the VPN")
    assert (site.due(), site.document(2)["halted_reason"]) == (1, "breaks the VPN")
    assert "Version: 1:1+" in site.indexed()
    assert "resume 2" in said(capsys, "promote", "2", status=2)
    assert "halted already" in said(capsys, "halt", "2", "--reason", "again", status=2)
    assert "2 of 2 clients" in said(capsys, "resume", "2")
    assert site.due() == 2
    assert "Version: 1:2+" in site.indexed()
    assert "not halted" in said(capsys, "resume", "2", status=2)


def test_the_timer_says_nothing_when_there_is_nothing_to_do(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.release(1)
    assert said(capsys, "refresh") == "signed anew: the indices of the repositories\n"
    before = site.publisher.current.resolve()
    assert said(capsys, "refresh") == ""
    assert site.publisher.current.resolve() == before
    assert said(capsys, "refresh", "--force").count("signed anew") == 3
    assert site.publisher.current.resolve() != before


def test_the_timer_waits_for_nobody_who_is_making_a_release(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(site.paths.keys / "release.lock"):
        assert said(capsys, "refresh") == ""
        assert "another run" in said(capsys, "refresh", "--force", status=1)


def test_indices_that_are_half_as_old_as_they_may_get_are_signed_anew(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.publisher.publish(now=utc_now() - timedelta(days=16))
    assert said(capsys, "refresh") == "signed anew: the indices of the repositories\n"
    times = index_times(site.publisher.current)
    assert times is not None
    assert times.expires_at > utc_now() + timedelta(days=29)


def test_the_settings_say_how_long_indices_are_valid(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.paths.settings / "server.yml").write_text("releases.valid_for: 4d\n")
    said(capsys, "refresh")
    times = index_times(site.publisher.current)
    assert times is not None
    assert times.expires_at - times.signed_at == timedelta(days=4)


def test_what_was_not_signed_anew_is_an_issue_of_the_server_until_it_is(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.publisher.publish(now=utc_now() - timedelta(days=25))
    (issue,) = audited(capsys)["past_grace"]
    assert (issue["issue"], issue["client_id"]) == ("repository-expiring", "server")
    assert main(["issues", "list", "--client", "server", "--json"]) == 0
    assert [each["issue"] for each in json.loads(capsys.readouterr().out)] == ["repository-expiring"]
    said(capsys, "refresh")
    assert audited(capsys)["past_grace"] == []


def test_the_issue_of_the_server_can_be_closed_by_hand(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.publisher.publish(now=utc_now() - timedelta(days=25))
    audited(capsys)
    assert main(["issues", "close", "server", "repository-expiring", "--reason", "the site is given up"]) == 0
    assert audited(capsys)["past_grace"] == []


def test_the_issue_of_the_server_is_told_by_mail(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.publisher.publish(now=utc_now() - timedelta(days=25))
    with smtp_peer() as peer:
        mail = f"mail.port: {peer.port}\naudit.mail_to: ops@example.org\n"
        (site.paths.settings / "server.yml").write_text(SETTINGS + mail)
        assert main(["issues", "audit", "--mail"]) == 0
        (message,) = peer.mails
    text = " ".join(str(message.get_content()).split())
    assert "repository-expiring" in text
    assert "penguindome release refresh" in text


def test_a_damaged_release_is_told_and_the_rest_is_signed_all_the_same(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.release(1)
    site.release(2, A)
    (site.paths.releases / "2/release.json").write_text("{}")
    output = said(capsys, "refresh", status=1)
    assert "signed anew: the indices of the repositories" in output
    assert "not all could be signed anew: release 2" in output
