"""`penguindome issues`, called as an administrator calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.times import utc_now
from penguindome_server.services import load_site_checks
from penguindome_server.settings import load_server_settings
from penguindome_server.store import open_store
from penguindome_tools.cli import main
from report_material import B, Machine, enrol, plugins

SETTINGS = """
business_time:
  hours: ["00:00", "24:00"]
  weekdays: [mon, tue, wed, thu, fri, sat, sun]
"""
CHECKS = """
no-firewall:
  description: no firewall is active
  query: {plugins.test.active: false}
  severity: high
  grace_period: 2d
  remedy: switch it on
"""
OFF = {"test": {"active": False}}


@pytest.fixture
def machine(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A client that reported a minute ago, and that it has no firewall."""
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    (paths.settings / "checks.d").mkdir(parents=True)
    (paths.settings / "checks.d/own.yml").write_text(CHECKS)
    (paths.settings / "server.yml").write_text(SETTINGS)
    paths.server_state.mkdir(parents=True)
    store = open_store(load_server_settings(paths)["database.uri"])
    now = utc_now()
    enrol(store, enrolled_at=now - timedelta(days=30))
    enrol(store, B, "other", enrolled_at=now - timedelta(days=1))
    reporting = Machine(store)
    reporting.checks = load_site_checks(paths)
    reporting.now = now - timedelta(minutes=2)
    reporting.report(plugins=plugins(**OFF))
    yield reporting
    store.close()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Exit status and the JSON that was printed."""
    status = main(["issues", *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def since(machine: Machine, days: int) -> None:
    """Let the open issue have been there for so long."""
    (episode,) = machine.episodes("no-firewall")
    earlier = episode["first_seen_at"] - timedelta(days=days)
    machine.store.collection("issues").update(episode["_id"], lambda issue: {**(issue or {}), "first_seen_at": earlier})


def test_nothing_is_said_about_an_issue_in_grace(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    status, result = run(capsys, "audit")
    assert status == 0
    assert [issue["issue"] for issue in result["in_grace"]] == ["no-firewall"]
    assert result["past_grace"] == []
    assert run(capsys, "list") == (0, [])
    assert [issue["issue"] for issue in run(capsys, "list", "--all")[1]] == ["no-firewall"]


def test_the_audit_shows_what_is_past_its_grace_and_exits_with_1(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    since(machine, 3)
    status = main(["issues", "audit"])
    line = capsys.readouterr().out
    assert status == 1
    columns = line.rstrip("\n").split("\t")
    assert (columns[0], columns[1], columns[3], columns[4]) == ("laptop", "no-firewall", "high", "switch it on")


def test_an_issue_is_opened_and_closed_by_hand(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["issues", "open", "other", "lost", "--details", "left in a train"]) == 0
    _, listed = run(capsys, "list", "--client", "other")
    assert [(issue["issue"], issue["description"]) for issue in listed] == [("lost", "left in a train")]
    assert main(["issues", "open", "other", "lost"]) == 2
    assert "open on other already" in capsys.readouterr().err
    assert main(["issues", "close", listed[0]["id"][:8], "--reason", "found"]) == 0
    assert main(["issues", "close", "laptop", "no-firewall"]) == 0
    capsys.readouterr()
    assert run(capsys, "list", "--all") == (0, [])
    closed = {issue["issue"]: issue["close_reason"] for issue in run(capsys, "list", "--state", "closed")[1]}
    assert closed == {"lost": "manual", "no-firewall": "manual"}
    assert [issue["issue"] for issue in run(capsys, "list", "--state", "all", "--name", "lost")[1]] == ["lost"]


@pytest.mark.parametrize(
    "words",
    [
        ("close", "laptop", "no-such-issue"),
        ("close", "nobody", "no-firewall"),
        ("close", "0123456789"),
        ("close", "one", "two", "three"),
        ("open", "nobody", "lost"),
        ("open", "laptop", " "),
        ("open", "laptop", "a\x1b[2J"),
        ("list", "--client", "nobody"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    machine: Machine, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["issues", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "\x1b" not in error


def test_hostile_text_is_shown_harmless(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    since(machine, 3)
    hostile = {"hostname": "evil\x1b[2J\nline"}
    (episode,) = machine.episodes("no-firewall")
    machine.store.collection("issues").update(episode["_id"], lambda issue: {**(issue or {}), **hostile})
    main(["issues", "list"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("\n") == 1
