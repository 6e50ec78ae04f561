"""`POST submit`: a client reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from penguindome_server import clients
from penguindome_server.api.update import held
from penguindome_server.authentication import Message, authenticate, state_refusal
from penguindome_server.halting import halt_if_failing
from penguindome_server.refusals import Refusal
from penguindome_server.reports import Report
from penguindome_server.untrusted import integer_field, object_field, text_field
from penguindome_server.update_outcomes import outcome
from penguindome_server.updates import due_release, news
from penguindome_server.web import Web

_REPORT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def view(web: Web, environ: Mapping[str, Any]) -> dict[str, Any]:
    """Take a report; answer `ok`, once it is on disk, with the next exchange token and what `update` would say."""
    services = web.services
    now = services.clock()
    message = authenticate(
        environ,
        "submit",
        identities=web.identities,
        limits=web.limits,
        body_limit=web.body_bytes,
        data_limit=web.report_bytes,
        now=now,
    )
    client_id = message.identity.client_id
    # All of it is looked at before any is stored: what is refused was not taken, and its client sets it aside.
    report, holds = _report(message), held(message.data)
    due = due_release(web.updates, client_id)
    try:
        receipt = clients.receive(
            services.store,
            services.checks,
            client_id,
            report,
            address=web.peers.address(environ),
            now=now,
            limits=web.report_limits,
            deprecated_port=_deprecated_port(web, environ),
            due_release=due.description.release if due is not None else None,
        )
    except clients.NotEnrolled as error:
        # Since its identity was looked up, a moment ago, an administrator decided about it.
        raise state_refusal(error.state) from error
    except clients.TooLarge as error:
        raise Refusal("too-large", error.message) from error
    except clients.UnknownClient as error:
        raise Refusal("unknown-client", "this client is not known any more") from error
    web.metrics.report_received(duplicate=receipt.duplicate)
    _look_at_failure(web, report, now=now)
    update = news(web.updates, client_id, holds, now=now)
    return {"status": "ok", "exchange_token": receipt.exchange_token, "update": update}


def _look_at_failure(web: Web, report: Report, *, now: datetime) -> None:
    """Halt the release on which the client says that its update failed, if it fails on too many. A report that was
    stored by a process which then died is sent again, and looked at again.
    """
    services = web.services
    told = outcome(None, report.plugins, now=now)
    if told is None or told["status"] != "failed":
        return
    percent = services.settings["releases.halt_after_failures"]
    if halt_if_failing(services.store, told["release"], percent=percent, now=now):
        web.updates.rollout.forget()


def _deprecated_port(web: Web, environ: Mapping[str, Any]) -> int | None:
    """The port of ours that this came over, if clients should use another."""
    port = int(environ["SERVER_PORT"])
    return port if port in web.deprecated_ports else None


def _report(message: Message) -> Report:
    data = message.data
    report_id = text_field(data, "report_id", longest=64)
    collected_at = data.get("collected_at")
    if _REPORT_ID.fullmatch(report_id) is None:
        raise Refusal("invalid", "report_id has characters other than letters, digits, dot, dash and underscore")
    if not isinstance(collected_at, datetime):
        raise Refusal("invalid", "collected_at is missing or not a time")
    return Report(
        report_id=report_id,
        sequence=integer_field(data, "sequence"),
        hostname=message.hostname,
        collected_at=collected_at,
        sent_at=message.sent_at,
        plugins=object_field(data, "plugins"),
        commands=object_field(data, "commands"),
        exchange_token=text_field(data, "exchange_token", longest=128, optional=True) or None,
        size=message.size,
    )
