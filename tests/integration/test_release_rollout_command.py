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
from penguindome_server.repository_index import IndexTimes, index_times
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Document, Store, open_store
from penguindome_tools.cli import main
from penguindome_tools.context import Context
from penguindome_tools.installation import make_directories, make_keys
from penguindome_tools.releases import own_record
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
        own_record.add(Context(self.paths), document)
        self.store.collection("releases").insert(document)

    def tamper(self, number: int, change: dict[str, Any] | None) -> None:
        """What somebody in the database does to the document of a release; None: it is gone."""
        releases, key = self.store.collection("releases"), f"{number:09d}"
        if change is None:
            releases.delete({"_id": key})
        else:
            releases.update(key, lambda before: {**(before or {}), **change})

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
    assert "2 of 2 clients" in said(capsys, "promote", "2", "--canary", "OTHER", "--yes")
    assert site.document(2)["stage"] == {"percent": 0, "clients": [A, B]}
    assert "Version: 1:1+" in site.indexed()
    said(capsys, "promote", "2", "--canary", "30%", "--yes")
    assert site.document(2)["stage"] == {"percent": 30, "clients": [A, B]}
    said(capsys, "promote", "--yes")
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
    said(capsys, "promote", *words, "--yes", status=2)
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


def times_of(site: Site) -> IndexTimes:
    found = index_times(site.publisher.current)
    assert found is not None
    return found


def described(site: Site, number: int) -> bytes:
    return (site.paths.releases / str(number) / "release.json").read_bytes()


HALTED_BY_ITSELF = {"halted_at": utc_now(), "halted_by": "server", "halted_reason": "it failed on 2 of 2"}


@pytest.mark.parametrize(
    "change",
    [HALTED_BY_ITSELF, {"pruned_at": utc_now()}, {"promoted_at": None}, {"created_at": None}, None],
    ids=["halted", "pruned", "not-promoted", "damaged", "deleted"],
)
def test_what_the_store_withholds_is_told_and_nothing_older_gets_a_later_end_until_somebody_decides(
    site: Site, capsys: pytest.CaptureFixture[str], change: dict[str, Any] | None
) -> None:
    site.release(1)
    site.release(2)
    said(capsys, "refresh")
    end, text = times_of(site).expires_at, described(site, 1)
    site.tamper(2, change)
    for words in (("refresh",), ("refresh", "--force")):
        assert "release 2 is for all, but the store does not offer it" in said(capsys, *words, status=1)
        assert "Version: 1:1+" in site.indexed()
        assert (times_of(site).expires_at, described(site, 1)) == (end, text)
    said(capsys, "halt", "2", "--reason", "it breaks the VPN")
    assert "is for all" not in said(capsys, "refresh")
    said(capsys, "refresh", "--force")
    assert "Version: 1:1+" in site.indexed()
    assert times_of(site).expires_at > end
    assert described(site, 1) != text


@pytest.mark.parametrize(
    ("change", "words"),
    [(HALTED_BY_ITSELF, ("resume", "2")), ({"pruned_at": utc_now()}, ("resume", "2")),
     ({"promoted_at": None}, ("promote", "2", "--yes"))],
    ids=["halted", "pruned", "not-promoted"],
)  # fmt: skip
def test_what_the_store_withheld_can_be_given_again(
    site: Site, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: tuple[str, ...]
) -> None:
    site.release(1)
    site.release(2)
    site.tamper(2, change)
    said(capsys, "refresh", status=1)
    assert "2 of 2 clients" in said(capsys, *words)
    assert said(capsys, "refresh") == ""
    assert "Version: 1:2+" in site.indexed()


def test_indices_do_not_live_on_while_the_store_withholds_what_they_should_offer(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.release(1)
    site.release(2)
    site.publisher.publish(2, 1, now=utc_now() - timedelta(days=16))
    end = times_of(site).expires_at
    site.tamper(2, HALTED_BY_ITSELF)
    for _ in range(2):
        said(capsys, "refresh", status=1)
        assert times_of(site).expires_at == end


@pytest.mark.parametrize("change", [{"promoted_at": utc_now()}, {"promoted_at": utc_now(), "halted_at": None}])
def test_what_root_gave_to_nobody_or_halted_is_in_no_repository_whatever_the_store_says(
    site: Site, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    site.release(1)
    site.release(2, A)
    if "halted_at" in change:
        said(capsys, "promote", "2", "--yes")
        said(capsys, "halt", "2", "--reason", "it breaks the VPN")
    site.tamper(2, change)
    said(capsys, "refresh", "--force")
    assert "Version: 1:1+" in site.indexed()
    site.publisher.install(3, now=utc_now())
    site.store.collection("releases").insert({**site.document(1), "_id": "000000003", "release": 3})
    said(capsys, "refresh", "--force")
    assert "Version: 1:1+" in site.indexed()


def test_without_roots_own_record_what_was_in_the_repositories_is_for_all(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.release(1)
    said(capsys, "refresh")
    site.release(2)
    record = site.paths.keys / "releases.json"
    record.unlink()
    said(capsys, "refresh", "--force")
    assert "Version: 1:1+" in site.indexed()
    said(capsys, "promote", "2", "--yes")
    assert "Version: 1:2+" in site.indexed()
    assert [(entry["release"], entry["promoted_at"] is not None) for entry in json.loads(record.read_text())] == [
        (2, True), (1, True),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "{}", "[{}]", '[{"_id": "000000001", "release": "../1"}]'])
def test_a_damaged_record_of_roots_own_is_told(site: Site, capsys: pytest.CaptureFixture[str], text: str) -> None:
    site.release(1)
    (site.paths.keys / "releases.json").write_text(text)
    assert "releases.json is damaged; restore it" in said(capsys, "refresh", status=1)


def test_the_list_warns_of_what_the_store_says_otherwise(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 3, 4):
        site.release(number, *([A] if number == 4 else []))
    said(capsys, "halt", "3", "--reason", "it breaks the VPN")
    assert "warning" not in said(capsys, "list")
    site.tamper(2, HALTED_BY_ITSELF)
    assert "warning" not in said(capsys, "list")
    site.tamper(1, None)
    site.tamper(2, {"halted_by": "ann"})
    site.tamper(3, {"halted_at": None})
    site.store.collection("releases").insert({**site.document(4), "_id": "000000005", "release": 5})
    site.tamper(4, {"promoted_at": utc_now()})
    assert [line for line in said(capsys, "list").splitlines() if line.startswith("warning")] == [
        "warning: release 4: by root's own record for canaries, by the store for all",
        "warning: release 3: by root's own record halted, by the store for all",
        "warning: release 2: by root's own record for all, by the store halted",
        "warning: release 1: by root's own record for all, by the store nothing",
        "warning: release 5: by root's own record nothing, by the store for canaries",
    ]


def test_the_record_of_roots_own_is_roots_alone(site: Site) -> None:
    site.release(1)
    assert (site.paths.keys / "releases.json").stat().st_mode & 0o777 == 0o600


def test_before_a_release_is_promoted_it_is_told_how_it_went_and_asked(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.release(1)
    site.release(2, A, B)
    for client_id, status in ((A, "done"), (B, "failed")):
        outcome = {"release": 2, "status": status, "finished_at": None, "reported_at": utc_now()}
        site.store.collection("clients").update(
            client_id, lambda before, outcome=outcome: {**(before or {}), "update_outcome": outcome}
        )
    output = said(capsys, "promote", status=2)
    assert "release 2 is for 2 of 2 clients now; 1 took it, and on 1 it failed" in output
    assert "Give release 2 to everybody?" in output
    assert site.document(2)["promoted_at"] is None
    assert "Give release 2 to laptop and 50%?" in said(
        capsys, "promote", "2", "--canary", "laptop", "--canary", "50%", status=2
    )


@pytest.mark.parametrize("change", [None, {"halted_at": utc_now()}, {"promoted_at": utc_now()}])
def test_the_store_does_not_choose_which_canary_is_promoted(
    site: Site, capsys: pytest.CaptureFixture[str], change: dict[str, Any] | None
) -> None:
    site.release(1)
    site.release(2, A)
    site.release(3, A)
    site.tamper(3, change)
    assert "by root's own record release 3 waits to be promoted, by the store " in said(
        capsys, "promote", "--yes", status=2
    )
    assert site.document(2)["promoted_at"] is None


def test_why_a_release_was_halted_reaches_no_terminal_as_it_is(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.release(1)
    site.tamper(1, {**HALTED_BY_ITSELF, "halted_reason": "\x1b]0;owned\x07"})
    main(["issues", "audit"])
    output = capsys.readouterr()
    assert "\\x1b]0;owned\\x07" in output.err
    assert "\x1b]" not in output.err + output.out


def test_a_rotation_keeps_to_the_settings_about_how_long_indices_are_valid(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.paths.settings / "server.yml").write_text("releases.valid_for: 4d\n")
    site.release(1)
    said(capsys, "refresh")
    assert main(["keys", "rotate", "server", "--yes"]) == 0
    assert times_of(site).expires_at - times_of(site).signed_at == timedelta(days=4)


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
