"""What a report holds, from its making to its sending."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from penguindome.client import collector, outputs, update_record
from penguindome.client.spool import Entry, age, boot_id
from penguindome.client.version import package_version

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.client.installed import Installed

# A clock that is off by less says nothing about a machine, and would show as a change in every report.
_OFFSET_STEP = 60


def collect(client: Client, installed: Installed) -> dict[str, Any]:
    """Run the plugins and return what they report, with what the client says of itself."""
    settings, found = client.settings, {}
    manifest = installed.effective
    if manifest is not None:
        names = collector.program_names(manifest, "plugins", disabled=settings["plugins.disabled"])
        limits = collector.Limits(settings["plugins.timeout"], settings["plugins.output_limit"])
        found = collector.run_plugins(installed.place, manifest, names, limits)
    own = own_report(client, installed)
    return {**outputs.fit(found, settings["report.max_bytes"]), collector.OWN_NAME: own}


def own_report(client: Client, installed: Installed) -> dict[str, Any]:
    """What the client reports on itself, under the reserved name `penguindome`."""
    state, update = client.state, update_record.reported(update_record.load(client.paths))
    problem = {"server_key_problem": state.rotation_problem} if state.rotation_problem else {}
    held_back = {"actions_held_back": dict(state.actions_held_back)} if state.actions_held_back else {}
    return {
        **({"update": update} if update is not None else {}),
        "version": package_version(),
        "server_key": client.identity.server_certificate.fingerprint,
        **problem,
        **held_back,
        "release": installed.manifest.release if installed.manifest else None,
        "manifest": installed.condition,
        "verification": [{"path": problem.path, "reason": problem.reason} for problem in installed.problems[:100]],
        "patches": installed.overlay.paths if installed.overlay else [],
        "spool_dropped": state.spool_dropped,
        "bad_reports": state.bad_reports,
        "clock_offset": round(state.clock_offset / _OFFSET_STEP) * _OFFSET_STEP,
    }


def keep(client: Client, *, plugins: Mapping[str, Any], commands: Mapping[str, Any]) -> Entry:
    """Spool a report. Its number is on disk before the report is, so that none is ever used twice. Raises NoSpace."""
    state, now = client.state, client.clock()
    state.spool_dropped += client.spool.trim(now)
    state.sequence += 1
    client.save()
    report = {
        "report_id": str(uuid.uuid4()),
        "sequence": state.sequence,
        "collected_at": now,
        "boot_id": boot_id(),
        "boot_seconds": time.clock_gettime(time.CLOCK_BOOTTIME),
        "plugins": dict(plugins),
        "commands": dict(commands),
    }
    return client.spool.add(report)


def submission(report: Mapping[str, Any], exchange_token: str, *, now: datetime, sent_at: datetime) -> dict[str, Any]:
    """The data of `submit` for a spooled report. `now` is the local clock's, `sent_at` what the server will compare
    with its own.

    The server takes the age of a report from `sent_at - collected_at`, so both are given by the same clock.
    """
    return {
        "report_id": report["report_id"],
        "sequence": report["sequence"],
        "collected_at": sent_at - age(report, now),
        "plugins": report["plugins"],
        "commands": report["commands"],
        "exchange_token": exchange_token,
    }
