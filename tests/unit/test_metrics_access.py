"""Who may read the metrics."""

from __future__ import annotations

import base64

import pytest

from penguindome_server.metrics_access import MetricsAccess
from penguindome_server.passwords import password_context
from penguindome_server.refusals import Refusal


def request(password: str) -> dict[str, str]:
    return {"HTTP_AUTHORIZATION": "Basic " + base64.b64encode(f"prometheus:{password}".encode()).decode()}


def test_a_right_password_is_hashed_once_and_others_wait_their_turn() -> None:
    hashed = password_context().hash("right")
    access = MetricsAccess({"metrics.ipranges": [], "metrics.passwords": {"prometheus": hashed}})
    access.require(request("right"), "192.0.2.1")
    # As if another thread were hashing.
    with access._one_at_a_time:
        access.require(request("right"), "192.0.2.1")
        with pytest.raises(Refusal) as refused:
            access.require(request("wrong"), "192.0.2.1")
    assert refused.value.reason == "rate-limited"
    with pytest.raises(Refusal) as refused:
        access.require(request("wrong"), "192.0.2.1")
    assert refused.value.reason == "unauthorised"
