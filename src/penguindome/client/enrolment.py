"""Asking the server to take this machine, and what its answer means."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from penguindome import json
from penguindome.client import backoff
from penguindome.client.errors import NotEnrolled, Refused, Unreachable
from penguindome.client.exchange import note_failure, note_success
from penguindome.client.state import ClientState
from penguindome.errors import PenguinDomeError
from penguindome.files import write_atomically
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.context import Client

CREDENTIALS = "repository.json"
# They are written into files of apt's, of which a line break would make another line.
_CREDENTIAL = re.compile("[A-Za-z0-9_-]{1,200}")

log = get_logger(__name__)


def ask(client: Client) -> str:
    """Ask to be enrolled, or, when pending, what became of it; returns the new state: enrolled or pending.

    Raises NotEnrolled when there is nothing to ask with, Refused when the server will not have this machine,
    Unreachable when it gave no answer; both are remembered, and nothing that waits in the spool is lost by either.
    """
    state, identity = client.state, client.identity
    if not identity.may_ask_for_enrolment:
        raise NotEnrolled(
            "there is no enrolment key or token to ask with (they are deleted once a machine is enrolled)",
            hint="get a new bundle from the administrator and run: sudo penguindome-client setup --bundle FILE",
        )
    device = identity.device_key
    signer = identity.enrolment_key or device

    def body(_: datetime) -> dict[str, Any]:
        fields = {"machine_id": identity.machine_id, "public_key": device.certificate.text}
        token = identity.token
        return {**fields, "token": token} if token else fields

    try:
        answer = client.exchange.ask("enroll", body, signer.sign, more={"device_signature": device.sign})
        _check(answer, identity.client_id)
    except PenguinDomeError as error:
        note_failure(state, error, now=client.clock(), seed=identity.client_id)
        if isinstance(error, Refused):
            note_refusal(state, error)
        client.save()
        raise
    client.note_contact()
    _take(client, answer)
    return state.enrolment


def note_refusal(state: ClientState, refusal: Refused) -> None:
    """Remember what a refusal of any request says about the enrolment: 401 and 403 do, the others do not."""
    if refusal.status not in (401, 403):
        return
    state.enrolment = "pending" if refusal.reason == "pending" else "refused"
    state.enrolment_message = f"{refusal.message} ({refusal.reason})"


def _check(answer: dict[str, Any], client_id: str) -> None:
    status, token = answer.get("status"), answer.get("exchange_token")
    if status not in ("enrolled", "pending") or (status == "enrolled" and not isinstance(token, str)):
        raise Unreachable("the answer to enrolment makes no sense", hint="is server.url right?", status=200)
    if answer.get("client_id") != client_id:
        raise Unreachable("the server answered for another machine", hint="is server.url right?", status=200)


def _take(client: Client, answer: dict[str, Any]) -> None:
    state = client.state
    note_success(state)
    if answer["status"] == "pending":
        state.enrolment, state.enrolment_message = "pending", ""
        state.asked += 1
        state.not_before_at = client.clock() + backoff.pending_delay(state.asked, client.identity.client_id)
        client.save()
        return
    if state.enrolment != "enrolled":
        state.enrolled_at = client.clock()
        state.collect_requested = True
    state.enrolment, state.enrolment_message, state.asked = "enrolled", "", 0
    state.exchange_token = answer["exchange_token"]
    _keep_credentials(client, answer.get("repository_credentials"))
    client.save()
    client.identity.forget_enrolment_secrets()


def _keep_credentials(client: Client, message: object) -> None:
    """Keep the client's own credentials for the package repository, which only this device can decrypt."""
    if not isinstance(message, str):
        return
    try:
        credentials = json.loads(client.identity.device_key.decrypt(message.encode()))
        given = [credentials.get(key) for key in ("user", "password")] if isinstance(credentials, dict) else [None]
        if not all(isinstance(each, str) and _CREDENTIAL.fullmatch(each) for each in given):
            raise Unreachable("they are not a user and a password of letters, digits, _ and - alone")
    except PenguinDomeError as error:
        # Reports matter more: the server hands credentials out again with the next enrolment.
        log.warning("repository credentials were left aside: {}", error.message)
        return
    write_atomically(client.paths.client_state / CREDENTIALS, json.dumps(credentials), mode=0o600)
