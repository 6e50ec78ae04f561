"""The chain of the administrative log, and the files of acts that are not in it yet."""

from __future__ import annotations

import copy
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from log_material import hashed_anew, linked_anew
from penguindome import json
from penguindome_server.admin_log import (
    FIRST_PREVIOUS,
    LARGEST_DETAILS,
    LONGEST_TEXT,
    MOST_PROBLEMS,
    MOST_TARGETS,
    Act,
    ChainCheck,
    bounded_details,
    is_entry,
    make_entry,
)
from penguindome_server.admin_log_acts import UNKNOWN, ActFile, Beginning, acts_under_way, forget, waiting_acts
from penguindome_server.admin_log_head import Head, HeadError
from penguindome_server.store import Document
from penguindome_server.store.rules import checked
from penguindome_server.store.schema import SCHEMA

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
BEGINNING = Beginning("clients revoke", "ann", "ann", "server", NOON)


def act(**values: Any) -> Act:
    known = {
        "act_id": "0123456789abcdef", "act": "clients revoke", "who": "ann", "login": None, "host": "server",
        "targets": ["laptop"], "details": {"client_id": "A" * 40}, "outcome": "done", "done_at": NOON,
    }  # fmt: skip
    return Act(**{**known, **values})


def chain(length: int = 5) -> list[Document]:
    entries: list[Document] = []
    for number in range(1, length + 1):
        previous = entries[-1]["hash"] if entries else FIRST_PREVIOUS
        told = act(act_id=f"{number:016x}", targets=[f"laptop{number}"], done_at=NOON + timedelta(minutes=number))
        entries.append(make_entry(told, sequence=number, previous=previous))
    return entries


def problems(entries: list[Document], ends: tuple[int, str] | None) -> list[str]:
    checking = ChainCheck()
    checking.take_all(sorted(entries, key=lambda entry: str(entry["_id"])), ends=ends)
    checking.end(ends)
    assert checking.problems.count >= len(checking.problems.found)
    return checking.problems.found


def ends_of(entries: list[Document]) -> tuple[int, str]:
    return len(entries), entries[-1]["hash"]


def test_a_whole_chain_is_whole() -> None:
    entries = chain()
    assert problems(entries, ends_of(entries)) == []
    assert problems([], (0, FIRST_PREVIOUS)) == []
    stored = [{**entry, "_version": 1} for entry in entries]
    assert problems(stored, ends_of(entries)) == []


def edited(entries: list[Document]) -> list[Document]:
    entries[2]["who"] = "bob"
    return entries


def edited_and_hashed(entries: list[Document]) -> list[Document]:
    entries[2] = hashed_anew(entries[2], who="bob")
    return entries


def last_edited_and_hashed(entries: list[Document]) -> list[Document]:
    return [*entries[:-1], hashed_anew(entries[-1], who="bob")]


def swapped(entries: list[Document]) -> list[Document]:
    one, other = entries[1], entries[2]
    entries[1] = hashed_anew(other, _id=one["_id"], sequence=2)
    entries[2] = hashed_anew(one, _id=other["_id"], sequence=3)
    return entries


def added(entries: list[Document]) -> list[Document]:
    more = make_entry(act(who="mallory"), sequence=len(entries) + 1, previous=entries[-1]["hash"])
    return [*entries, more]


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (edited, "entry 3 was edited"),
        (edited_and_hashed, "entry 4 does not follow"),
        (last_edited_and_hashed, "entry 5 is another than the one that root's head names"),
        (lambda entries: entries[1:], "entry 1 is missing"),
        (lambda entries: [*entries[:2], *entries[4:]], "entries 3 to 4 are missing"),
        (lambda entries: entries[:-1], "entry 5 is missing"),
        (lambda entries: linked_anew(entries[1:]), "entry 5 is missing"),
        (lambda entries: linked_anew([*entries[:2], *entries[3:], entries[0]]), "entry 5 is another"),
        (swapped, "entry 2 does not follow"),
        (added, "entry 6 was added"),
        (lambda entries: linked_anew([{**entry, "who": "bob"} for entry in entries]), "entry 5 is another"),
        (lambda entries: [], "entries 1 to 5 are missing"),
        (lambda entries: [*entries, {**entries[0], "_id": "000000000003x"}], "none of the log's"),
        (lambda entries: [*entries, {"_id": "zzz"}], "none of the log's"),
        (lambda entries: [*entries[:-1], {**entries[-1], "sequence": 5.0}], "none of the log's"),
        (lambda entries: [*entries[:-1], {**entries[-1], "more": 1}], "entry 5 was edited"),
        (lambda entries: [*entries[:-1], {**entries[-1], "details": {"x": b"bytes"}}], "entry 5 was edited"),
    ],
)
def test_what_was_done_to_a_log_shows(tamper: Callable[[list[Document]], list[Document]], complaint: str) -> None:
    entries = chain()
    found = problems(tamper(copy.deepcopy(entries)), ends_of(entries))
    assert any(complaint in problem for problem in found), found


def test_only_so_many_problems_are_kept_and_all_are_counted() -> None:
    entries = chain(100)
    checking = ChainCheck()
    checking.take_all([{**entry, "who": "bob"} for entry in entries], ends=ends_of(entries))
    assert checking.problems.count == 100
    assert len(checking.problems.found) == MOST_PROBLEMS


def test_many_targets_are_counted_and_hashed_and_the_first_of_them_listed() -> None:
    hosts = [f"laptop{number}" for number in range(1000)]
    entry = make_entry(act(targets=hosts), sequence=1, previous=FIRST_PREVIOUS)
    assert entry["targets"] == hosts[:MOST_TARGETS]
    assert entry["targets_in_all"] == 1000
    other = make_entry(act(targets=[*hosts[:-1], "other"]), sequence=1, previous=FIRST_PREVIOUS)
    assert entry["targets_sha256"] != other["targets_sha256"]
    assert make_entry(act(), sequence=1, previous=FIRST_PREVIOUS)["targets_sha256"] is None


VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=True) | some.text(max_size=30)
    | some.datetimes(timezones=some.just(timezone.utc)) | some.binary(max_size=5),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(some.dictionaries(some.text(max_size=12) | some.just("seen_at"), VALUES, max_size=5), some.text(max_size=500))
def test_an_entry_can_be_stored_whatever_it_tells_and_fits_its_hash_when_it_is_read(
    details: dict[str, Any], text: str
) -> None:
    told = act(details=details, who=text, targets=[text], outcome=text)
    entry = make_entry(told, sequence=1, previous=FIRST_PREVIOUS)
    checked(entry, SCHEMA["admin_log"])
    again = json.loads(json.dumps(entry))
    assert again == entry
    assert is_entry(again)


def test_long_details_are_cut_and_hashed() -> None:
    small = {"reason": "x" * 15_000}
    assert bounded_details(small) == small
    large = bounded_details({"reason": "x" * 100_000})
    assert len(json.dumps(large)) <= LARGEST_DETAILS
    assert large["bytes"] > 100_000
    assert large["sha256"] != bounded_details({"reason": "y" * 100_000})["sha256"]
    entry = make_entry(act(who="w" * 5000, outcome="failed: " + "o" * 5000), sequence=1, previous=FIRST_PREVIOUS)
    assert len(entry["who"]) == len(entry["outcome"]) == LONGEST_TEXT


def test_the_head_holds_whole_entries_that_fit_their_hashes() -> None:
    entries = chain()
    head = Head(entries[3:])
    assert Head.parse(head.text) == head
    assert (head.count, head.hash) == ends_of(entries)
    forged = json.loads(head.text)
    forged["entries"][-1]["who"] = "bob"
    for text in (json.dumps(forged).encode(), b"{", b"[]", b'{"format":1,"kind":"admin-log","entries":[]}'):
        with pytest.raises(HeadError):
            Head.parse(text)
    shorter = json.loads(head.text) | {"count": 4}
    with pytest.raises(HeadError, match="contradicts"):
        Head.parse(json.dumps(shorter).encode())


def test_an_act_under_way_waits_for_its_end(tmp_path: Path) -> None:
    directory = tmp_path / "keys/acts"
    file = ActFile.begin(directory, BEGINNING)
    assert stat.S_IMODE(directory.parent.stat().st_mode) == stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.note(["one", "two"], {"client_id": "A"})
    file.note(["two", "three"], {"reason": "lost"})
    assert list(waiting_acts(directory)) == []
    assert acts_under_way(directory) == 1
    file.end("failed: so", at=NOON + timedelta(seconds=3))
    (waiting,) = waiting_acts(directory)
    assert (waiting.act.act, waiting.act.who, waiting.act.outcome) == ("clients revoke", "ann", "failed: so")
    assert waiting.act.targets == ["one", "two", "three"]
    assert waiting.act.details == {"client_id": "A", "reason": "lost"}
    assert waiting.act.done_at == NOON + timedelta(seconds=3)
    forget(directory, [waiting.act.act_id])
    assert list(directory.iterdir()) == []


def test_an_act_whose_process_died_is_told_with_what_is_known(tmp_path: Path) -> None:
    file = ActFile.begin(tmp_path, BEGINNING)
    file.note(["one"], {})
    # What the kernel does when a process is killed.
    os.close(file._open)
    (waiting,) = waiting_acts(tmp_path)
    assert (waiting.act.outcome, waiting.act.targets, waiting.act.done_at) == (UNKNOWN, ["one"], NOON)


def test_a_line_that_was_not_written_whole_does_not_spoil_the_others(tmp_path: Path) -> None:
    file = ActFile.begin(tmp_path, BEGINNING)
    os.write(file._open, b'{"targets": ["on')
    file._is_torn = True
    file.end("done", at=NOON)
    (waiting,) = waiting_acts(tmp_path)
    assert (waiting.act.outcome, waiting.act.targets) == ("done", [])


def test_what_was_called_off_leaves_nothing(tmp_path: Path) -> None:
    ActFile.begin(tmp_path, BEGINNING).discard()
    assert list(tmp_path.iterdir()) == []


def test_acts_that_come_and_go_meanwhile_disturb_nobody(tmp_path: Path) -> None:
    ended = threading.Event()

    def begin_and_discard() -> None:
        while not ended.is_set():
            ActFile.begin(tmp_path, BEGINNING).discard()

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(begin_and_discard) for _ in range(2)]
        try:
            for _ in range(4000):
                assert list(waiting_acts(tmp_path)) == []
                acts_under_way(tmp_path)
                forget(tmp_path, [])
        finally:
            ended.set()
        for other in others:
            other.result()
