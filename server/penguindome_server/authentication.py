"""From a request's bytes to a signed, fresh, well-formed message of a known client; or a refusal.

Rules, in order (the first that is broken decides the answer, and nothing before the signature is more than counted,
split and looked up):
1. Body and form: limits, exactly the fields `data` and `signature` (see `forms`): `too-large`, `malformed`.
2. `signature` is an armoured detached signature that names a key: `bad-signature`. That key is a client's:
   `unknown-client`. Its certificate has not come to an end: `bad-signature`.
3. The signature is right, over exactly the bytes of `data`, by that client's certificate: `bad-signature`; or
   `clock-skew` when it says that it was made in the future, which no library will verify.
4. The client is enrolled: `pending`, `rejected`, `revoked`.
5. `data` is JSON within the limits (see `untrusted`): `malformed`, `invalid`.
6. `request` names this endpoint: `not-allowed`. A signature is good for one endpoint only.
7. `sent_at` is within ten minutes of the server's clock, either way: `clock-skew`, with the server's time.
8. `hostname` is the syntax of one: `invalid`. (Another one than before is a rename, which the next report records.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from penguindome.errors import KeyMaterialError, SignatureError
from penguindome.openpgp import Certificate, ClockSkew, issuer_fingerprint
from penguindome_server.forms import read_form, require_fields
from penguindome_server.identities import Identities, Identity
from penguindome_server.refusals import Refusal, clock_skew
from penguindome_server.untrusted import Limits, hostname_field, parse

FRESHNESS = timedelta(minutes=10)
FIELDS = frozenset(("data", "signature"))
MAXIMUM_SIGNATURE = 4096

_REFUSED_STATES = {
    "pending": ("pending", "this client waits for an administrator's approval"),
    "rejected": ("rejected", "an administrator rejected this client"),
    "revoked": ("revoked", "this client was revoked"),
    "replaced": ("revoked", "this client was replaced by another key of the same machine"),
}


@dataclass(frozen=True, slots=True)
class Message:
    """What an enrolled client said: `data` is cleaned, `hostname` is the one it gave, `size` the bytes of its JSON."""

    identity: Identity
    hostname: str
    sent_at: datetime
    data: dict[str, Any]
    size: int


def authenticate(
    environ: Mapping[str, Any],
    endpoint: str,
    *,
    identities: Identities,
    limits: Limits,
    body_limit: int,
    data_limit: int,
    now: datetime,
) -> Message:
    """The message that a request carries. Raises Refusal, or StoreUnavailable."""
    form = read_form(environ, body_limit)
    require_fields(form, FIELDS)
    data = form["data"]
    identity = _signer(data, form["signature"], identities, now)
    require_enrolled(identity.state)
    if len(data) > data_limit:
        raise Refusal("too-large", f"data is larger than {data_limit} bytes", limit=data_limit)
    document = parse(data, limits)
    require_request(document, endpoint)
    sent_at = require_fresh(document, now)
    return Message(identity=identity, hostname=hostname_field(document), sent_at=sent_at, data=document, size=len(data))


def signature_issuer(signature: bytes) -> str:
    """The fingerprint that a signature says it is by. Raises Refusal."""
    if len(signature) > MAXIMUM_SIGNATURE:
        raise Refusal("bad-signature", "the signature is too long")
    try:
        return issuer_fingerprint(signature)
    except SignatureError as error:
        raise Refusal("bad-signature", "the signature cannot be read") from error


def _signer(data: bytes, signature: bytes, identities: Identities, now: datetime) -> Identity:
    try:
        identity = identities.find(signature_issuer(signature))
    except KeyMaterialError as error:
        raise Refusal("bad-signature", "the certificate of this client has expired or was revoked") from error
    if identity is None:
        raise Refusal("unknown-client", "the key of this signature is not enrolled here")
    require_signature(identity.certificate, data, signature, now)
    return identity


def require_signature(certificate: Certificate, data: bytes, signature: bytes, now: datetime) -> None:
    """Raise Refusal unless the signature is by this certificate and over exactly these bytes."""
    try:
        certificate.verify(data, signature)
    except ClockSkew as error:
        raise clock_skew(now) from error
    except SignatureError as error:
        raise Refusal("bad-signature", "the signature does not fit the data") from error


def require_enrolled(state: str) -> None:
    """Raise Refusal for every state but `enrolled`."""
    if state != "enrolled":
        raise state_refusal(state)


def state_refusal(state: str) -> Refusal:
    """What a client in this state, which is not `enrolled`, is told."""
    reason, message = _REFUSED_STATES[state]
    return Refusal(reason, message)


def require_request(data: Mapping[str, Any], endpoint: str) -> None:
    """Raise Refusal unless what was signed is for this endpoint."""
    if data.get("request") != endpoint:
        raise Refusal("not-allowed", "what was signed is for another endpoint")


def require_fresh(data: Mapping[str, Any], now: datetime) -> datetime:
    """The time of sending. Raises Refusal unless it is within ten minutes of now."""
    sent_at = data.get("sent_at")
    if not isinstance(sent_at, datetime):
        raise Refusal("invalid", "sent_at is missing or not a time (ISO 8601 with a time zone)")
    if abs(now - sent_at) > FRESHNESS:
        raise clock_skew(now)
    return sent_at
