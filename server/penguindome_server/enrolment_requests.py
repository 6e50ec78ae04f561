"""A machine asks to be enrolled: what the policy, a token and what is known already make of it.

A second key for a host name or machine-id that is known always waits, whatever policy or token says: so nobody takes
over a machine by its name. To hold that against two requests at the same instant, every client is first written as
pending, and becomes enrolled only after a look that found no other.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from penguindome import json
from penguindome.logging import get_logger
from penguindome.openpgp import cached_certificate
from penguindome.settings import Settings
from penguindome_server.addresses import Networks
from penguindome_server.authentication import require_enrolled
from penguindome_server.enrolment import change_state, conflicts
from penguindome_server.enrolment_tokens import consume_token, token_is_good
from penguindome_server.exchange import after_enrolment, new_token
from penguindome_server.refusals import Refusal
from penguindome_server.store import Document, DuplicateKey, Store

log = get_logger(__name__)

RETRY_SECONDS = 3600


@dataclass(frozen=True)
class Policy:
    """What settings say about machines that ask."""

    mode: str
    automatic: Networks
    pending_limit: int
    pending_limit_per_address: int

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The policy of a site."""
        return cls(
            mode=settings["enrolment.policy"],
            automatic=Networks(settings["enrolment.automatic_ranges"]),
            pending_limit=settings["enrolment.pending_limit"],
            pending_limit_per_address=settings["enrolment.pending_limit_per_address"],
        )


@dataclass(frozen=True)
class Applicant:
    """Who asks, after both signatures were found right. `by_token_alone`: the enrolment key did not vouch for it."""

    client_id: str
    signing_key: str
    public_key: str
    hostname: str
    machine_id: str
    token: str | None
    by_token_alone: bool
    sent_at: datetime


@dataclass(frozen=True)
class Answer:
    """What a client that asked is told. Token and credentials come with the state `enrolled` only."""

    state: str
    client_id: str
    exchange_token: str | None = None
    repository_credentials: str | None = None


def request(store: Store, policy: Policy, applicant: Applicant, *, address: str, now: datetime) -> Answer:
    """Answer a machine that asks for enrolment, for the first time or again. Raises Refusal, StoreUnavailable."""
    document = store.collection("clients").get(applicant.client_id, fields=("state",))
    if document is None:
        document = _register(store, policy, applicant, address=address, now=now)
    if document["state"] == "pending" and _may_enrol(store, policy, applicant, address=address, now=now):
        document = _enrol(store, applicant, now=now)
    if document["state"] == "pending":
        return Answer(state="pending", client_id=applicant.client_id)
    require_enrolled(document["state"])
    return _grant(store, applicant, address=address)


def _register(store: Store, policy: Policy, applicant: Applicant, *, address: str, now: datetime) -> Document:
    """Write a client that was not known as pending, within the limits. Raises Refusal."""
    if policy.mode == "closed":
        raise Refusal("enrolment-closed", "this server enrols no more machines")
    if applicant.token is not None and not token_is_good(store, applicant.token, applicant.client_id, now=now):
        raise Refusal("not-allowed", "this enrolment token is unknown, expired or used")
    clients = store.collection("clients")
    if next(iter(clients.find({"signing_key": applicant.signing_key}, limit=1, fields=("state",))), None) is not None:
        raise Refusal("conflict", "this signing key belongs to another client")
    _require_room(store, policy, address, waiting=0)
    try:
        clients.insert(_new_client(applicant, address, now))
    except DuplicateKey:
        return clients.get(applicant.client_id, fields=("state",)) or {"state": "pending"}
    try:
        # Counted again with this one in it, because others may have come in between.
        _require_room(store, policy, address, waiting=1)
    except Refusal:
        clients.delete({"_id": applicant.client_id})
        raise
    log.info("client {} asks for enrolment as {} from {}", applicant.client_id, applicant.hostname, address)
    return {"_id": applicant.client_id, "state": "pending"}


def _require_room(store: Store, policy: Policy, address: str, *, waiting: int) -> None:
    clients = store.collection("clients")
    if clients.count({"state": "pending"}) >= policy.pending_limit + waiting:
        raise Refusal("rate-limited", "too many machines wait for approval", retry_after=RETRY_SECONDS)
    if clients.count({"address": address, "state": "pending"}) >= policy.pending_limit_per_address + waiting:
        raise Refusal("rate-limited", "too many machines wait for approval at this address", retry_after=RETRY_SECONDS)


def _new_client(applicant: Applicant, address: str, now: datetime) -> Document:
    return {
        "_id": applicant.client_id,
        "state": "pending",
        "hostname": applicant.hostname,
        "previous_hostnames": [],
        "machine_id": applicant.machine_id,
        "public_key": applicant.public_key,
        "signing_key": applicant.signing_key,
        "requested_at": now,
        "enrolled_at": None,
        "enrolled_by": None,
        "address": address,
        "last_seen_at": now,
        "reported_at": None,
        "recent_reports": [],
        "exchange": None,
        "plugins": {},
        "commands": {},
        "failing": [],
    }


def _may_enrol(store: Store, policy: Policy, applicant: Applicant, *, address: str, now: datetime) -> bool:
    """Whether a waiting client needs no administrator: policy or token says so, and nobody else has its name or
    machine-id.
    """
    automatic = policy.mode == "automatic" and address in policy.automatic and not applicant.by_token_alone
    if policy.mode == "closed" or not (automatic or applicant.token):
        return False
    others = conflicts(store, applicant.client_id, hostname=applicant.hostname, machine_id=applicant.machine_id)
    if others:
        log.warning(
            "client {} waits for approval: {} is known with another key", applicant.client_id, applicant.hostname
        )
        return False
    return automatic or (
        applicant.token is not None and consume_token(store, applicant.token, applicant.client_id, now=now)
    )


def _enrol(store: Store, applicant: Applicant, *, now: datetime) -> Document:
    values = {"enrolled_at": now, "enrolled_by": "token" if applicant.token else "policy"}
    _before, after = change_state(store, applicant.client_id, {"pending": "enrolled"}, values)
    if after is None:
        raise Refusal("unknown-client", "this client is not known any more")
    log.info("client {} ({}) is enrolled", applicant.client_id, applicant.hostname)
    return after


def _grant(store: Store, applicant: Applicant, *, address: str) -> Answer:
    """Give an enrolled client a fresh exchange token and repository credentials, both replacing those before.

    A request that was answered before gets nothing: a recorded one would otherwise put the client's token out of step.
    """
    token, secret = new_token(), secrets.token_urlsafe(24)
    secret_hash = hashlib.sha256(secret.encode()).hexdigest()

    def change(document: Document | None) -> Document | None:
        if document is None or document["state"] != "enrolled":
            return None
        answered = document.get("enrolment_sent_at")
        if answered is not None and answered >= applicant.sent_at:
            return None
        return {
            **document,
            "exchange": after_enrolment(document.get("exchange"), token=token, address=address),
            "repository_secret_hash": secret_hash,
            "enrolment_sent_at": applicant.sent_at,
        }

    after = store.collection("clients").update(applicant.client_id, change).after
    if after is None or after.get("repository_secret_hash") != secret_hash:
        require_enrolled(after["state"] if after else "revoked")
        raise Refusal("conflict", "this request was answered before; ask anew")
    credentials = json.dumps({"user": applicant.client_id, "password": secret}).encode()
    return Answer(
        state="enrolled",
        client_id=applicant.client_id,
        exchange_token=token,
        repository_credentials=cached_certificate(after["public_key"]).encrypt(credentials).decode("ascii"),
    )
