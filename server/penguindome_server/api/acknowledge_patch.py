"""`POST acknowledge_patch`: a client tells what came of a signed action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penguindome_server.authentication import authenticate
from penguindome_server.deliveries import RESULTS, TRYING, acknowledge
from penguindome_server.refusals import Refusal
from penguindome_server.untrusted import text_field
from penguindome_server.web import Web


def view(web: Web, environ: Mapping[str, Any]) -> dict[str, Any]:
    """Note the result: an object with `status` (`done`, `failed`, `trying`) and whatever else the client has to say."""
    services = web.services
    now = services.clock()
    message = authenticate(
        environ,
        "acknowledge_patch",
        identities=web.identities,
        limits=web.limits,
        body_limit=web.body_bytes,
        data_limit=web.report_bytes,
        now=now,
    )
    action_id = text_field(message.data, "id", longest=128)
    result = message.data.get("result")
    if not isinstance(result, dict) or result.get("status") not in (*RESULTS, TRYING):
        raise Refusal("invalid", "result is not an object whose status is done, failed or trying")
    acknowledge(services.store, message.identity.client_id, action_id, result=result, now=now)
    return {"status": "ok"}
