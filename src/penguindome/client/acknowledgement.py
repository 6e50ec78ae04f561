"""Telling the server what came of an action."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from penguindome.client.errors import Refused, Unreachable
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.action_records import Record
    from penguindome.client.context import Client

# The server knows of no such action, or will never take this answer: it is not told again.
UNWANTED = frozenset({400, 404, 413, 422})

log = get_logger(__name__)


def tell(client: Client, record: Record) -> None:
    """Tell the result of an open record, whose lock the caller holds. Once a final one was told, it is settled.

    Raises ServerError when the server could not be told; it is then told later.
    """

    def body(_: datetime) -> dict[str, Any]:
        return {"id": record.id, "result": record.result}

    try:
        answer = client.exchange.ask("acknowledge_patch", body, client.identity.device_key.sign)
    except Refused as error:
        if error.status not in UNWANTED:
            raise
        log.warning("the server did not want the result of {} {}: {}", record.kind, record.id, error.message)
    else:
        if answer.get("status") != "ok":
            raise Unreachable(
                "the answer to an acknowledgement makes no sense", hint="is server.url right?", status=200
            )
    record.acknowledged = True
    if record.is_final:
        client.records.settle(record)
    else:
        client.records.save(record)
