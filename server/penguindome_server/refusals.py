"""How a request is refused: one exception that knows its HTTP status, its stable code and what to tell the client."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from penguindome.errors import PenguinDomeError

STATUS_OF_CODE = {
    "malformed": 400,
    "bad-signature": 401,
    "unknown-client": 401,
    "unauthorised": 401,
    "pending": 403,
    "rejected": 403,
    "revoked": 403,
    "enrolment-closed": 403,
    "not-allowed": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "conflict": 409,
    "clock-skew": 409,
    "precondition-failed": 412,
    "too-large": 413,
    "range-not-satisfiable": 416,
    "invalid": 422,
    "rate-limited": 429,
    "internal": 500,
    "store-unavailable": 503,
}


class Refusal(PenguinDomeError):
    """A request is refused. `reason` is one of STATUS_OF_CODE; `details` go into the answer beside code and message."""

    def __init__(self, reason: str, message: str, *, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = STATUS_OF_CODE[reason]
        self.retry_after = retry_after
        self.details = details

    def body(self) -> dict[str, Any]:
        """The JSON answer."""
        return {"error": {"code": self.reason, "message": self.message, **self.details}}


def clock_skew(now: datetime) -> Refusal:
    """`sent_at` is too far from the server's time, which the answer tells."""
    return Refusal("clock-skew", "sent_at differs from the server's time by more than ten minutes", server_time_at=now)
