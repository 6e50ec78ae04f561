"""What the client remembers."""

from __future__ import annotations

import resource
import stat
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from penguindome import json
from penguindome.client.errors import NoSpace
from penguindome.client.state import ClientState, StateFile
from penguindome.errors import InvalidData

MOMENT = datetime(2026, 11, 23, 22, 30, tzinfo=timezone.utc)


def test_a_state_comes_back_from_its_file_as_it_was_with_all_types(tmp_path: Path) -> None:
    state = ClientState(
        enrolment="enrolled", enrolled_at=MOMENT, sequence=7, exchange_token="t", clock_offset=-3.5, asked=2,
        postponed={"id": {"failures": 1, "not_before_at": MOMENT}}, commands_done={"commands/x": ["00"]},
    )  # fmt: skip
    StateFile(tmp_path / "state.json").save(state)
    assert StateFile(tmp_path / "state.json").load() == state


def test_only_root_may_read_the_state(tmp_path: Path) -> None:
    StateFile(tmp_path / "state.json").save(ClientState())
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence", "1"), ("sequence", True), ("sequence", 1.5), ("exchange_token", None), ("enrolled_at", "today"),
        ("postponed", []), ("clock_offset", "0"), ("collect_requested", 1), ("commands_done", None),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidData, match=name):
        ClientState.from_document({**ClientState().to_document(), name: value})


@pytest.mark.parametrize("document", [None, [], {}, {"format": 2}, "state"])
def test_what_is_no_state_is_refused(document: Any) -> None:
    with pytest.raises(InvalidData):
        ClientState.from_document(document)


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff", b'{"format":1,"sequence":"x"}', b"[" * 100_000])
def test_a_damaged_file_is_set_aside_and_the_client_starts_anew(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(contents)
    assert StateFile(path).load() == ClientState()
    assert (tmp_path / "state.json.damaged").read_bytes() == contents


def test_fields_of_a_newer_version_are_ignored_and_missing_ones_have_defaults() -> None:
    assert ClientState.from_document({"format": 1, "sequence": 3, "of_tomorrow": []}) == ClientState(sequence=3)


def test_a_state_that_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.save(ClientState(sequence=1))
    before = file.path.stat().st_ino
    file.save(ClientState(sequence=1))
    assert file.path.stat().st_ino == before


def test_a_change_inside_a_mapping_is_a_change(tmp_path: Path) -> None:
    file, state = StateFile(tmp_path / "state.json"), ClientState()
    file.save(state)
    state.postponed["id"] = {"failures": 1}
    file.save(state)
    assert json.loads(file.path.read_bytes())["postponed"] == {"id": {"failures": 1}}


def test_a_full_disk_leaves_the_old_state_and_says_what_to_do(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.save(ClientState(sequence=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(NoSpace, match="no space") as caught:
            file.save(ClientState(sequence=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free some space" in str(caught.value.hint)
    assert StateFile(file.path).load().sequence == 1
    assert list(tmp_path.iterdir()) == [file.path]
