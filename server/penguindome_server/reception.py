"""What a report makes of a client's document. Pure: a document before, a report and the surroundings in, a document
after out.

The document after carries an `outbox` with everything that has to follow from it in other collections (see
`outbox.py`), unless nothing has to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penguindome import json
from penguindome.times import isoformat
from penguindome_server import exchange, packages, update_outcomes
from penguindome_server.checks import CheckSet
from penguindome_server.compare import Change, compare_plugins, failed, same
from penguindome_server.episodes import closing, opening
from penguindome_server.evaluation import checks_digest, evaluate
from penguindome_server.issue_kinds import (
    CLONED_CLIENT,
    DEPRECATED_PORT,
    KINDS,
    MANIFEST_EXPIRED,
    NOT_REPORTING,
    PLUGIN_FAILED,
    TRAIL_LIMIT,
    UPDATE_FAILED,
)
from penguindome_server.reports import Limits, Report
from penguindome_server.store import Document
from penguindome_server.trail import Limited, limited, shortened

RECENT_REPORTS = 20
PREVIOUS_HOSTNAMES = 20
KEPT_COMMANDS = 50
KEPT_COMMAND_BYTES = 256 * 1024


@dataclass(frozen=True)
class Surroundings:
    """What the plan needs beside the document and the report: the peer's address, the time, the next token, the
    limits, the stored packages, the port if the report came over one that is deprecated, and the release that the
    client should have.
    """

    address: str
    now: datetime
    token: str
    limits: Limits
    stored_packages: Document | None = None
    deprecated_port: int | None = None
    due_release: int | None = None


def needs_stored_packages(before: Document, report: Report) -> bool:
    """Whether the plan needs the stored packages, because the list is not the one reported last, or is gone."""
    if packages.PLUGIN in report.plugins:
        return report.package_list is not None and report.package_digest != before.get("packages_digest")
    return "packages_digest" in before


def plan(before: Document, report: Report, checks: CheckSet, surroundings: Surroundings) -> Document:
    """The client's document after this report, `outbox` included. `before` is not modified; unchanged parts are shared
    with it.
    """
    now = surroundings.now
    collected_at = report.collected_by_our_clock(now)
    after = {
        **before,
        **_identity(before, report, now),
        "address": surroundings.address,
        "last_seen_at": now,
        "reported_at": now,
        "collected_at": collected_at,
        "report_id": report.report_id,
        "sequence": report.sequence,
        "generation": before.get("generation", 0) + 1,
        "recent_reports": [*before.get("recent_reports", ()), report.report_id][-RECENT_REPORTS:],
        "exchange": exchange.after_report(
            before.get("exchange"),
            token=surroundings.token,
            report_id=report.report_id,
            address=surroundings.address,
        ),
        "plugins": _plugins(before, report),
        "commands": _commands(before, report, collected_at, now),
    }
    _keep_outcome(before, report, after, now)
    after["raised"] = list(_raised(after, surroundings))
    difference = _packages(before, report, after, surroundings.stored_packages)
    rows = limited(
        _changes(before, report, after, surroundings.stored_packages if difference else None),
        before.get("trail_bytes"),
        now=now,
        bytes_per_day=surroundings.limits.trail_bytes_per_day,
    )
    after["trail_bytes"] = rows.account
    evaluation = evaluate(before, after, checks, collected_at=collected_at)
    after["failing"] = evaluation.failing
    after["manual_closes"] = evaluation.manual_closes
    after["checks_digest"] = checks_digest(checks)
    transitions = [*evaluation.transitions, *_own_transitions(before, report, after, rows, surroundings)]
    return _with_outbox(before, after, rows.rows, difference, transitions)


def _identity(before: Document, report: Report, now: datetime) -> Document:
    """Host name and former host names."""
    old = before.get("hostname")
    if not old or old == report.hostname:
        return {"hostname": report.hostname}
    former = [*before.get("previous_hostnames", ()), {"hostname": old, "until_at": now}]
    return {"hostname": report.hostname, "previous_hostnames": former[-PREVIOUS_HOSTNAMES:]}


def _plugins(before: Document, report: Report) -> Document:
    """The outputs, with the list of packages replaced by its summary. What did not change is shared with `before`."""
    old = before.get("plugins", {})
    new: Document = {}
    shown = {} if report.package_list is None else {packages.PLUGIN: packages.summary(report.package_list)}
    for name, output in (report.plugins | shown).items():
        new[name] = old[name] if name in old and same(old[name], output) else output
    return new


def _commands(before: Document, report: Report, collected_at: datetime, now: datetime) -> Document:
    """The outputs of one-time commands, each with its time; the newest `KEPT_COMMANDS` of them that take no more than
    `KEPT_COMMAND_BYTES` together, so that large outputs cannot fill the document by and by. Of a new one that is too
    large there is `{"sha256", "bytes", "shortened": true}`, as in the trail.
    """
    old: Document = before.get("commands", {})
    if not report.commands:
        return old
    times = {"collected_at": collected_at, "reported_at": now}
    # A name that ends in `_at` may have brought a time, which `output` is no key for.
    fresh = {
        name: {"output": isoformat(output) if isinstance(output, datetime) else output, **times}
        for name, output in report.commands.items()
    }
    everything = {name: command for name, command in old.items() if name not in fresh} | fresh
    kept: list[tuple[str, Any]] = []
    room = KEPT_COMMAND_BYTES
    for name, command in reversed(list(everything.items())[-KEPT_COMMANDS:]):
        size = len(json.dumps(command))
        if size > room and name in fresh:
            shown = {"output": shortened(command["output"]), **times}
            kept.append((name, shown))
        elif size > room:
            break
        else:
            room -= size
            kept.append((name, command))
    return dict(reversed(kept))


def _packages(before: Document, report: Report, after: Document, stored: Document | None) -> Document | None:
    """What to do to the stored packages; also keeps the digest of the list in `after`."""
    if not needs_stored_packages(before, report):
        return None
    if report.package_list is not None:
        after["packages_digest"] = report.package_digest
        return packages.delta(stored, report.package_list)
    # The plugin is not there any more: an old list must not pass for what is installed.
    del after["packages_digest"]
    return packages.delta(stored, {"manager": None, "packages": []})


def _changes(before: Document, report: Report, after: Document, stored: Document | None) -> Iterator[Change]:
    """Everything that the trail shall tell, in order."""
    old_name = before.get("hostname")
    if old_name and old_name != report.hostname:
        yield Change("hostname", "changed", old_name, report.hostname)
    yield from compare_plugins(before.get("plugins", {}), after["plugins"])
    if stored is not None and report.package_list is not None:
        yield from packages.changes(stored, report.package_list)
    old_commands = before.get("commands", {})
    for name, output in report.commands.items():
        if name not in old_commands:
            yield Change(f"commands.{name}", "added", new=output)
        elif not same(old_commands[name].get("output"), output):
            yield Change(f"commands.{name}", "changed", old_commands[name].get("output"), output)


def _own_transitions(
    before: Document, report: Report, after: Document, rows: Limited, surroundings: Surroundings
) -> Iterator[Document]:
    """Issues that the server sees itself while it receives a report."""
    now = surroundings.now
    if NOT_REPORTING in before.get("raised", ()):
        yield closing(NOT_REPORTING, reason="resolved", last_seen_at=now)
    old_exchange = before.get("exchange")
    if exchange.is_stale(old_exchange, report.exchange_token):
        addresses = [old_exchange.get("address"), surroundings.address] if old_exchange else [surroundings.address]
        details = {"addresses": list(dict.fromkeys(address for address in addresses if address))}
        yield opening(KINDS[CLONED_CLIENT], source="server", first_seen_at=now, details=details)
    over, was_over = rows.account["truncated"], (before.get("trail_bytes") or {}).get("truncated", False)
    if over and not was_over:
        yield opening(KINDS[TRAIL_LIMIT], source="server", first_seen_at=now)
    elif was_over and not over:
        yield closing(TRAIL_LIMIT, reason="resolved", last_seen_at=before.get("reported_at"))
    yield from _raised_transitions(before, after, surroundings)
    old_failures, failures = _failures(before.get("plugins", {})), _failures(after["plugins"])
    if failures - old_failures:
        details = {"plugins": sorted(failures)}
        yield opening(KINDS[PLUGIN_FAILED], source="server", first_seen_at=after["collected_at"], details=details)
    elif old_failures and not failures:
        yield closing(PLUGIN_FAILED, reason="resolved", last_seen_at=before.get("reported_at"))


def _keep_outcome(before: Document, report: Report, after: Document, now: datetime) -> None:
    last = update_outcomes.outcome(before.get("update_outcome"), report.plugins, now=now)
    if last is not None:
        after["update_outcome"] = last
    else:
        after.pop("update_outcome", None)


def _raised(after: Document, surroundings: Surroundings) -> Iterator[str]:
    """Names of issues that there are for as long as reports show the same."""
    if surroundings.deprecated_port is not None:
        yield DEPRECATED_PORT
    if update_outcomes.own(after["plugins"]).get("manifest") == "expired":
        yield MANIFEST_EXPIRED
    if update_outcomes.has_failed(after, surroundings.due_release):
        # Closed by hand, it stays closed until another try has failed.
        told_at = after["update_outcome"]["reported_at"]
        closes = after.get("manual_closes", ())
        if not any(close["name"] == UPDATE_FAILED and close["closed_at"] >= told_at for close in closes):
            yield UPDATE_FAILED


def _raised_transitions(before: Document, after: Document, surroundings: Surroundings) -> Iterator[Document]:
    old, new = before.get("raised", ()), after["raised"]
    outcome = after.get("update_outcome")
    for name in (DEPRECATED_PORT, MANIFEST_EXPIRED, UPDATE_FAILED):
        again = name == UPDATE_FAILED and outcome is not before.get("update_outcome")
        if name in new and (name not in old or again):
            details = _details(name, after, surroundings)
            yield opening(KINDS[name], source="server", first_seen_at=surroundings.now, details=details)
        elif name in old and name not in new:
            yield closing(name, reason="resolved", last_seen_at=before.get("reported_at"))


def _details(name: str, after: Document, surroundings: Surroundings) -> Document:
    if name == DEPRECATED_PORT:
        return {"port": surroundings.deprecated_port}
    if name == UPDATE_FAILED:
        release = after["update_outcome"]["release"]
        return {"release": release, "reason": update_outcomes.reason(after["plugins"])}
    return {"release": update_outcomes.own(after["plugins"]).get("release")}


def _failures(plugins: Mapping[str, Any]) -> set[str]:
    return {name for name, output in plugins.items() if failed(output)}


def _with_outbox(
    before: Document,
    after: Document,
    rows: Iterable[Document],
    difference: Document | None,
    transitions: list[Document],
) -> Document:
    rows = list(rows)
    # Only a first report, or another host name, can make two machines share a name.
    first = "reported_at" not in before
    names = list(dict.fromkeys(name for name in (before.get("hostname"), after["hostname"]) if name))
    renamed = names if first or len(names) > 1 else []
    if rows or difference or transitions or renamed:
        after["outbox"] = {
            "cause": after["report_id"],
            "report_id": after["report_id"],
            "generation": after["generation"],
            "sequence": after["sequence"],
            "hostname": after["hostname"],
            "received_at": after["reported_at"],
            "collected_at": after["collected_at"],
            "trail": rows,
            "packages": difference,
            "issues": transitions,
            "hostnames": renamed,
        }
    return after
