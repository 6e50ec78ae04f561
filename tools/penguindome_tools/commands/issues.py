"""`penguindome issues`: what is wrong in the fleet, since when, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from penguindome.errors import UsageError
from penguindome_server import audit_mail, certificates, rollout
from penguindome_server.audit import AuditResult, AuditSettings, audit
from penguindome_server.business_time import from_settings
from penguindome_server.enrolment import find_client
from penguindome_server.issues import SEVERITIES, Grace, Listed, close_issue, list_issues, open_issue, open_issues
from penguindome_server.mail import MailNotSent, send
from penguindome_server.server_issues import SERVER_ID
from penguindome_server.signed_expiry import expiring
from penguindome_server.store import Document
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import json_option, print_json, print_table, safe

FOUND_PROBLEMS = 1
AUDIT_COLUMNS = ("client", "issue", "since_at", "severity", "remedy")
LIST_COLUMNS = ("id", "client", "issue", "state", "since_at", "severity", "in_grace")


@click.group()
def command() -> None:
    """Find, list, open and close issues: problems of clients.

    \b
    Examples:
      penguindome issues audit
      penguindome issues list --client laptop7 --state all
      penguindome issues close laptop7 no-firewall --reason "replaced next week"
    """


@command.command("audit")
@click.option(
    "--mail", "by_timer", is_flag=True, help="As the timer does: if audit.scheduled is on, by mail to audit.mail_to."
)
@json_option
@pass_context
def audit_command(context: Context, *, by_timer: bool, as_json: bool) -> None:
    """Show all issues that are past their grace period, after looking for those that time alone brings.

    These are, for instance, machines that no longer report. A timer does this too, with --mail. Exits with 1 when there
    is anything to show; with --mail only when the mail was not taken, which is then shown instead.

    \b
    Examples:
      penguindome issues audit
      penguindome issues audit --json | jq -r '.past_grace[].client'
    """
    if by_timer and not context.settings["audit.scheduled"]:
        return
    settings, store, now = AuditSettings.from_settings(context.settings), context.store, context.clock()
    expires = expiring(context.paths, [offer.release for offer in rollout.offers(store)], now=now)
    shown = certificates.expiring(context.settings, now=now)
    result = audit(store, context.checks, settings, now=now, expiring=expires, certificates=shown)
    if by_timer and _told(context, result):
        return
    _show_audit(result, as_json=as_json)
    if result.found_problems and (not by_timer or context.settings["audit.mail_to"]):
        raise click.exceptions.Exit(FOUND_PROBLEMS)


def _show_audit(result: AuditResult, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "past_grace": [issue.row() for issue in result.past_grace],
                "in_grace": [issue.row() for issue in result.in_grace],
                "warnings": result.warnings,
                "clients": result.clients,
            }
        )
        return
    for warning in result.warnings:
        click.echo(f"warning: {safe(warning)}", err=True)
    print_table([issue.row() for issue in result.past_grace], AUDIT_COLUMNS, as_json=False)
    if result.in_grace:
        click.echo(f"{len(result.in_grace)} more in grace: penguindome issues list --all", err=True)


def _told(context: Context, result: AuditResult) -> bool:
    """Tell by mail what is due; False when it has to be shown instead: there is nobody to mail to, or no way."""
    settings, now = context.settings, context.clock()
    if not settings["audit.mail_to"]:
        return False
    if not audit_mail.is_due(context.store, result, now=now):
        return True
    try:
        send(settings, audit_mail.compose(settings, result, now=now))
    except MailNotSent as error:
        # The audit was made and its findings are stored; the next one tries again.
        click.echo(f"warning: {error.message}; {error.hint or 'look at its log'}", err=True)
        return False
    audit_mail.note_told(context.store, result, now=now)
    return True


@command.command("list")
@click.option(
    "--client", "host", help="Only issues of this client (host name or beginning of its id), or of the server."
)
@click.option("--name", help="Only issues of this name.")
@click.option("--state", type=click.Choice(["open", "closed", "all"]), default="open", show_default=True)
@click.option("--all", "with_grace", is_flag=True, help="Also open issues whose grace period is not over.")
@json_option
@pass_context
def list_command(
    context: Context, *, host: str | None, name: str | None, state: str, with_grace: bool, as_json: bool
) -> None:
    """List issues, the worst first.

    \b
    Examples:
      penguindome issues list --all
      penguindome issues list --name no-firewall --json
      penguindome issues list --client laptop7 --state closed
    """
    client_id = _client_id(context, host) if host else None
    grace = Grace(context.checks, from_settings(context.settings), context.clock())
    wanted = None if state == "all" else state
    found = sorted(
        (
            issue
            for issue in list_issues(context.store, grace, client_id=client_id, name=name, state=wanted)
            if with_grace or not issue.in_grace
        ),
        key=_rank,
    )
    print_table([issue.row() for issue in found], LIST_COLUMNS, as_json=as_json, empty="no issues")


def _client_id(context: Context, host: str) -> str:
    client_id: str = host if host == SERVER_ID else find_client(context.store, host)["_id"]
    return client_id


def _rank(issue: Listed) -> tuple[int, str, str]:
    return issue.rank


@command.command("open")
@click.argument("host")
@click.argument("name")
@click.option("--details", default="", help="What a reader should know about it.")
@click.option("--severity", type=click.Choice(SEVERITIES), help="Default: the check's, or medium.")
@pass_context
@administrative("issues open")
def open_command(context: Context, *, host: str, name: str, details: str, severity: str | None) -> None:
    """Open the issue NAME on a client by hand. Only `close` closes it.

    \b
    Examples:
      penguindome issues open laptop7 lost --severity critical --details "left in a train on Monday"
    """
    if not name.strip() or not name.isprintable():
        raise UsageError("the name of an issue must be printable text")
    client = find_client(context.store, host)
    context.acts_on(client["hostname"], client_id=client["_id"], issue=name, details=details)
    open_issue(
        context.store,
        context.checks,
        client,
        name,
        who=context.who,
        now=context.clock(),
        severity=severity,
        details=details,
    )


@command.command("close")
@click.argument("words", nargs=-1, required=True, metavar="HOST NAME | ID")
@click.option("--reason", default="", help="Why; kept in the issue's history.")
@pass_context
@administrative("issues close")
def close_command(context: Context, *, words: Sequence[str], reason: str) -> None:
    """Close an open issue by hand: the issue NAME of a client, or the one with this ID.

    If the problem is still there when the client collects its data again, the issue opens again.

    \b
    Examples:
      penguindome issues close laptop7 no-firewall --reason "false alarm"
      penguindome issues close 3fb1c0a5d2
    """
    issue = _find_issue(context, words)
    context.acts_on(issue["hostname"], client_id=issue["client_id"], issue=issue["name"], reason=reason)
    close_issue(context.store, issue["_id"], who=context.who, now=context.clock(), reason=reason)


def _find_issue(context: Context, words: Sequence[str]) -> Document:
    if len(words) > 2:
        raise UsageError(
            "give a client and the name of an issue, or the id of an issue", hint="penguindome issues list"
        )
    if len(words) == 2:
        host, name = words
        client_id = _client_id(context, host)
        found: list[dict[str, Any]] = [
            issue for issue in open_issues(context.store, client_id) if issue["name"] == name
        ]
        if not found:
            raise UsageError(f"{name!r} is not open on {host}", hint=f"penguindome issues list --all --client {host}")
        return found[0]
    issue_id = words[0].lower()
    issues = context.store.collection("issues")
    found = list(issues.find({"_id": {"$gte": issue_id, "$lt": issue_id + "g"}}, limit=2))
    if not found:
        raise UsageError(f"there is no issue {issue_id!r}", hint="penguindome issues list --all shows the ids")
    if len(found) > 1:
        raise UsageError(f"several issues have an id that begins with {issue_id!r}", hint="give more of it")
    return found[0]
