"""From the bytes of a request to `enroll` to an applicant whose signatures are right; or a refusal.

Rules, in order:
1. The body is at most 64 kB and has exactly the fields `data`, `signature` and `device_signature`: `too-large`,
   `malformed`.
2. If `signature` names the enrolment key, it is right over the bytes of `data`: `bad-signature`.
3. `data` is JSON within the limits: `malformed`, `invalid`. `request` is `enroll`: `not-allowed`. `sent_at` is fresh:
   `clock-skew`.
4. `public_key` is one OpenPGP certificate that can sign and be encrypted to: `invalid`.
5. `device_signature` is right over the same bytes, by that certificate (the applicant has the private half):
   `bad-signature`.
6. If `signature` does not name the enrolment key, it is right by the device's certificate, and there is a token, which
   then alone vouches for the machine: `bad-signature`.
7. `hostname` and `machine_id` have the syntax of one: `invalid`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from penguindome.errors import KeyMaterialError
from penguindome.openpgp import Certificate
from penguindome_server.authentication import require_fresh, require_request, require_signature, signature_issuer
from penguindome_server.enrolment_requests import Applicant
from penguindome_server.enrolment_tokens import LONGEST
from penguindome_server.forms import read_form, require_fields
from penguindome_server.refusals import Refusal
from penguindome_server.untrusted import Limits, hostname_field, parse, text_field

BODY_BYTES = 65536
PUBLIC_KEY_BYTES = 16384
FIELDS = frozenset(("data", "signature", "device_signature"))

_MACHINE_ID = re.compile(r"[0-9a-f]{32}")


def read_applicant(
    environ: Mapping[str, Any], *, enrolment_certificate: Certificate, limits: Limits, now: datetime
) -> Applicant:
    """The applicant of a request. Raises Refusal."""
    form = read_form(environ, BODY_BYTES)
    require_fields(form, FIELDS)
    data, signature = form["data"], form["signature"]
    vouched = signature_issuer(signature) in enrolment_certificate.signing_fingerprints
    if vouched:
        require_signature(enrolment_certificate, data, signature, now)
    document = parse(data, limits)
    require_request(document, "enroll")
    sent_at = require_fresh(document, now)
    certificate = _certificate(document)
    device_signature = form["device_signature"]
    signing_key = signature_issuer(device_signature)
    require_signature(certificate, data, device_signature, now)
    token = text_field(document, "token", longest=LONGEST, optional=True)
    if not vouched:
        if not token:
            raise Refusal("bad-signature", "the request is not signed by the enrolment key, and has no token")
        require_signature(certificate, data, signature, now)
    return Applicant(
        client_id=certificate.fingerprint,
        signing_key=signing_key,
        public_key=certificate.text,
        hostname=hostname_field(document),
        machine_id=_machine_id(document),
        token=token or None,
        by_token_alone=not vouched,
        sent_at=sent_at,
    )


def _certificate(document: Mapping[str, Any]) -> Certificate:
    text = document.get("public_key")
    if not isinstance(text, str) or not 0 < len(text) <= PUBLIC_KEY_BYTES or not text.isascii():
        raise Refusal("invalid", "public_key is missing or not an armoured certificate")
    try:
        certificate = Certificate.from_text(text)
        certificate.encrypt(b"")
    except KeyMaterialError as error:
        raise Refusal("invalid", "public_key is not a certificate that can sign and be encrypted to") from error
    return certificate


def _machine_id(document: Mapping[str, Any]) -> str:
    value = document.get("machine_id")
    if not isinstance(value, str) or _MACHINE_ID.fullmatch(value) is None:
        raise Refusal("invalid", "machine_id is not 32 hexadecimal digits")
    return value
