"""How long an audit of many clients takes, and how much memory."""

from __future__ import annotations

import secrets
import time
from datetime import timedelta
from functools import partial
from typing import Any

from penguindome.times import utc_now
from penguindome_server.settings import load_server_settings
from penguindome_server.store import open_store
from penguindome_tools.bench.parts import cost_of
from penguindome_tools.fleet.devices import Device
from penguindome_tools.scratch_site import ScratchSite, program

BATCH = 200


def fill(site: ScratchSite, clients: int) -> None:
    """Put so many enrolled clients with reports of about 15 kB straight into the site's store."""
    patterns = [Device(number, 7) for number in range(BATCH)]
    now = utc_now()
    store = open_store(load_server_settings(site.paths)["database.uri"])
    collection = store.collection("clients")
    for first in range(0, clients, BATCH):
        documents = [
            {
                "_id": secrets.token_hex(20).upper(),
                "state": "enrolled",
                "hostname": f"{pattern.hostname}-{first}",
                "machine_id": secrets.token_hex(16),
                "enrolled_at": now - timedelta(days=30),
                "last_seen_at": now,
                "reported_at": now,
                "collected_at": now,
                "sequence": 1,
                "plugins": pattern.plugins,
                "commands": {},
                "failing": [],
            }
            for pattern in patterns
        ]
        store.together(partial(collection.insert_new, documents))
    store.close()


def audit_costs(site: ScratchSite) -> dict[str, Any]:
    """Seconds and peak memory of the audit that opens what there is to open, and of the one after it."""
    costs: dict[str, Any] = {}
    for label in ("all_issues_new", "everyday"):
        began = time.monotonic()
        cost = cost_of([*program("penguindome"), "issues", "audit", "--json"], site, rounds=1, ok=(0, 1))
        costs |= {f"{label}_seconds": round(time.monotonic() - began, 2), f"{label}_peak_mb": cost["peak_mb"]}
    return costs
