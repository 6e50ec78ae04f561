"""One signed request to the server, with a clock that need not be right; and what its outcome means for the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from penguindome import json
from penguindome.client import backoff
from penguindome.client.errors import Refused, Unreachable
from penguindome.client.state import ClientState
from penguindome.client.transport import Transport
from penguindome.errors import KeyMaterialError, PenguinDomeError
from penguindome.times import Clock

Body = Callable[[datetime], Mapping[str, Any]]


class Sign(Protocol):
    """How a key signs: `DeviceKey.sign`."""

    def __call__(self, data: bytes, *, at: datetime | None = None) -> bytes:
        """A signature over `data`, made now, or as of another time."""


# Offsets below this are the time that an answer takes, or nothing to care about.
NEGLIGIBLE_OFFSET = 1.0
# A signature carries the time when it was made. The library that verifies it lets pass half an hour of the future;
# from here on signatures are made as of the server's time, which costs a gpg process each.
SIGNING_OFFSET = 1200.0


class Exchange:
    """Asks the server, as the host `hostname`. The clock's offset is learnt from a refusal and kept in `state`."""

    def __init__(self, transport: Transport, state: ClientState, *, hostname: str, clock: Clock) -> None:
        self._transport = transport
        self._state = state
        self._hostname = hostname
        self._clock = clock

    def ask(self, endpoint: str, body: Body, sign: Sign, *, more: Mapping[str, Sign] | None = None) -> dict[str, Any]:
        """Send `body(sent_at)` to `endpoint`, signed, and return the answer; `more` are further form fields, each a
        signature over the same bytes.

        A refusal because of the clock is answered once, at once, with the server's time. Raises ServerError.
        """
        try:
            return self._send(endpoint, body, sign, more)
        except KeyMaterialError:
            if not self._state.clock_offset:
                raise
            # A clock that ran ahead was set right since: by the old offset, it is before the key was made.
            self._state.clock_offset = 0.0
        except Refused as refusal:
            if refusal.reason != "clock-skew" or refusal.server_time is None:
                raise
            self._learn_offset(refusal.server_time)
        return self._send(endpoint, body, sign, more)

    def look_up(self, endpoint: str) -> dict[str, Any]:
        """What the server tells anybody; nothing in the answer is proved. Raises ServerError."""
        return self._transport.get(endpoint)

    def _send(self, endpoint: str, body: Body, sign: Sign, more: Mapping[str, Sign] | None) -> dict[str, Any]:
        sent_at = self._clock() + timedelta(seconds=self._state.clock_offset)
        document = {**body(sent_at), "hostname": self._hostname, "request": endpoint, "sent_at": sent_at}
        data = json.dumps(document).encode()
        at = sent_at if abs(self._state.clock_offset) > SIGNING_OFFSET else None
        signatures = {name: each(data, at=at) for name, each in {"signature": sign, **(more or {})}.items()}
        fields = {"data": data, **signatures}
        return self._transport.post(endpoint, fields)

    def _learn_offset(self, server_time: datetime) -> None:
        offset = (server_time - self._clock()).total_seconds()
        self._state.clock_offset = 0.0 if abs(offset) < NEGLIGIBLE_OFFSET else round(offset, 3)


def note_success(state: ClientState) -> None:
    """The server answered: nothing keeps us from asking again."""
    state.failures = 0
    state.not_before_at = None
    state.last_error = state.last_error_hint = ""
    state.last_error_at = None


def note_failure(state: ClientState, error: PenguinDomeError, *, now: datetime, seed: str) -> None:
    """The exchange failed: remember why, and how long to leave the server alone."""
    state.failures += 1
    retry_after = error.retry_after if isinstance(error, (Refused, Unreachable)) else None
    state.not_before_at = now + backoff.after_refusal(state.failures, seed, retry_after)
    state.last_error = error.message
    state.last_error_hint = error.hint or ""
    state.last_error_at = now
