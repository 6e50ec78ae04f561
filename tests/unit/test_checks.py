"""Checks as files: what they may hold, how a site overrides them, and that every mistake is found with its line."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from penguindome.errors import SettingsError
from penguindome_server.checks import load_checks, read_checks

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
WHOLE = """\
door-open:
  description: the door is open
  query: {plugins.door.open: true}
  severity: high
  grace_period: 2d
  alert_frequency: 12h
  remedy: |
    Close it.
"""


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A directory of checks with one whole check."""
    directory = tmp_path / "shipped"
    directory.mkdir()
    (directory / "door.yml").write_text(WHOLE)
    return directory


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An empty directory of checks."""
    directory = tmp_path / "site"
    directory.mkdir()
    return directory


def open_door(**more: Any) -> dict[str, Any]:
    return {"plugins": {"door": {"open": True}}, "collected_at": NOW, **more}


def test_a_check_has_what_its_file_says(shipped: Path) -> None:
    check = load_checks(shipped)["door-open"]
    assert check.description == "the door is open"
    assert (check.severity, check.enabled, check.remedy) == ("high", True, "Close it.")
    assert (check.grace_period, check.alert_frequency) == (timedelta(days=2), timedelta(hours=12))
    assert check.source == f"{shipped / 'door.yml'}:1"


def test_what_a_file_leaves_out_has_a_default(site: Path) -> None:
    (site / "a.yml").write_text("a:\n  description: d\n  query: {x: 1}\n")
    check = load_checks(site)["a"]
    assert (check.severity, check.grace_period, check.alert_frequency) == ("medium", timedelta(0), timedelta(days=1))


def test_failing_names_what_matches_in_order(shipped: Path, site: Path) -> None:
    (site / "a.yml").write_text("zz: {description: d, query: {x: 1}}\nany: {description: d, query: {x: 1}}\n")
    checks = load_checks(shipped, site)
    assert checks.failing(open_door(x=1)) == ["any", "door-open", "zz"]
    assert checks.failing({"plugins": {}}) == []
    assert checks.failing({}) == []


def test_a_site_replaces_single_fields(shipped: Path, site: Path) -> None:
    (site / "a.yml").write_text("\ndoor-open: {severity: low}\n")
    check = load_checks(shipped, site)["door-open"]
    assert (check.severity, check.description) == ("low", "the door is open")
    assert check.source == f"{site / 'a.yml'}:2"
    assert check.matches(open_door())


def test_a_disabled_check_is_known_and_never_fails(shipped: Path, site: Path) -> None:
    (site / "a.yml").write_text("door-open: {enabled: false}\n")
    checks = load_checks(shipped, site)
    assert checks.failing(open_door()) == []
    assert list(checks) == []
    assert not checks["door-open"].enabled
    assert [check.name for check in checks.all] == ["door-open"]


def test_a_directory_that_is_not_there_and_empty_files_hold_no_checks(shipped: Path, site: Path) -> None:
    (site / "empty.yml").write_text("# nothing yet\n")
    (site / "notes.txt").write_text("{not yaml")
    assert [check.name for check in load_checks(shipped, site, site / "missing")] == ["door-open"]


def test_an_age_is_measured_at_the_time_of_collection(site: Path) -> None:
    (site / "a.yml").write_text(
        "old:\n  description: d\n  query: {lists.seen_at: {$exists: true}}\n  older_than: {lists.seen_at: 14d}\n"
    )
    matches = load_checks(site)["old"].matches
    seen = {"seen_at": NOW - timedelta(days=14)}
    assert matches({"collected_at": NOW + timedelta(seconds=1), "lists": seen})
    assert not matches({"collected_at": NOW, "lists": seen})
    assert not matches({"lists": seen})
    assert not matches({"collected_at": NOW, "lists": {"seen_at": None}})
    assert not matches({"collected_at": NOW, "lists": {"seen_at": "2020-01-01"}})


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("door-open: {severty: low}", 1, "door-open: unknown key severty; did you mean severity?"),
        ("door-open:\n  severity: awful", 2, "severity: 'awful' is none of low, medium, high, critical"),
        ("door-open:\n  grace_period: soon", 2, "grace_period: 'soon' is not a duration"),
        ("door-open:\n  grace_period: true", 2, "grace_period: True is not a duration"),
        ("door-open:\n  enabled: maybe", 2, "enabled: expected true or false"),
        ("door-open:\n  description: 5", 2, "description: expected text"),
        ("door-open:\n  description: |\n    two\n    lines", 2, "description: expected text on one line"),
        ("door-open:\n  query: {}", 2, "query: expected a query"),
        ("door-open:\n  query:\n    a.b:\n      $gtx: 1", 4, "query: a.b.$gtx: unknown operator $gtx"),
        ("door-open:\n  query:\n    $or:\n      - a: 1\n      - b: {$in: 1}", 5, "$or[1].b.$in: $in needs a list"),
        ("door-open:\n  query:\n    a:\n      $regex: (a", 4, "a.$regex: missing )"),
        ("door-open:\n  query:\n    a..b: 1", 3, "the path has an empty part"),
        ("door-open:\n  older_than:\n    a: 1 fortnight", 3, "older_than: a: '1 fortnight' is not a duration"),
        ("door-open: on fire", 1, "door-open: expected fields such as description and query"),
        ("dor-open: {enabled: false}", 1, "description and query missing, and there is no such check; did you mean"),
        ("Door_Open: {enabled: false}", 1, "'Door_Open' is no name of a check"),
        ("not-reporting: {description: x, query: {}}", 1, "an issue that the server opens itself"),
        ("door-open: {enabled: false}\ndoor-open: {severity: low}", 2, "given twice"),
        ("door-open:\n  query: {a: [1, 2}", 2, ""),
        ("- door-open", 1, "expected `name: value` lines"),
    ],
)
def test_a_mistake_is_an_error_with_file_and_line(
    shipped: Path, site: Path, text: str, line: int, message: str
) -> None:
    (site / "site.yml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_checks(shipped, site)
    assert caught.value.message.startswith(f"{site / 'site.yml'}:{line}: ")
    assert message in caught.value.message


def test_every_mistake_is_found_not_only_the_first(shipped: Path, site: Path) -> None:
    (site / "a.yml").write_text("door-open: {severty: low, grace: 1d}\n")
    (site / "b.yml").write_text("door-open: {enabled: false}\n")
    (site / "c.yml").write_text("{")
    checks, problems = read_checks(shipped, site)
    assert len(problems) == 4
    assert "defined twice" in problems[2]
    assert list(checks) == []


def test_a_directory_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="Not a directory"):
        load_checks(tmp_path / "file")
