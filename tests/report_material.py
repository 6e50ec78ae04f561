"""Clients, reports and checks for tests of what becomes of a report."""

from __future__ import annotations

import functools
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from penguindome_server.checks import CheckSet, load_checks
from penguindome_server.clients import Limits, Receipt, Report, receive
from penguindome_server.exchange import after_enrolment
from penguindome_server.store import Document, Store

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)

A = "A" * 40
B = "B" * 40

CHECKS = """
no-firewall:
  description: no firewall is active
  query: {plugins.firewall.active: false}
  severity: high
  grace_period: 1d
  alert_frequency: 1d
  remedy: switch it on
not-encrypted:
  description: a disk is not encrypted
  query: {plugins.hd_encryption.encrypted: false}
  severity: critical
  grace_period: 2h
  alert_frequency: 1d
  remedy: encrypt it
"""


def checks_of(text: str) -> CheckSet:
    """The checks of a YAML text."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "10-test.yml").write_text(text)
        return load_checks(Path(directory))


@functools.cache
def checks() -> CheckSet:
    """Two checks: `no-firewall` and `not-encrypted`."""
    return checks_of(CHECKS)


def enrol(store: Store, client_id: str = A, hostname: str = "laptop", **values: Any) -> Document:
    """An enrolled client that has not reported yet; its first exchange token is `token-0`."""
    client = {
        "_id": client_id,
        "state": "enrolled",
        "hostname": hostname,
        "machine_id": client_id.lower()[:32],
        "public_key": "",
        "signing_key": client_id,
        "requested_at": NOW,
        "enrolled_at": NOW,
        "enrolled_by": "tester",
        "address": "192.0.2.1",
        "exchange": after_enrolment(None, token="token-0", address="192.0.2.1"),
        **values,
    }
    store.collection("clients").insert(client)
    return client


def plugins(**outputs: Any) -> dict[str, Any]:
    """Outputs of plugins in which nothing is wrong, and `outputs`."""
    return {
        "firewall": {"active": True, "backends": [{"name": "nftables", "rules": 3}]},
        "os_info": {"name": "x"},
    } | outputs


def report(number: int = 1, token: str | None = "token-0", **values: Any) -> Report:
    """The report number `number`; what it holds is `plugins()` unless said otherwise."""
    sent_at = values.pop("sent_at", NOW)
    return Report(
        **{
            "report_id": f"report-{number}",
            "sequence": number,
            "hostname": "laptop",
            "collected_at": sent_at,
            "sent_at": sent_at,
            "plugins": plugins(),
            "commands": {},
            "exchange_token": token,
            **values,
        }
    )


class Machine:
    """A client that reports again and again, and keeps its exchange token."""

    def __init__(
        self, store: Store, client_id: str = A, *, hostname: str = "laptop", address: str = "192.0.2.1"
    ) -> None:
        self.store = store
        self.client_id = client_id
        self.hostname = hostname
        self.address = address
        self.token: str | None = "token-0"
        self.number = 0
        self.now = NOW
        self.checks = checks()
        self.limits = Limits()

    def report(self, *, after: timedelta = MINUTE, due_release: int | None = None, **values: Any) -> Receipt:
        """Send the next report, `after` the last one, to a server that offers `due_release`."""
        self.now += after
        self.number += 1
        made = report(
            self.number,
            self.token,
            **{"hostname": self.hostname, "sent_at": self.now, "report_id": self._id(), **values},
        )
        return self.send(made, due_release=due_release)

    def send(self, made: Report, *, due_release: int | None = None) -> Receipt:
        """Send this report."""
        receipt = receive(
            self.store,
            self.checks,
            self.client_id,
            made,
            address=self.address,
            now=self.now,
            limits=self.limits,
            due_release=due_release,
        )
        self.token = receipt.exchange_token
        return receipt

    def _id(self) -> str:
        return f"{self.client_id[:8]}-{self.address}-{self.number}"

    @property
    def document(self) -> Document:
        """What the store holds of this client."""
        found = self.store.collection("clients").get(self.client_id)
        assert found is not None
        return found

    @property
    def trail(self) -> list[tuple[str, str, Any, Any]]:
        """The client's trail, oldest report first: path, change, old, new."""
        rows = list(self.store.collection("audit_trail").find({"client_id": self.client_id}))
        rows.sort(key=lambda row: (row["received_at"], int(row["_id"].rpartition(":")[2])))
        return [(row["path"], row["change"], row["old"], row["new"]) for row in rows]

    @property
    def open(self) -> list[str]:
        """Names of the client's open issues."""
        found = self.store.collection("issues").find({"client_id": self.client_id, "state": "open"})
        return sorted(issue["name"] for issue in found)

    def episodes(self, name: str) -> list[Document]:
        """All episodes of an issue, oldest first."""
        found = self.store.collection("issues").find({"client_id": self.client_id, "name": name})
        return sorted(found, key=lambda issue: issue["opened_at"])
