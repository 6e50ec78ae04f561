"""SECURITY.md keeps its word: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_every_test_that_security_md_names_exists() -> None:
    text = (CHECKOUT / "SECURITY.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    tests = "".join(path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py"))
    written = set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
    assert len(named) > 40
    assert named - written == set()


def test_every_claim_names_a_test() -> None:
    text = (CHECKOUT / "SECURITY.md").read_text()
    attackers = text.split("## The network attacker")[1]
    claims = re.findall(r"^- (.*?)(?=^- |^#|\Z)", attackers, re.MULTILINE | re.DOTALL)
    assert len(claims) > 15
    assert [claim for claim in claims if "`test_" not in claim] == []
