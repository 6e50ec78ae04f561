"""The administrative log with both engines of the store: written, finished after crashes, and held to root's head."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from log_material import hashed_anew, linked_anew
from needs import require_program
from penguindome.paths import Paths
from penguindome.server_keyring import ServerKeyring
from penguindome_server.admin_log import FIRST_PREVIOUS, Act, make_entry
from penguindome_server.admin_log_acts import ActFile, Beginning
from penguindome_server.admin_log_head import MOST_ENTRIES, HeadError, HeadFiles, NoSigningKey
from penguindome_server.admin_log_keeper import REPAIR, LogKeeper, Verdict, acts_directory, resign_head
from penguindome_server.store import Document, Store

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root's keyring with two server keys; the first is in use."""
    require_program("gpg")
    directory = tmp_path_factory.mktemp("log") / "keys"
    directory.mkdir(mode=0o700)
    with ServerKeyring(directory / "gnupg") as keyring:
        first, second = keyring.generate("server"), keyring.generate("server anew")
    (directory / "server.fingerprint").write_text(first + "\n")
    (directory / "second.fingerprint").write_text(second + "\n")
    return directory


class Site:
    """Root's files and a store."""

    def __init__(self, paths: Paths, store: Store) -> None:
        self.paths = paths
        self.store = store
        self.entries = store.collection("admin_log")
        self.keeper = LogKeeper(paths, store, clock=lambda: NOON)
        self.files = HeadFiles(paths.keys)
        self.acts = 0

    def begin(self, target: str = "laptop") -> ActFile:
        self.acts += 1
        begun = NOON + timedelta(minutes=self.acts)
        file = ActFile.begin(acts_directory(self.paths), Beginning("clients revoke", "ann", None, "server", begun))
        file.note([target], {"number": self.acts})
        return file

    def act(self, target: str = "laptop") -> None:
        """An act that ended, and waits."""
        self.begin(target).end("done", at=NOON + timedelta(minutes=self.acts))

    def told(self, acts: int) -> None:
        """So many acts, each written into the log."""
        for _ in range(acts):
            self.act()
            assert self.keeper.settle() == []

    @property
    def log(self) -> list[Document]:
        return list(self.entries.find())

    @property
    def numbers(self) -> list[Any]:
        """Which acts are told, in the order of the log."""
        return [entry["details"].get("number") for entry in self.log]

    def verify(self) -> Verdict:
        return self.keeper.verify(lambda documents, _count: documents)

    @property
    def problems(self) -> list[str]:
        return self.verify().problems.found

    def put(self, *entries: Document) -> None:
        """As somebody who can write to the database: these entries and no others."""
        self.entries.delete({})
        for entry in entries:
            self.entries.insert({name: value for name, value in entry.items() if name != "_version"})


@pytest.fixture
def site(paths: Paths, keys: Path, store: Store) -> Site:
    paths.keys.parent.mkdir(parents=True)
    shutil.copytree(keys, paths.keys)
    return Site(paths, store)


def test_acts_become_entries_in_their_order_and_the_log_is_whole(site: Site) -> None:
    assert site.verify().is_whole
    site.told(3)
    site.act("laptop8")
    site.act("laptop9")
    assert site.keeper.settle() == []
    assert site.numbers == [1, 2, 3, 4, 5]
    assert [entry["sequence"] for entry in site.log] == [1, 2, 3, 4, 5]
    assert site.log[0]["previous"] == FIRST_PREVIOUS
    assert site.log[4]["previous"] == site.log[3]["hash"]
    verdict = site.verify()
    assert (verdict.is_whole, verdict.entries, verdict.hash) == (True, 5, site.log[4]["hash"])
    assert verdict.signed_by == (site.paths.keys / "server.fingerprint").read_text().strip()
    assert list(acts_directory(site.paths).iterdir()) == []


def test_an_act_under_way_is_not_told_before_it_ends(site: Site) -> None:
    file = site.begin()
    site.told(1)
    verdict = site.verify()
    assert (verdict.is_whole, verdict.entries, verdict.under_way) == (True, 1, 1)
    file.end("done", at=NOON)
    assert site.verify().entries == 2
    assert site.numbers == [2, 1]


def test_more_acts_than_a_head_holds_are_all_told(site: Site) -> None:
    for _ in range(MOST_ENTRIES + 3):
        site.act()
    assert site.keeper.settle() == []
    assert site.numbers == list(range(1, MOST_ENTRIES + 4))
    assert site.verify().is_whole


def well_formed(after: Document, **values: Any) -> Document:
    act = Act("f" * 16, "clients revoke", "mallory", None, "server", ["laptop"], values, "done", NOON)
    return make_entry(act, sequence=after["sequence"] + 1, previous=after["hash"])


TAMPERING: dict[str, tuple[Callable[[list[Document]], list[Document]], str]] = {
    "an edited entry": (lambda log: [*log[:2], {**log[2], "who": "bob"}, *log[3:]], "entry 3 was edited"),
    "an entry edited with its hash": (lambda log: [*log[:2], hashed_anew(log[2], who="bob"), *log[3:]], "entry 4 does"),
    "the last edited with its hash": (lambda log: [*log[:4], hashed_anew(log[4], who="bob")], "entry 5 is another"),
    "the first deleted": (lambda log: log[1:], "entry 1 is missing"),
    "one in the middle deleted": (lambda log: [*log[:2], *log[3:]], "entry 3 is missing"),
    "the last deleted": (lambda log: log[:-1], "entry 5 is missing"),
    "one deleted and the rest moved up": (lambda log: linked_anew([*log[:2], *log[3:]]), "entry 5 is missing"),
    "two swapped": (
        lambda log: [log[0], hashed_anew(log[2], _id=log[1]["_id"], sequence=2),
                     hashed_anew(log[1], _id=log[2]["_id"], sequence=3), *log[3:]],
        "entry 2 does not follow",
    ),
    "a well-formed one added": (lambda log: [*log, well_formed(log[-1])], "entry 6 was added"),
    "a fresh consistent log": (lambda log: linked_anew([{**entry, "who": "b"} for entry in log]), "entry 5 is another"),
    "a fresh longer log": (lambda log: linked_anew([*log[::-1], *log]), "entry 5 is another"),
    "an older state": (lambda log: log[:3], "entries 4 to 5 are missing"),
    "nothing": (lambda log: [], "entries 1 to 5 are missing"),
    "a document of another kind": (lambda log: [*log, {"_id": "0", "act": "x"}], "none of the log's"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERING)
def test_what_somebody_did_in_the_database_shows(site: Site, how: str) -> None:
    tamper, complaint = TAMPERING[how]
    site.told(5)
    site.put(*tamper(site.log))
    verdict = site.verify()
    assert not verdict.is_whole
    assert any(complaint in problem for problem in verdict.problems.found), verdict.problems.found
    # It is not forgotten when life goes on, nor made good by looking.
    assert site.problems
    site.act()
    repairs = site.keeper.settle()
    assert bool(repairs) == ("added" in how or "longer" in how)
    assert site.problems or "added" in how


def test_an_entry_put_where_the_next_belongs_is_replaced_and_told(site: Site) -> None:
    site.told(2)
    forged = well_formed(site.log[-1], excuse="it was ann")
    site.put(*site.log, forged)
    site.act()
    (repair,) = site.keeper.settle()
    assert "entry 3 was in the store before it was made" in repair
    assert site.numbers == [1, 2, 3, None]
    assert site.log[3]["act"] == REPAIR
    assert "mallory" in site.log[3]["details"]["found"]
    assert site.verify().is_whole


def snapshot(site: Site, to: Path) -> list[Document]:
    shutil.copytree(site.paths.keys, to, ignore=shutil.ignore_patterns("gnupg", "S.*"))
    return site.log


STEPS = ("next signature", "head", "signature", "store", "marker", "act files")


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
def test_a_crash_after_any_step_is_finished_and_nothing_is_told_twice(site: Site, tmp_path: Path, done: int) -> None:
    site.told(2)
    site.act()
    before = snapshot(site, tmp_path / "before")
    site.keeper.settle()
    after = snapshot(site, tmp_path / "after")
    old, new, keys = tmp_path / "before", tmp_path / "after", site.paths.keys
    steps = STEPS[:done]
    shutil.copy((new if "head" in steps else old) / "admin_log.json", keys)
    shutil.copy((new if "signature" in steps else old) / "admin_log.json.asc", keys)
    if "next signature" in steps and "signature" not in steps:
        shutil.copy(new / "admin_log.json.asc", keys / "admin_log.json.asc.next")
    shutil.copy((new if "marker" in steps else old) / "admin_log.stored", keys)
    if "act files" not in steps:
        shutil.copytree(old / "admin_log.acts", keys / "admin_log.acts", dirs_exist_ok=True)
    site.put(*(after if "store" in steps else before))
    assert site.problems == []
    assert site.numbers == [1, 2, 3]
    site.told(1)
    assert site.numbers == [1, 2, 3, 4]
    assert site.problems == []


def test_a_head_with_a_foreign_signature_is_told_and_the_log_goes_on(site: Site, tmp_path: Path) -> None:
    site.told(2)
    with ServerKeyring(tmp_path / "foreign") as foreign:
        signature = foreign.sign(site.files.text.read_bytes(), foreign.generate("server"))
    site.files.signature.write_bytes(signature)
    with pytest.raises(HeadError, match="no key of this server"):
        site.files.read()
    site.act()
    (repair,) = site.keeper.settle()
    assert "signature" in repair
    assert sorted(entry["act"] for entry in site.log) == [*["clients revoke"] * 3, REPAIR]
    assert site.problems == []


def test_an_edited_head_is_not_believed(site: Site) -> None:
    site.told(3)
    text = site.files.text.read_bytes()
    assert b'"who":' in text
    site.files.text.write_bytes(text.replace(b'"format": 1', b'"format":  1'))
    assert any("signature" in problem for problem in site.problems)
    # What was found is in the log, which goes on under a good signature.
    assert site.log[-1]["act"] == REPAIR
    assert site.problems == []


def test_a_lost_head_is_told_and_the_log_goes_on_after_what_the_store_has(site: Site) -> None:
    site.told(3)
    site.files.text.unlink()
    assert ["root's head of the log was lost" in problem for problem in site.problems] == [True]
    assert [entry["act"] for entry in site.log] == [*["clients revoke"] * 3, REPAIR]
    assert site.problems == []


def test_a_damaged_head_is_kept_beside_and_told(site: Site) -> None:
    site.told(3)
    site.files.text.write_bytes(b"\0" * 100)
    assert len(site.problems) == 2
    assert (site.paths.keys / "admin_log.json.bad").read_bytes() == b"\0" * 100
    assert site.problems == []
    assert len(site.log) == 5


def test_after_a_rotation_the_head_is_signed_by_the_new_key(site: Site) -> None:
    site.told(2)
    second = (site.paths.keys / "second.fingerprint").read_text()
    (site.paths.keys / "server.fingerprint").write_text(second)
    # The key before is still root's: between the two steps of a rotation nothing is wrong.
    assert site.verify().is_whole
    resign_head(site.paths)
    verdict = site.verify()
    assert (verdict.is_whole, verdict.signed_by) == (True, second.strip())
    site.told(1)
    assert site.verify().is_whole


def test_a_head_that_is_not_signed_by_root_is_not_signed_again(site: Site) -> None:
    resign_head(site.paths)
    assert not site.files.text.exists()
    site.told(1)
    site.files.signature.unlink()
    with pytest.raises(HeadError):
        resign_head(site.paths)


def test_without_a_key_acts_wait_and_are_told_when_there_is_one(site: Site) -> None:
    fingerprint = site.paths.keys / "server.fingerprint"
    kept = fingerprint.read_text()
    fingerprint.unlink()
    site.act()
    with pytest.raises(NoSigningKey):
        site.keeper.settle()
    verdict = site.verify()
    assert verdict.waiting == 1
    assert not verdict.is_whole
    assert site.log == []
    fingerprint.write_text(kept)
    site.told(1)
    assert site.numbers == [1, 2]
    assert site.problems == []


@pytest.fixture
def mongo_entries(store: Store, request: pytest.FixtureRequest) -> Any:
    """The collection, past our own store."""
    client = request.getfixturevalue("_mongo_client")
    return client[store.uri.rpartition("/")[2]]["admin_log"]


@pytest.mark.parametrize("store_uri", ["mongodb"], indirect=True)
def test_documents_that_no_search_by_text_finds_show_as_well(site: Site, mongo_entries: Any) -> None:
    site.told(2)
    mongo_entries.insert_one({"_id": 7, "act": "x"})
    assert site.problems == ["there are 1 documents that are none of the log's"]
