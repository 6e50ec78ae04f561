"""Which number a release gets, what a rollback goes back to, what can be pruned, and what is told to have changed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from penguindome.errors import UsageError
from penguindome.manifest import FileEntry
from penguindome.paths import Paths
from penguindome_server import halting, rollout
from penguindome_server.store import Document, Store
from penguindome_tools.releases import records
from penguindome_tools.releases.changes import Change, changes
from penguindome_tools.releases.pruning import superfluous

NOW = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)
ALL, TENTH = records.Stage(), records.Stage(percent=10)


def release(number: int, stage: records.Stage = ALL, content_of: int | None = None, **more: Any) -> Document:
    made = records.new_document(
        number, version=f"{number}+0.1.0", content_of=content_of or number, message="", who="root", now=NOW, stage=stage
    )
    return made | more


HALTED = {"halted_at": NOW, "halted_by": "server", "halted_reason": "too many failed"}
PRUNED = {"pruned_at": NOW}


def client(store: Store, name: str, said: Any) -> None:
    store.collection("clients").insert({"_id": name, "hostname": name, "release": said, "state": "enrolled"})


def test_the_first_release_is_number_one(paths: Paths, store: Store) -> None:
    assert records.numbers(paths, store).following == 1


def test_the_next_number_is_above_every_one_that_was_ever_seen(paths: Paths, store: Store) -> None:
    store.collection("releases").insert(release(3))
    assert records.numbers(paths, store).following == 4
    (paths.releases / "7").mkdir(parents=True)
    (paths.releases / ".release-99-abc").mkdir()
    (paths.releases / "renewed/8").mkdir(parents=True)
    assert records.numbers(paths, store).following == 8
    client(store, "after-a-restore", 12)
    client(store, "new", None)
    client(store, "odd", "13")
    assert records.numbers(paths, store).following == 13
    records.burn(store, 20)
    records.burn(store, 15)
    assert records.numbers(paths, store).following == 21


def test_one_client_cannot_use_all_numbers_up(paths: Paths, store: Store) -> None:
    client(store, "rogue", 2**63 - 1)
    client(store, "honest", 5)
    found = records.numbers(paths, store)
    assert found.following == 6
    (told,) = found.unbelievable
    assert "rogue" in told


def test_the_store_cannot_use_all_numbers_up(paths: Paths, store: Store) -> None:
    (paths.releases / "7").mkdir(parents=True)
    records.burn(store, 2**63 - 3)
    store.collection("releases").insert(release(999_999_998))
    found = records.numbers(paths, store)
    assert found.following == 8
    assert len(found.unbelievable) == 2


FORGED: list[dict[str, Any]] = [
    {"release": "/etc/cron.d"},
    {"release": "../../../../etc/cron.d"},
    {"release": True},
    {"release": 7.0},
    {"release": 0},
    {"release": -7},
    {"release": 8},
    {"release": None},
    {"content_of": "../6"},
    {"created_at": None},
    {"pruned_at": "yesterday"},
    {"stage": {"percent": "10", "clients": []}},
    {"stage": {"percent": 10, "clients": [7]}},
    {"stage": "everybody"},
    {"version": 7},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_what_no_release_can_say_of_itself_is_left_out(store: Store, forged: dict[str, Any]) -> None:
    store.collection("releases").insert(release(6))
    store.collection("releases").insert(release(7) | forged)
    assert [document["release"] for document in records.newest_first(store)] == [6]
    assert rollout.offered(store, among=range(100)) == [6]
    assert [offer.release for offer in rollout.offers(store)] == [6]
    assert halting.halted_by_itself(store) == []
    with pytest.raises(UsageError):
        records.one(store, 7)


def test_a_release_without_canaries_is_for_all_at_once() -> None:
    assert release(1)["promoted_at"] == NOW
    staged = release(2, records.Stage(10, ("A" * 40,)))
    assert staged["promoted_at"] is None
    assert staged["stage"] == {"percent": 10, "clients": ["A" * 40]}
    assert records.state(staged) == "canary: 10% and 1 named"


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([release(2), release(1)], 1),
        ([release(3, TENTH), release(2), release(1)], 2),
        ([release(4, **HALTED), release(3, **HALTED), release(2), release(1)], 2),
        ([release(4), release(3, **PRUNED), release(2)], 2),
        # What was never for all is not for all by a rollback either.
        ([release(3), release(2, TENTH), release(1)], 1),
        # A rollback to 2, and another one after it: back to what was before 2.
        ([release(4, content_of=2), release(3), release(2), release(1)], 1),
    ],
)
def test_a_rollback_goes_back_to_the_content_before(documents: list[Document], expected: int) -> None:
    assert records.before(documents)["release"] == expected


@pytest.mark.parametrize("documents", [[], [release(1)], [release(2), release(1, **PRUNED)]])
def test_there_may_be_nothing_to_go_back_to(documents: list[Document]) -> None:
    with pytest.raises(UsageError):
        records.before(documents)


@pytest.mark.parametrize(
    ("documents", "keep", "expected"),
    [
        ([release(n) for n in (5, 4, 3, 2, 1)], 3, [2, 1]),
        ([release(n) for n in (2, 1)], 3, []),
        # What is for all stays, however old; so do canaries above it, but nothing that is halted.
        ([release(5, TENTH), release(4, TENTH), release(3), release(2)], 1, [2]),
        ([release(5, **HALTED), release(4, **HALTED), release(3), release(2)], 1, [4, 2]),
        ([release(3), release(2, **PRUNED), release(1)], 1, [1]),
    ],
)
def test_what_nobody_is_offered_can_be_pruned(documents: list[Document], keep: int, expected: list[int]) -> None:
    assert superfluous(documents, documents, keep=keep) == expected


def test_what_the_store_needs_is_not_pruned_and_nothing_at_its_word_alone() -> None:
    own = [release(n) for n in (5, 4, 3, 2, 1)]
    assert superfluous(own, [], keep=2) == [3, 2, 1]
    assert superfluous(own, [release(5, **HALTED), release(4, **HALTED), release(3), release(2)], keep=1) == [4, 2, 1]
    assert superfluous(own, [release(n, **PRUNED) for n in (5, 4, 3)], keep=3) == [2, 1]


def entry(text: str) -> FileEntry:
    return FileEntry(text.ljust(64, "0"), 1, 0o755)


def test_changes_are_told_one_by_one_where_a_site_made_them() -> None:
    before = {"plugins/a": entry("a"), "plugins/b": entry("b"), "code/x.py": entry("c"), "pkg-setup": entry("d")}
    after = {"plugins/a": entry("z"), "commands/c": entry("e"), "settings/s.yml": entry("f"), "pkg-setup": entry("d")}
    after |= {f"code/{name}.py": entry(name) for name in "xyz"}
    assert changes(before, after, ("0.1.0", "0.2.0")) == [
        Change("version", "0.2.0", "was 0.1.0"),
        Change("plugin", "a", "changed"),
        Change("plugin", "b", "removed"),
        Change("command", "c", "added"),
        Change("settings", "s.yml", "added"),
        Change("code", "2 files", "added"),
        Change("code", "1 file", "changed"),
    ]
    assert changes(after, after, ("0.2.0", "0.2.0")) == []
