"""Issues that do not come from a check but from what the server sees itself, and what to do about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penguindome_server.checks import CheckSet

NOT_REPORTING = "not-reporting"
PENDING_PATCHES = "pending-patches"
DUPLICATE_HOSTNAME = "duplicate-hostname"
CLONED_CLIENT = "cloned-client"
TRAIL_LIMIT = "trail-limit"
PLUGIN_FAILED = "plugin-failed"
DEPRECATED_PORT = "deprecated-port"
UPDATE_FAILED = "update-failed"
RELEASE_NOT_TAKEN = "release-not-taken"
MANIFEST_EXPIRED = "manifest-expired"
REPOSITORY_EXPIRING = "repository-expiring"
CERTIFICATE_EXPIRING = "certificate-expiring"


class Described(Protocol):
    """What a check and a kind of ours have in common: enough to show an issue and to know when to alert about it."""

    @property
    def name(self) -> str:
        """The issue's name."""

    @property
    def description(self) -> str:
        """What is wrong, in one line."""

    @property
    def severity(self) -> str:
        """low, medium, high or critical."""

    @property
    def remedy(self) -> str:
        """What to do about it."""

    @property
    def grace_period(self) -> timedelta:
        """How much business time may pass before somebody is told."""


@dataclass(frozen=True)
class IssueKind:
    """One kind of issue; its grace period is counted in business time."""

    name: str
    description: str
    severity: str
    remedy: str
    grace_period: timedelta = timedelta(0)


KINDS: Mapping[str, IssueKind] = {
    kind.name: kind
    for kind in (
        IssueKind(
            NOT_REPORTING,
            "the machine has not reported for too long",
            "high",
            "Switch it on and connect it to the network; on it, `penguindome-client status` says what is wrong. "
            "If it is gone, revoke it.",
            timedelta(hours=8),
        ),
        IssueKind(
            PENDING_PATCHES,
            "patches or commands wait for this machine for too long",
            "medium",
            "Find out whether the machine reports at all, and what `penguindome-client status` on it says.",
        ),
        IssueKind(
            DUPLICATE_HOSTNAME,
            "another machine reports under the same host name",
            "medium",
            "Give one of them another name, or revoke the one that is gone: `penguindome clients revoke`.",
        ),
        IssueKind(
            CLONED_CLIENT,
            "two machines use the key of this client",
            "critical",
            "Find the machine with a copied disk, delete /var/lib/penguindome/client on it and enrol it anew; "
            "then close this issue.",
        ),
        IssueKind(
            TRAIL_LIMIT,
            "the machine causes more audit trail in a day than limits.trail_bytes_per_day allows",
            "medium",
            "Look at the trail for what changes all the time; fix the plugin or raise the limit.",
        ),
        IssueKind(
            PLUGIN_FAILED,
            "a plugin fails, so that what it would tell is not known",
            "low",
            "Run `penguindome-client collect` on the machine and read what the plugin says.",
            timedelta(days=1),
        ),
        IssueKind(
            DEPRECATED_PORT,
            "the machine still reports over a port of this server that is to be given up",
            "low",
            "Let the machine use another URL: give it a new bundle (`penguindome enrolment export`), or set server.url "
            "in its client.yml.",
        ),
        IssueKind(
            UPDATE_FAILED,
            "the machine could not move to the release that it should have, and went on with the one before",
            "high",
            "The issue's details say why; `penguindome-client update` on the machine tries again. If the release is to "
            "blame: `penguindome release halt`, or `penguindome release rollback`.",
        ),
        IssueKind(
            RELEASE_NOT_TAKEN,
            "the machine reports, but has not taken the release that it should have",
            "medium",
            "See what `penguindome-client status` on the machine says, and its journal: a package manager that is "
            "locked, a full disk, a repository that it cannot reach.",
            timedelta(hours=8),
        ),
        IssueKind(
            MANIFEST_EXPIRED,
            "the signed manifest of the machine's files has expired",
            "high",
            "On the server, `penguindome release refresh` signs it anew; the machine takes it with its next poll. If "
            "it is of an older release, find out why the machine does not take the newer one.",
            timedelta(hours=8),
        ),
        IssueKind(
            REPOSITORY_EXPIRING,
            "what the server has signed for its clients expires soon, and was not signed anew",
            "high",
            "On the server that has the keys, run `penguindome release refresh` as root and read what it says; "
            "penguindome-repository.timer (or cron) should run it by itself.",
        ),
        IssueKind(
            CERTIFICATE_EXPIRING,
            "a certificate that the server shows for TLS expires soon; no machine reaches it then any more",
            "high",
            "If `penguindome setup` made it: run `penguindome certificate renew`, then `penguindome release create`, "
            "and `penguindome certificate use` once the machines have that release. Any other: renew it where it comes "
            "from, and restart penguindome-server.",
        ),
    )
}


def described(checks: CheckSet, name: str) -> Described | None:
    """The check or kind of this name; None for an issue that an administrator made up, or whose check is gone."""
    if name in KINDS:
        return KINDS[name]
    try:
        return checks[name]
    except KeyError:
        return None
