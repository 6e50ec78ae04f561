"""`POST enroll`: a machine asks to become a client, or what became of its asking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penguindome_server.applicants import read_applicant
from penguindome_server.enrolment_requests import request
from penguindome_server.web import Web


def view(web: Web, environ: Mapping[str, Any]) -> dict[str, Any]:
    """Answer `enrolled` or `pending`; with what an enrolled client needs."""
    services = web.services
    now = services.clock()
    applicant = read_applicant(
        environ, enrolment_certificate=services.enrolment_certificate, limits=web.limits, now=now
    )
    outcome = request(services.store, web.policy, applicant, address=web.peers.address(environ), now=now)
    web.identities.forget(applicant.signing_key)
    answer: dict[str, Any] = {"status": outcome.state, "client_id": outcome.client_id}
    if outcome.state == "enrolled":
        answer["exchange_token"] = outcome.exchange_token
        answer["repository_credentials"] = outcome.repository_credentials
    return answer
