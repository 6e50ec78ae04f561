"""What a machine with a wrong clock signs: the time in the signature is the server's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pysequoia
import pytest

from penguindome.client.exchange import Exchange
from penguindome.client.state import ClientState
from penguindome.openpgp import DeviceKey
from penguindome.times import utc_now


class Listener:
    """A transport that keeps what it is handed."""

    def __init__(self) -> None:
        self.fields: Mapping[str, bytes] = {}

    def post(self, endpoint: str, fields: Mapping[str, bytes]) -> dict[str, Any]:
        del endpoint
        self.fields = fields
        return {}


def signed_at(key: DeviceKey, *, clock_ahead: timedelta) -> tuple[datetime, Listener]:
    state = ClientState()
    state.clock_offset = -clock_ahead.total_seconds()
    listener = Listener()
    exchange = Exchange(listener, state, hostname="laptop", clock=lambda: utc_now() + clock_ahead)
    exchange.ask("update", lambda sent_at: {"old_release": 0}, key.sign, more={"device_signature": key.sign})
    key.certificate.verify(listener.fields["data"], listener.fields["signature"])
    return pysequoia.Sig.from_bytes(listener.fields["signature"]).created, listener


@pytest.mark.parametrize("ahead", [timedelta(hours=3), timedelta(minutes=5), timedelta(0)])
def test_a_signature_is_never_from_the_servers_future(ahead: timedelta) -> None:
    created, _ = signed_at(DeviceKey.generate("laptop"), clock_ahead=ahead)
    assert abs(created - utc_now()) < timedelta(minutes=1)


def test_a_clock_that_ran_ahead_and_is_right_again_is_none_that_can_sign_no_more() -> None:
    """With the offset that was learnt, a signature would be older than the key."""
    key, listener, state = DeviceKey.generate("laptop"), Listener(), ClientState()
    state.clock_offset = -timedelta(days=400).total_seconds()
    exchange = Exchange(listener, state, hostname="laptop", clock=utc_now)
    exchange.ask("update", lambda sent_at: {"old_release": 0}, key.sign)
    key.certificate.verify(listener.fields["data"], listener.fields["signature"])
    assert state.clock_offset == 0


def test_every_signature_of_a_request_is_over_the_same_bytes() -> None:
    key = DeviceKey.generate("laptop")
    _, listener = signed_at(key, clock_ahead=timedelta(hours=3))
    key.certificate.verify(listener.fields["data"], listener.fields["device_signature"])
