"""What a client's report says of its updates, taken over as far as the server counts it. Pure.

`plugins.penguindome.update` is `{"release", "status", "reason", "finished_at"}`, written by the client: hostile text.
Of it the client's document has `update_outcome`: `{"release", "status": "done" | "failed" | "refused", "finished_at",
"reported_at"}`, whose types the server vouches for, because it is searched by them. `reported_at` is when the server
learnt of this outcome. Refused is what the client tells as a failure with a reason that says so: it never tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from penguindome.release import REFUSED
from penguindome_server.store import Document

OWN_PLUGIN = "penguindome"
OUTCOMES = ("done", "failed")
NOT_TAKEN = ("failed", "refused")
"""What an outcome says when the client has not the release."""
HIGHEST_RELEASE = 10**9
LONGEST_REASON = 1000


def outcome(before: Document | None, plugins: Mapping[str, Any], *, now: datetime) -> Document | None:
    """The outcome of the client's last update, after a report with these `plugins`; the same object when it is the one
    of before. While the next one is under way, the one of before stays.
    """
    told = own(plugins).get("update")
    if not isinstance(told, dict):
        return None
    release, status, finished_at = told.get("release"), told.get("status"), told.get("finished_at")
    if type(release) is not int or not 0 < release <= HIGHEST_RELEASE or status not in OUTCOMES:
        return before
    made = {
        "release": release,
        "status": "refused" if status == "failed" and reason(plugins).startswith(REFUSED) else status,
        "finished_at": finished_at if isinstance(finished_at, datetime) else None,
    }
    if before is not None and all(before.get(name) == value for name, value in made.items()):
        return before
    return {**made, "reported_at": now}


def reason(plugins: Mapping[str, Any]) -> str:
    """Why the client's last update failed, as it says."""
    told = own(plugins).get("update")
    text = told.get("reason") if isinstance(told, dict) else None
    return text[:LONGEST_REASON] if isinstance(text, str) else ""


def own(plugins: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the client says of itself."""
    output = plugins.get(OWN_PLUGIN)
    return output if isinstance(output, dict) else {}


def has_failed(document: Document, due: int | None) -> bool:
    """Whether the client with this document failed on the release that it should have, or refused it, and does not
    run it.
    """
    last = document.get("update_outcome")
    if last is None or due is None or last["status"] not in NOT_TAKEN or last["release"] != due:
        return False
    running = own(document.get("plugins", {})).get("release")
    return type(running) is not int or running < due
