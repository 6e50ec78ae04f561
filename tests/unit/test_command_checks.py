"""`penguindome checks`, called as an administrator calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome_tools.cli import main


@pytest.fixture
def site(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The site's checks directory of a machine with nothing else set up."""
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    directory = paths.settings / "checks.d"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """A client's document whose /home is not encrypted."""
    volumes = [{"path": "/dev/sda2", "kind": "filesystem", "encrypted": True}]
    volumes.append({"path": "/dev/sdb1\x1b[2J", "kind": "filesystem", "encrypted": False})
    path = tmp_path / "document.json"
    path.write_text(json.dumps({"plugins": {"hd_encryption": {"encrypted": False, "volumes": volumes}}}))
    return path


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["checks", "list", "--json"]) == 0
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)}


def test_list_shows_shipped_checks_and_those_of_the_site(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "own.yml").write_text(
        "firewall-missing: {enabled: false}\nown: {description: d, query: {x: {$gt: 2026-01-01T00:00:00Z}}}\n"
    )
    checks = listed(capsys)
    assert not checks["firewall-missing"]["enabled"]
    assert checks["own"]["query"] == {"x": {"$gt": "2026-01-01T00:00:00.000Z"}}
    assert checks["own"]["source"] == f"{site / 'own.yml'}:2"
    assert checks["disk-not-encrypted"]["grace_period"] == "2d"


def test_list_in_a_pipe_is_a_line_a_check(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checks", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("firewall-inactive\tyes\thigh\t1d\t") for line in lines)


def test_lint_finds_nothing_wrong_with_what_is_shipped(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checks", "lint"]) == 0
    assert capsys.readouterr().out == ""


def test_lint_shows_every_mistake_with_its_line(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "own.yml").write_text("one: {descr: d}\ntwo:\n  description: d\n  query: {a: {$foo: 1}}\n")
    assert main(["checks", "lint"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{site / 'own.yml'}:1: one: unknown key descr; did you mean description?")
    assert lines[1].startswith(f"{site / 'own.yml'}:4: two: query: a.$foo: unknown operator $foo")


def test_lint_looks_at_another_directory(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "own.yml").write_text("own: {}\n")
    assert main(["checks", "lint", str(tmp_path / "review")]) == 1
    assert "description and query missing" in capsys.readouterr().out


def test_other_commands_stop_at_a_mistake(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "own.yml").write_text("one: {descr: d}\n")
    assert main(["checks", "list"]) == 2
    assert f"{site / 'own.yml'}:1: one: unknown key descr" in capsys.readouterr().err


def test_test_shows_which_part_matches_and_what_was_found(
    site: Path, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checks", "test", "disk-not-encrypted", "--document", str(document)]) == 1
    output = capsys.readouterr().out
    assert output.startswith("disk-not-encrypted: matches\n")
    assert "true   plugins.hd_encryption.volumes: {$elemMatch: " in output
    assert "/dev/sdb1" in output
    assert "/dev/sda2" not in output
    assert "\x1b" not in output


def test_test_says_why_a_check_does_not_match(site: Path, document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checks", "test", "firewall-missing", "--document", str(document)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("firewall-missing: does not match\n")
    assert "false  plugins.firewall.active: false <- (nothing there)" in output


def test_test_speaks_to_programs(site: Path, document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checks", "test", "disk-not-encrypted", "--document", str(document), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["matches"]
    assert answer["parts"][0]["found"][0]["encrypted"] is False


def test_test_finds_the_document_of_a_client(
    site: Path, paths: Paths, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from penguindome_server.store import open_store

    store_file = paths.root / "store.sqlite"
    (paths.settings / "server.yml").write_text(f"database.uri: sqlite://{store_file}\n")
    store = open_store(f"sqlite://{store_file}")
    client = {"_id": "A" * 40, "hostname": "laptop7", "state": "enrolled", **json.loads(document.read_text())}
    store.collection("clients").insert(client)
    store.close()
    assert main(["checks", "test", "disk-not-encrypted", "--client", "laptop7"]) == 1
    assert capsys.readouterr().out.startswith("disk-not-encrypted: matches\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-check", "--document", "-"], "there is no check 'no-such-check'"),
        (["firewall-missing"], "give either --client or --document"),
        (["firewall-missing", "--document", "/nonexistent"], "No such file"),
    ],
)
def test_wrong_words_end_with_status_2(
    site: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["checks", "test", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_document_that_is_no_object_is_refused(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.json").write_text("[]")
    assert main(["checks", "test", "firewall-missing", "--document", str(tmp_path / "list.json")]) == 1
    assert "must be a JSON object" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["list", "lint", "test"])
def test_help_shows_examples(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    main(["checks", verb, "--help"])
    assert "Examples:\n    penguindome" in capsys.readouterr().out
