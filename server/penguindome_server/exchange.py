"""Exchange tokens: how two machines that use one device key are noticed.

Every answer to `enroll` and `submit` carries a fresh token, which the client stores before it deletes what was
answered, and brings back with its next report. The rules, which are pure:

1. The newest token is right.
2. The token before it is right for the report that was answered with the newest one: a resend, whose answer was
   lost. (That report is known by its `report_id`, so it does not come here.) It is right for any report if the
   newest token was given by `enroll`, whose answer may have been lost too.
3. After a restore from backup (`resynchronise`) any token is right, once.
4. Anything else is stale: another machine has had the newest token. The report is stored all the same.
"""

from __future__ import annotations

import hmac
import secrets

from penguindome_server.store import Document

TOKEN_BYTES = 18


def new_token() -> str:
    """A fresh token: 24 characters that nobody can guess."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def is_stale(exchange: Document | None, token: str | None) -> bool:
    """Whether a report that is not a resend comes with a token that somebody else has used up."""
    if not exchange or not exchange.get("token") or exchange.get("resynchronise"):
        return False
    right = [exchange["token"]]
    if exchange.get("report_id") is None and exchange.get("previous_token"):
        right.append(exchange["previous_token"])
    given = (token or "").encode(errors="surrogatepass")
    return not any(hmac.compare_digest(given, known.encode()) for known in right)


def after_report(exchange: Document | None, *, token: str, report_id: str, address: str) -> Document:
    """The state of the exchange once `report_id` has been answered with `token`."""
    return _next(exchange, token, report_id, address)


def after_enrolment(exchange: Document | None, *, token: str, address: str) -> Document:
    """The state of the exchange once a request to enrol has been answered with `token`."""
    return _next(exchange, token, None, address)


def _next(exchange: Document | None, token: str, report_id: str | None, address: str) -> Document:
    return {
        "token": token,
        "previous_token": exchange.get("token") if exchange else None,
        "report_id": report_id,
        "address": address,
        "resynchronise": False,
    }
