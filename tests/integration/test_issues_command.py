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
from smtp_peer import SmtpPeer, smtp_peer

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


@pytest.fixture
def smtp(paths: Paths, machine: Machine) -> Iterator[SmtpPeer]:
    """An SMTP server that the settings name; mail goes to two people."""
    with smtp_peer() as peer:
        mail = (
            f'mail: {{host: 127.0.0.1, port: {peer.port}}}\naudit.mail_to: "Ann <ann@example.org>, ops@example.org"\n'
        )
        (paths.settings / "server.yml").write_text(SETTINGS + mail)
        yield peer


def test_what_the_timer_finds_past_its_grace_is_mailed(
    machine: Machine, smtp: SmtpPeer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["issues", "audit", "--mail"]) == 0
    assert smtp.mails == []
    since(machine, 3)
    assert main(["issues", "audit", "--mail"]) == 0
    assert capsys.readouterr() == ("", "")
    (mail,) = smtp.mails
    assert smtp.recipients == [["ann@example.org", "ops@example.org"]]
    assert mail["Subject"] == "[PenguinDome] 1 problem on 1 machine"
    assert abs(mail["Date"].datetime - utc_now()) < timedelta(minutes=5)
    assert mail["Message-ID"].startswith("<")
    assert mail["Auto-Submitted"] == "auto-generated"
    text = mail.get_content()
    assert "laptop\r\n  no-firewall (high), since " in text.replace("\n", "\r\n").replace("\r\r", "\r")
    assert "switch it on" in text
    assert smtp.raw[0].isascii()


def test_the_same_findings_are_mailed_again_after_a_day_and_new_ones_at_once(machine: Machine, smtp: SmtpPeer) -> None:
    since(machine, 3)
    for _ in range(3):
        assert main(["issues", "audit", "--mail"]) == 0
    assert len(smtp.mails) == 1
    assert main(["issues", "open", "other", "lost"]) == 0
    assert main(["issues", "audit", "--mail"]) == 0
    assert smtp.mails[1]["Subject"] == "[PenguinDome] 2 problems on 2 machines"
    assert main(["issues", "audit", "--mail"]) == 0
    assert len(smtp.mails) == 2
    state = machine.store.collection("server_state")
    state.update("audit_mail", lambda told: {**(told or {}), "told_at": utc_now() - timedelta(days=1)})
    assert main(["issues", "audit", "--mail"]) == 0
    assert len(smtp.mails) == 3


def test_a_mail_that_is_not_taken_does_not_end_the_audit_and_is_tried_again(
    machine: Machine, smtp: SmtpPeer, capsys: pytest.CaptureFixture[str]
) -> None:
    since(machine, 3)
    smtp.refusal = "550 no such user"
    assert main(["issues", "audit", "--mail"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("laptop\tno-firewall\t")
    assert "ann@example.org" in err
    assert machine.store.collection("server_state").get("audit") is not None
    smtp.refusal = ""
    assert main(["issues", "audit", "--mail"]) == 0
    assert len(smtp.mails) == 1


def test_without_a_mail_server_the_findings_are_shown_and_no_password_is(
    machine: Machine, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    since(machine, 3)
    own = "mail: {host: 127.0.0.1, port: 1, user: audit, password: geheim}\naudit.mail_to: ann@example.org\n"
    (paths.settings / "server.yml").write_text(SETTINGS + own)
    assert main(["issues", "audit", "--mail"]) == 1
    out, err = capsys.readouterr()
    assert "no-firewall" in out
    assert "127.0.0.1:1" in err
    assert "geheim" not in out + err


def test_without_an_address_the_timer_leaves_its_findings_in_the_journal(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    since(machine, 3)
    assert main(["issues", "audit", "--mail"]) == 0
    assert "no-firewall" in capsys.readouterr().out


def test_an_audit_that_was_switched_off_is_not_run_by_the_timer(
    machine: Machine, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    since(machine, 3)
    (paths.settings / "server.yml").write_text(SETTINGS + "audit.scheduled: false\n")
    assert main(["issues", "audit", "--mail"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["issues", "audit"]) == 1


def test_no_host_name_forges_a_header_or_a_line_of_the_mail(machine: Machine, smtp: SmtpPeer) -> None:
    clients = machine.store.collection("issues")
    since(machine, 3)
    (episode,) = machine.episodes("no-firewall")
    hostile = "laptop\r\nBcc: eve@example.org\r\n\r\nall is well"
    clients.update(episode["_id"], lambda issue: {**(issue or {}), "hostname": hostile})
    assert main(["issues", "audit", "--mail"]) == 0
    (mail,) = smtp.mails
    assert smtp.recipients == [["ann@example.org", "ops@example.org"]]
    assert "Bcc" not in mail
    assert "\nall is well" not in mail.get_content()
    assert "eve@example.org" not in str(mail["Subject"])


@pytest.mark.parametrize("text", ["ann", "ann@", "ann@example.org bob@example.org", "ann@example.org,,@", "a\nb@c"])
def test_what_is_no_mail_address_is_refused_when_settings_are_read(
    machine: Machine, paths: Paths, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (paths.settings / "server.yml").write_text(SETTINGS + f"audit.mail_to: {json.dumps(text)}\n")
    assert main(["issues", "audit", "--mail"]) == 2
    assert "audit.mail_to" in capsys.readouterr().err
