"""Processes that receive reports and are killed at random instants: what they acknowledged is there, and nothing is
there twice.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import needs
from penguindome_server import outbox
from penguindome_server.audit import AuditSettings, audit
from penguindome_server.business_time import BusinessTime
from penguindome_server.clients import Limits, receive
from penguindome_server.store import Store, open_store
from report_material import NOW, Machine, checks, enrol, plugins, report

KILLS = 60 if needs.testing_all() else 4
CLIENTS = 4
LONGEST_LIFE = 0.6

# Each line on stdout is an acknowledgement: client and number of the report. The number after the last acknowledged one
# may have been stored or not.
RECEIVER = """
import sys
sys.path[:0] = {path!r}
from test_receive_killed import receive_for_ever
receive_for_ever({uri!r}, [int(number) for number in sys.argv[1:]])
"""


def client_id(client: int) -> str:
    """The id of the client with this number."""
    return f"{client:040X}"


def outputs(client: int, number: int) -> dict[str, Any]:
    """What the report of this number holds: each differs from the one before it in trail, packages and issues."""
    listing = [{"name": f"package{index}", "version": str(number - index % 3)} for index in range(5)]
    return plugins(
        firewall={"active": number % 2 == 0},
        os_info={"number": number, "client": client},
        packages={"manager": "dpkg", "packages": listing},
    )


def send(store: Store, client: int, number: int) -> bool:
    """Send one report; says whether it had been stored before."""
    made = report(
        number, None, report_id=f"{client}-{number}", hostname=f"host{client}", plugins=outputs(client, number)
    )
    receipt = receive(store, checks(), client_id(client), made, address="192.0.2.1", now=NOW, limits=Limits())
    return receipt.duplicate


def receive_for_ever(uri: str, numbers: list[int]) -> None:
    """What the process that is killed does: it goes on after the last acknowledged report of each client, first
    resending.
    """
    store = open_store(uri)
    while True:
        for client in range(CLIENTS):
            send(store, client, numbers[client] + 1)
            numbers[client] += 1
            os.write(1, f"{client} {numbers[client]}\n".encode())


def run_and_kill(uri: str, acknowledged: list[int], life: float) -> None:
    """Run the receiver until it has acknowledged something, then for `life` seconds, and kill it; keep what it
    acknowledged.
    """
    program = RECEIVER.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[1])], uri=uri)
    command = [sys.executable, "-c", program, *map(str, acknowledged)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(life)
        process.kill()
        lines = (first + process.stdout.read()).decode().split("\n")[:-1]
    assert lines, "the receiver died by itself"
    for line in lines:
        client, number = map(int, line.split())
        assert number == acknowledged[client] + 1
        acknowledged[client] = number


@pytest.mark.timeout(300)
def test_what_was_acknowledged_before_a_kill_is_there_and_only_once(store: Store, store_uri: str) -> None:
    random_life = random.Random(20261123)
    acknowledged = [0] * CLIENTS
    for client in range(CLIENTS):
        enrol(store, client_id(client), f"host{client}")
    for _ in range(KILLS):
        run_and_kill(store_uri, acknowledged, random_life.uniform(0, LONGEST_LIFE))
    for client in range(CLIENTS):
        machine = Machine(store, client_id(client))
        # What the server answers again rests on the finished outbox; a report that was not acknowledged is taken now.
        send(store, client, acknowledged[client] + 1)
        acknowledged[client] += 1
        assert send(store, client, acknowledged[client])
        expect_each_report_once(machine, client, acknowledged[client])
    assert audit(store, checks(), AuditSettings(BusinessTime()), now=NOW).changed == 0
    assert store.check() == []


def expect_each_report_once(machine: Machine, client: int, last: int) -> None:
    """Every report has left its rows, its packages and its issues exactly once."""
    outbox.settle(machine.store, machine.client_id)
    document = machine.document
    assert "outbox" not in document
    assert document["generation"] == last
    assert document["sequence"] == last
    assert document["recent_reports"] == [f"{client}-{number}" for number in range(max(1, last - 19), last + 1)]
    rows = list(machine.store.collection("audit_trail").find({"client_id": machine.client_id}))
    changes = sorted((row["sequence"], row["path"]) for row in rows)
    expected = [(1, f"plugins.{name}") for name in ("firewall", "os_info", "packages")]
    for number in range(2, last + 1):
        expected += [(number, "plugins.firewall.active"), (number, "plugins.os_info.number")]
        expected += [(number, f"packages.package{index}") for index in range(5)]
    assert changes == sorted(expected)
    stored = machine.store.collection("packages").get(machine.client_id)
    assert stored is not None
    assert stored["packages"] == outputs(client, last)["packages"]["packages"]
    episodes = machine.episodes("no-firewall")
    assert len(episodes) == (last + 1) // 2
    assert sum(episode["state"] == "open" for episode in episodes) == last % 2
