"""Receiving the reports of clients: the whole story, in order."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from penguindome import json
from penguindome.errors import PenguinDomeError
from penguindome_server import outbox
from penguindome_server.checks import CheckSet
from penguindome_server.exchange import new_token
from penguindome_server.reception import Surroundings, needs_stored_packages, plan
from penguindome_server.reports import Limits, Receipt, Report
from penguindome_server.store import Document, Store, StoreUnavailable

__all__ = ["Limits", "NotEnrolled", "Receipt", "Report", "TooLarge", "UnknownClient", "receive"]

ATTEMPTS = 100

# The store takes documents of 1 MB. What is left is for what the server itself notes about a client: an administrator
# must be able to revoke one whose reports are as large as can be.
DOCUMENT_BYTES = 960 * 1024
# No report of fewer bytes can make a larger document, even when each of its numbers and keys is stored in its longest
# form; so those of every day are not measured.
MEASURED_FROM = 96 * 1024


class UnknownClient(PenguinDomeError):
    """No client has this identity."""

    code: ClassVar[str] = "unknown-client"


class NotEnrolled(PenguinDomeError):
    """The client may not report: `state` says whether it waits, or was rejected, revoked or replaced."""

    code: ClassVar[str] = "not-enrolled"

    def __init__(self, state: str) -> None:
        super().__init__(f"this client is not enrolled: it is {state}")
        self.state = state


class TooLarge(PenguinDomeError):
    """The client's document would become larger than the server keeps."""

    code: ClassVar[str] = "too-large"


def receive(
    store: Store,
    checks: CheckSet,
    client_id: str,
    report: Report,
    *,
    address: str,
    now: datetime,
    limits: Limits,
    deprecated_port: int | None = None,
    due_release: int | None = None,
) -> Receipt:
    """Take in a report that `client_id` has signed, and everything that follows from it; when this returns, all of it
    is on disk.

    In order: finish what an earlier report left over; refuse who is not enrolled; answer a resend as before,
    without storing it again; compare with the last report, evaluate the checks, and write down document and outbox
    in one compare-and-swap; then trail, packages and issues. `deprecated_port` is the port that it came over, if
    clients should no longer use that; `due_release` is the release that this client should have.

    Raises UnknownClient, NotEnrolled and TooLarge, when nothing is stored; StoreUnavailable. After the last, the report
    may have been stored or not: the client sends it again.
    """
    token = new_token()
    for _ in range(ATTEMPTS):
        before = outbox.settle(store, client_id)
        if before is None:
            raise UnknownClient(f"there is no client {client_id}")
        if before["state"] != "enrolled":
            raise NotEnrolled(before["state"])
        if report.report_id in before.get("recent_reports", ()):
            return Receipt(before["exchange"]["token"], duplicate=True)
        stored_packages = _stored_packages(store, before, report)
        surroundings = Surroundings(address, now, token, limits, stored_packages, deprecated_port, due_release)
        after = plan(before, report, checks, surroundings)
        if report.size >= MEASURED_FROM:
            _require_room(after)
        if outbox.write(store, before, after):
            return Receipt(token, duplicate=False)
    raise StoreUnavailable(f"client {client_id} is being changed by others all the time")


def _require_room(after: Document) -> None:
    """Raise TooLarge unless the document will be within the limit once its outbox is cleared."""
    size = len(json.dumps({name: value for name, value in after.items() if name != outbox.FIELD}))
    if size > DOCUMENT_BYTES:
        raise TooLarge(f"this report makes a document of {size} bytes, more than {DOCUMENT_BYTES} are not kept")


def _stored_packages(store: Store, before: Document, report: Report) -> Document | None:
    """The packages known so far, if the report has others (or none any more); an unchanged list costs no reading."""
    if needs_stored_packages(before, report):
        return store.collection("packages").get(before["_id"])
    return None
