"""Moving from one engine to the other and back: `penguindome store copy`, `penguindome store check`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome_server.store import Document, Store, StoreError, open_store
from penguindome_server.store.copying import copy_store
from penguindome_server.store.schema import SCHEMA
from penguindome_tools.cli import main

NOON = datetime(2026, 11, 23, 12, 0, 0, 123000, tzinfo=UTC)


def _fill(store: Store) -> None:
    clients, trail, packages = (store.collection(name) for name in ("clients", "audit_trail", "packages"))
    for number in range(120):
        clients.insert({"_id": f"{number:040X}", "hostname": f"h{number}", "last_seen_at": NOON, "plugins": {"n": 2.0}})
    clients.update(f"{3:040X}", lambda document: {**(document or {}), "state": "enrolled", "large": 2**40})
    trail.insert_new([{"_id": f"r:{number}", "received_at": NOON, "old": None, "new": {}} for number in range(250)])
    packages.insert({"_id": f"{1:040X}", "text": "Zürich 🐧\0" * 100_000, "updated_at": NOON})


def _everything(store: Store) -> dict[str, list[Document]]:
    return {name: list(store.collection(name).find()) for name in SCHEMA}


def _quietly(documents: Iterator[Document], count: int, label: str) -> Iterator[Document]:
    return documents


@pytest.fixture(params=["sqlite", "mongodb"])
def engines(request: pytest.FixtureRequest, tmp_path: Path, mongodb_uri: str) -> tuple[str, str]:
    """Source and target: from each engine to the other."""
    sqlite_uri = f"sqlite://{tmp_path / 'copied.sqlite'}"
    return (sqlite_uri, mongodb_uri) if request.param == "sqlite" else (mongodb_uri, sqlite_uri)


@pytest.fixture
def root(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    paths.settings.mkdir(parents=True)
    paths.server_state.mkdir(parents=True)
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    return paths


def _set_database(paths: Paths, uri: str) -> None:
    (paths.settings / "server.yml").write_text(json.dumps({"database": {"uri": uri}}), "utf-8")


def test_a_copy_into_the_other_engine_holds_the_same_documents_versions_and_moments(
    engines: tuple[str, str], root: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = engines
    with closing(open_store(source)) as store:
        _fill(store)
        expected = _everything(store)
    assert main(["store", "copy", source, target]) == 0
    assert "Next: set database.uri" in capsys.readouterr().err
    with closing(open_store(target)) as store:
        assert _everything(store) == expected
        assert store.check() == []
        changed = store.collection("clients").get(f"{3:040X}")
        assert changed is not None
        assert changed["_version"] == 2
        assert type(changed["plugins"]["n"]) is float


def test_a_target_with_documents_is_refused_and_left_alone(
    engines: tuple[str, str], root: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = engines
    with closing(open_store(target)) as store:
        store.collection("issues").insert({"_id": "1", "state": "closed"})
    with closing(open_store(source)) as store:
        _fill(store)
    assert main(["store", "copy", source, target]) == 1
    assert "is not empty: there are documents in issues" in capsys.readouterr().err
    with closing(open_store(target)) as store:
        assert store.collection("clients").count() == 0


def test_a_copy_that_differs_from_its_source_is_an_error(engines: tuple[str, str]) -> None:
    source, target = engines

    def meddle(documents: Iterator[Document], count: int, label: str) -> Iterator[Document]:
        yield from documents
        if label == "copying server_state":
            copy.collection("clients").update("A", lambda document: {**(document or {}), "n": 2})

    with closing(open_store(source)) as original, closing(open_store(target)) as copy:
        original.collection("clients").insert({"_id": "A", "n": 1})
        with pytest.raises(StoreError, match="not the same"):
            copy_store(original, copy, meddle)


def test_a_store_can_be_named_by_the_settings_and_by_a_file(
    tmp_path: Path, root: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = f"sqlite://{tmp_path / 'a.sqlite'}", f"sqlite://{tmp_path / 'b.sqlite'}"
    _set_database(root, source)
    named = tmp_path / "target.uri"
    named.write_text(f"{target}\n", "utf-8")
    with closing(open_store(source)) as store:
        store.collection("clients").insert({"_id": "A"})
    assert main(["store", "copy", "settings", f"@{named}", "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (answer["source"], answer["target"]) == (source, target)
    assert {row["collection"]: row["documents"] for row in answer["collections"]}["clients"] == 1


def test_a_store_is_not_copied_onto_itself(tmp_path: Path, root: Paths) -> None:
    uri = f"sqlite://{tmp_path / 'a.sqlite'}"
    assert main(["store", "copy", uri, uri]) == 2
    assert main(["store", "copy", f"@{tmp_path / 'missing'}", uri]) == 2


def test_check_says_that_a_sound_store_is_sound(
    tmp_path: Path, root: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite://{tmp_path / 'a.sqlite'}"
    _set_database(root, uri)
    with closing(open_store(uri)) as store:
        store.collection("clients").insert({"_id": "A"})
    assert main(["store", "check"]) == 0
    assert "is sound; documents: 1" in capsys.readouterr().out
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as connection, connection:
        connection.execute("UPDATE clients SET hostname = 'another'")
        connection.execute("INSERT INTO clients (key, version, document) VALUES ('B', 1, '{')")
    assert main(["store", "check", "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert len(problems) == 2
    assert "'A': an indexed column is not what the document says" in problems[0]
    assert "'B': the stored document 'B' is damaged" in problems[1]


def test_digests_see_the_type_of_a_value(tmp_path: Path) -> None:
    def digests(value: Any, name: str) -> list[str]:
        with (
            closing(open_store(f"sqlite://{tmp_path / name}.sqlite")) as original,
            closing(open_store(f"sqlite://{tmp_path / name}-copy.sqlite")) as copy,
        ):
            original.collection("clients").insert({"_id": "A", "value": value})
            return [summary.digest for summary in copy_store(original, copy, _quietly)]

    values = [1, 1.0, True, "1", None, [], {}]
    assert len({tuple(digests(value, f"n{number}")) for number, value in enumerate(values)}) == len(values)
