"""What the checks say about a client's document, compared with what they said before. Pure.

The names in `failing` are the checks that were true of the last report, without those that an administrator has
closed by hand since the data was collected. An issue opens when a name comes, and closes when it goes, so that
nothing needs to be looked up while nothing changes:

- A check that was closed by hand at T (`manual_closes`) is left out until data collected after T says that it still
  fails: then its issue is opened anew.
- A check that was true stays in `failing` while a plugin that its query asks about failed, or says "unknown" as a
  whole: nothing is known to be better. A plugin that is no longer reported at all was disabled by somebody, and its
  issues close.
- A check that is gone from the settings closes its issues.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penguindome_server.checks import Check, CheckSet
from penguindome_server.compare import failed
from penguindome_server.episodes import closing, opening
from penguindome_server.issue_kinds import DUPLICATE_HOSTNAME, PENDING_PATCHES, RELEASE_NOT_TAKEN, UPDATE_FAILED
from penguindome_server.store import Document

UNKNOWN = "unknown"

# A manual close of these stays in force whatever is reported: it says nothing of them, or what it said before.
_STAYS_CLOSED = (PENDING_PATCHES, DUPLICATE_HOSTNAME, RELEASE_NOT_TAKEN, UPDATE_FAILED)

_digest_of: list[tuple[CheckSet, str]] = []


@dataclass(frozen=True)
class Evaluation:
    """What becomes of a client's `failing` and `manual_closes`, and which issues open and close."""

    failing: list[str]
    manual_closes: list[Document]
    transitions: list[Document]


def checks_digest(checks: CheckSet) -> str:
    """Equal for checks with equal queries: a document evaluated under the same digest need not be evaluated again."""
    # A process has one set of checks at a time; `is` holds the set, so that no other can have its place in memory.
    cached = _digest_of[0] if _digest_of else None
    if cached is None or cached[0] is not checks:
        text = repr(sorted((check.name, repr(check.query), repr(check.older_than)) for check in checks))
        cached = (checks, hashlib.blake2b(text.encode(), digest_size=8).hexdigest())
        _digest_of[:] = [cached]
    return cached[1]


def evaluate(before: Document, after: Document, checks: CheckSet, *, collected_at: datetime) -> Evaluation:
    """Compare what the checks say about `after` with what `before` remembers; `collected_at` is when the data of
    `after` was collected.
    """
    closes = [
        close
        for close in before.get("manual_closes", ())
        if close["closed_at"] >= collected_at or close["name"] in _STAYS_CLOSED
    ]
    closed = {close["name"] for close in closes}
    true = set(checks.failing(after))
    old = before.get("failing", [])
    names = {check.name: check for check in checks} if true.symmetric_difference(old) else {}
    kept = {name for name in old if name not in true and name in names and _cannot_tell(names[name], after)}
    failing = sorted((true - closed) | (true & set(old)) | kept)
    if failing == old:
        return Evaluation(old, closes, [])
    transitions = [
        opening(names[name], source="check", first_seen_at=collected_at) for name in failing if name not in old
    ]
    transitions += [
        closing(name, reason="resolved" if name in names else "check-removed", last_seen_at=before.get("reported_at"))
        for name in old
        if name not in failing
    ]
    return Evaluation(failing, closes, transitions)


def _cannot_tell(check: Check, document: Document) -> bool:
    """Whether a plugin that this check asks about did not do its work this time."""
    plugins = document.get("plugins", {})
    return any(failed(plugins.get(name)) or plugins.get(name) == UNKNOWN for name in _plugins_of(check.query))


def _plugins_of(query: Any) -> Iterator[str]:
    """The plugins whose output a query looks at."""
    if isinstance(query, Mapping):
        for key, value in query.items():
            parts = str(key).split(".")
            if parts[0] == "plugins" and len(parts) > 1:
                yield parts[1]
            yield from _plugins_of(value)
    elif isinstance(query, (list, tuple)):
        for item in query:
            yield from _plugins_of(item)
