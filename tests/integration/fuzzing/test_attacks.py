"""Known attacks, each with the refusal that it gets."""

from __future__ import annotations

import base64
import gzip
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pysequoia
import pytest

from hostile_requests import Reply, Send, Target, good_poll, head
from penguindome import json
from penguindome.openpgp import DeviceKey
from penguindome.times import utc_now
from penguindome_server.enrolment import reject, revoke
from penguindome_server.enrolment_tokens import create_token
from web_server import Device, at

Attack = Callable[[Target], Send]
"""Prepares what may leave traces in the store, and returns what is sent then."""

FORM = "application/x-www-form-urlencoded"
DEEP = "[" * 50_000 + "]" * 50_000


def encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def another(target: Target, **values: Any) -> Device:
    """An enrolled device of the attacker's."""
    return target.server.enrolled(f"attacker-{secrets.token_hex(4)}", **values)


# Signatures.


def report(**values: Any) -> Attack:
    """A report with these values, signed as it should be."""
    return lambda target: lambda: target.signed("submit", encoded(target.device.report(**values)))


def text(old: str, new: str) -> Attack:
    """A report whose JSON text is changed before it is signed."""
    return lambda target: (
        lambda: target.signed("submit", json.dumps(target.device.report()).replace(old, new, 1).encode())
    )


def signature(make: Callable[[Target, bytes], bytes]) -> Attack:
    """A good report with this signature."""

    def attack(target: Target) -> Send:
        data = encoded(target.device.report())
        made = make(target, data)
        return lambda: target.form("submit", data=data, signature=made)

    return attack


def replayed(sent: str, to: str, **values: Any) -> Attack:
    """A request to one endpoint, sent to another (or later)."""

    def attack(target: Target) -> Send:
        documents = {"update": target.device.poll, "submit": target.device.report}
        data = encoded(documents[sent](**values))
        return lambda: target.signed(to, data)

    return attack


def swapped_data(target: Target) -> Send:
    other = another(target)
    data = encoded(other.report(hostname=target.device.hostname))
    return lambda: target.form("submit", data=data, signature=target.device.key.sign(encoded(target.device.report())))


def forged_issuer(target: Target) -> Send:
    """Made by another enrolled device, but naming the key of the one that it wants to be."""
    other, data = another(target), encoded(target.device.report())
    raw = dearmoured(other.key.sign(data))
    keys = (one.key.certificate.signing_fingerprints for one in (other, target.device))
    for theirs, ours in zip(*keys, strict=True):
        raw = raw.replace(bytes.fromhex(theirs), bytes.fromhex(ours))
        raw = raw.replace(bytes.fromhex(theirs[-16:]), bytes.fromhex(ours[-16:]))
    return lambda: target.form("submit", data=data, signature=armoured(raw))


def inline(mode: pysequoia.SignatureMode) -> Attack:
    def make(target: Target, data: bytes) -> bytes:
        tsk = pysequoia.Tsk.from_bytes(target.device.key.text.encode())
        return bytes(pysequoia.sign(tsk.signer(), data, mode=mode))

    return signature(make)


def dearmoured(text: bytes) -> bytes:
    body = text.split(b"\n\n", 1)[1].split(b"-----END")[0]
    return base64.b64decode(b"".join(line for line in body.split() if not line.startswith(b"=")))


def armoured(raw: bytes, kind: str = "SIGNATURE") -> bytes:
    return f"-----BEGIN PGP {kind}-----\n\n{base64.encodebytes(raw).decode()}-----END PGP {kind}-----\n".encode()


def both_in_one(target: Target, data: bytes) -> bytes:
    return armoured(dearmoured(target.device.key.sign(data)) + dearmoured(target.device.key.sign(data)))


def in_state(change: Callable[..., Any]) -> Attack:
    """A report of a device about which an administrator decided."""

    def attack(target: Target) -> Send:
        waiting = target.server.device(target.device.hostname) if change is reject else another(target)
        waiting.enroll()
        change(target.server.store, waiting.client_id, who="test", now=utc_now())
        return lambda: Reply.of(waiting.submit())

    return attack


# Keys that came to an end.


@dataclass(frozen=True)
class Ended:
    """A certificate that came to an end, and a signature that its key made."""

    fingerprint: str
    signing_key: str
    certificate: str
    signature: bytes


End = Callable[[Callable[[str], bytes]], Ended]


def expired(data: Callable[[str], bytes]) -> Ended:
    """A key that expired, and made a signature in its time; `data` is told its certificate."""
    tsk = pysequoia.Tsk.generate(user_id="x", profile=pysequoia.Profile.RFC4880, validity_seconds=None)
    key = DeviceKey(tsk)
    expired_one = tsk.extract_certificate().set_expiration(utc_now() - timedelta(seconds=5), tsk.certifier())
    certificate = armoured(bytes(expired_one), "PUBLIC KEY BLOCK").decode()
    made = key.sign(data(certificate))
    return Ended(key.certificate.fingerprint, key.certificate.signing_fingerprints[-1], certificate, made)


def revoked(data: Callable[[str], bytes]) -> Ended:
    """A key that was revoked, and signs."""
    key = DeviceKey.generate("x")
    certificate = revoked_certificate(key)
    made = key.sign(data(certificate))
    return Ended(key.certificate.fingerprint, key.certificate.signing_fingerprints[-1], certificate, made)


def revoked_certificate(key: DeviceKey) -> str:
    tsk = pysequoia.Tsk.from_bytes(key.text.encode())
    certificate = tsk.extract_certificate()
    return armoured(bytes(certificate) + bytes(certificate.revoke(tsk.certifier())), "PUBLIC KEY BLOCK").decode()


def report_with(end: End) -> Attack:
    """A report by a client that was enrolled when its certificate was still good."""

    def attack(target: Target) -> Send:
        data = encoded(target.device.report())
        ended = end(lambda _certificate: data)
        changed = {"_id": ended.fingerprint, "signing_key": ended.signing_key, "public_key": ended.certificate}
        model = target.server.client(target.device.client_id)
        document = {name: value for name, value in model.items() if name not in ("_version", "hostname")}
        target.server.store.collection("clients").insert({**document, "hostname": "ended", **changed})
        return lambda: target.form("submit", data=data, signature=ended.signature)

    return attack


# Enrolment.


def enrolment(**values: Any) -> Attack:
    def attack(target: Target) -> Send:
        device = target.server.device(f"new-{secrets.token_hex(4)}")
        return lambda: Reply.of(device.enroll(**values))

    return attack


def private_key_block(target: Target) -> Send:
    device = target.server.device("new")
    return lambda: Reply.of(device.enroll(public_key=device.key.text))


def somebody_elses_public_key(target: Target) -> Send:
    device = target.server.device("new")
    return lambda: Reply.of(device.enroll(public_key=target.device.key.certificate.text))


def enrolment_by_stranger(target: Target) -> Send:
    device = target.server.device("new")
    return lambda: Reply.of(device.enroll(signer=DeviceKey.generate("stranger")))


def enrolment_signed_by_a_client(target: Target) -> Send:
    device = target.server.device("new")
    return lambda: Reply.of(device.enroll(signer=target.device.key))


def token_used_twice(target: Target) -> Send:
    token = create_token(target.server.store, who="test", now=utc_now(), lifetime=timedelta(hours=1))
    first = target.server.device(f"first-{secrets.token_hex(4)}", token=token)
    assert first.enroll(signer=first.key).status_code == 200
    second = target.server.device("second", token=token)
    return lambda: Reply.of(second.enroll(signer=second.key))


def expired_token(target: Target) -> Send:
    token = create_token(target.server.store, who="test", now=at(hours=2), lifetime=timedelta(hours=1))
    device = target.server.device("late", token=token)
    return lambda: Reply.of(device.enroll(signer=device.key))


def recorded_enrolment(target: Target) -> Send:
    device = target.server.device(f"recorded-{secrets.token_hex(4)}")
    data = encoded(device.enrolment())
    assert target.enroll(data, device.key).status == 200
    return lambda: target.enroll(data, device.key)


def enrolment_with(end: End) -> Attack:
    def attack(target: Target) -> Send:
        device = target.server.device("ended")
        sent: list[bytes] = []

        def data(certificate: str) -> bytes:
            sent.append(encoded(device.enrolment(public_key=certificate)))
            return sent[0]

        ended = end(data)
        return lambda: target.enroll(sent[0], device.key, device_signature=ended.signature)

    return attack


# HTTP.


def wire(request: bytes) -> Attack:
    return lambda target: lambda: target.wire(request)


def framed(*lines: str, body: bytes | None = None) -> Attack:
    """A good poll whose length is told by these headers instead; a second request hides behind it."""

    def attack(target: Target) -> Send:
        good, content_type = good_poll(target.device)
        length = str(len(good))
        headers = [line.replace("LENGTH", length) for line in lines]
        hidden = b"GET /penguindome/v1/healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        sent = head("update", f"Content-Type: {content_type}", *headers) + (good if body is None else body) + hidden
        return lambda: target.wire(sent)

    return attack


def body(content: bytes, **headers: str) -> Attack:
    return lambda target: lambda: target.body("submit", content, **headers)


def metrics(*lines: str) -> Attack:
    return wire(head("metrics", "Connection: close", *lines, method="GET"))


def path(target_path: str, method: str = "POST") -> Attack:
    return wire(f"{method} {target_path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode("latin-1"))


def other_action(target: Target) -> Send:
    """An action that was queued for another client."""
    other, action_id = another(target), secrets.token_hex(8)
    target.server.store.collection("deliveries").insert(
        {"_id": f"{action_id}:{other.client_id}", "action_id": action_id, "client_id": other.client_id,
         "state": "pending", "queued_at": utc_now(), "hostname": other.hostname}
    )  # fmt: skip
    document = target.device.data("acknowledge_patch", id=action_id, result={"status": "done"})
    return lambda: target.signed("acknowledge_patch", encoded(document))


ATTACKS: list[tuple[str, Attack, int, str]] = [
    # Who signs what.
    ("data swapped under a good signature", swapped_data, 401, "bad-signature"),
    ("a signature that names a key that did not make it", forged_issuer, 401, "bad-signature"),
    (
        "a signature by an unknown device",
        signature(lambda t, data: DeviceKey.generate("x").sign(data)),
        401,
        "unknown-client",
    ),
    (
        "a report signed by the enrolment key",
        signature(lambda t, data: t.server.enrolment_key.sign(data)),
        401,
        "unknown-client",
    ),
    (
        "a report signed by the server key",
        signature(lambda t, data: t.server.server_key.sign(data)),
        401,
        "unknown-client",
    ),
    ("a signature over other bytes", signature(lambda t, data: t.device.key.sign(data + b" ")), 401, "bad-signature"),
    ("a signed message instead of a signature", inline(pysequoia.SignatureMode.INLINE), 401, "bad-signature"),
    ("a cleartext-signed message", inline(pysequoia.SignatureMode.CLEAR), 401, "bad-signature"),
    ("two signatures", signature(lambda t, data: t.device.key.sign(data) * 2), 401, "bad-signature"),
    ("two signatures in one armour", signature(both_in_one), 401, "bad-signature"),
    (
        "a signature without armour",
        signature(lambda t, data: dearmoured(t.device.key.sign(data))),
        401,
        "bad-signature",
    ),
    (
        "a certificate for a signature",
        signature(lambda t, data: t.device.key.certificate.text.encode()),
        401,
        "bad-signature",
    ),
    (
        "a signature of 100 kB",
        signature(lambda t, data: t.device.key.sign(data) + b"\n" * 100_000),
        401,
        "bad-signature",
    ),
    ("no signature", signature(lambda t, data: b""), 401, "bad-signature"),
    ("an expired key", report_with(expired), 401, "bad-signature"),
    ("a revoked key", report_with(revoked), 401, "bad-signature"),
    ("a client that was revoked", in_state(revoke), 403, "revoked"),
    ("a client that was rejected", in_state(reject), 403, "rejected"),
    # When and for what.
    ("a poll replayed as a report", replayed("update", "submit"), 403, "not-allowed"),
    ("a report replayed as a poll", replayed("submit", "update"), 403, "not-allowed"),
    ("a report replayed as an acknowledgement", replayed("submit", "acknowledge_patch"), 403, "not-allowed"),
    ("a report replayed after ten minutes", replayed("submit", "submit", sent_at=at(minutes=15)), 409, "clock-skew"),
    ("a poll replayed after ten minutes", replayed("update", "update", sent_at=at(minutes=15)), 409, "clock-skew"),
    ("a report for later", replayed("submit", "submit", sent_at=at(hours=-2)), 409, "clock-skew"),
    ("a report without a time", report(sent_at=...), 422, "invalid"),
    ("a report for no endpoint", report(request=...), 403, "not-allowed"),
    ("another client's action", other_action, 404, "not-found"),
    # Enrolment.
    ("a private key for a certificate", private_key_block, 422, "invalid"),
    ("somebody else's public key", somebody_elses_public_key, 401, "bad-signature"),
    ("an enrolment without the enrolment key", enrolment_by_stranger, 401, "bad-signature"),
    ("an enrolment signed by a client", enrolment_signed_by_a_client, 401, "bad-signature"),
    ("a token used twice", token_used_twice, 403, "not-allowed"),
    ("an expired token", expired_token, 403, "not-allowed"),
    ("a guessed token", enrolment(token="x" * 40), 403, "not-allowed"),
    ("a token that is an operator", enrolment(token={"$ne": None}), 422, "invalid"),
    ("a machine-id that is an operator", enrolment(machine_id={"$ne": None}), 422, "invalid"),
    ("a recorded enrolment", recorded_enrolment, 409, "conflict"),
    ("an old enrolment", enrolment(sent_at=at(minutes=15)), 409, "clock-skew"),
    ("an enrolment with an expired key", enrolment_with(expired), 422, "invalid"),
    ("an enrolment with a revoked key", enrolment_with(revoked), 422, "invalid"),
    # What is reported.
    ("an operator for a host name", report(hostname={"$gt": ""}), 422, "invalid"),
    ("another operator for a host name", report(hostname={"$ne": 1}), 422, "invalid"),
    ("null for a host name", report(hostname=None), 422, "invalid"),
    ("an empty host name", report(hostname=""), 422, "invalid"),
    ("a list for a host name", report(hostname=["good"]), 422, "invalid"),
    ("a host name of 100 kB", report(hostname="x" * 100_000), 422, "invalid"),
    ("a host name with a line end", report(hostname="good\n"), 422, "invalid"),
    ("a host name with NUL", report(hostname="good\0"), 422, "invalid"),
    ("a host name that is a path", report(hostname="../../etc"), 422, "invalid"),
    ("an operator after a good host name", text(',"request"', ',"hostname":{"$gt":""},"request"'), 422, "invalid"),
    ("a list for a report", lambda t: lambda: t.signed("submit", b"[]"), 422, "invalid"),
    ("a report without plugins", report(plugins=...), 422, "invalid"),
    ("an integer over 64 bits", text('"commands":{}', f'"commands":{{"x":{2**64}}}'), 422, "invalid"),
    ("an integer of 5,000 digits", text('"commands":{}', f'"commands":{{"x":{"9" * 5000}}}'), 400, "malformed"),
    ("deep nesting", text('"commands":{}', f'"commands":{DEEP}'), 422, "invalid"),
    ("NaN", text('"commands":{}', '"commands":{"x":NaN}'), 400, "malformed"),
    ("infinity by a large exponent", text('"commands":{}', '"commands":{"x":1e999}'), 400, "malformed"),
    ("half a surrogate pair", text('"commands":{}', r'"commands":{"x":"\udc00"}'), 422, "invalid"),
    ("bytes that are not UTF-8", lambda t: lambda: t.signed("submit", b'{"hostname":"\xff"}'), 400, "malformed"),
    ("a report id that is a path", report(report_id="../../x"), 422, "invalid"),
    ("a report id that is an operator", report(report_id={"$gt": ""}), 422, "invalid"),
    ("a report larger than the server keeps", report(plugins={"x": "y" * 1_000_000}), 413, "too-large"),
    ("a report larger than the server reads", report(plugins={"x": "y" * (1 << 20)}), 413, "too-large"),
    # Bodies.
    ("a body of 8 MB", body(b"data=" + b"x" * (8 << 20), Content_Type=FORM), 413, "too-large"),
    (
        "200 MB announced",
        wire(head("submit", f"Content-Type: {FORM}", "Content-Length: 209715200") + b"data="),
        413,
        "too-large",
    ),
    (
        "a gzip bomb",
        body(gzip.compress(b"\0" * (64 << 20)), Content_Type=FORM, Content_Encoding="gzip"),
        413,
        "too-large",
    ),
    ("100,000 fields", body(b"&".join(b"f%d=" % n for n in range(100_000)), Content_Type=FORM), 400, "malformed"),
    ("a field twice", body(b"data=1&data=2&signature=3", Content_Type=FORM), 400, "malformed"),
    ("JSON instead of a form", body(b'{"data": 1}', Content_Type="application/json"), 400, "malformed"),
    ("no body", body(b""), 400, "malformed"),
    # Who may read, and who says whose request it is.
    ("metrics without a right", metrics(), 401, "unauthorised"),
    ("metrics with a forged X-Forwarded-For", metrics("X-Forwarded-For: 10.0.0.1"), 401, "unauthorised"),
    ("metrics with a forged Forwarded", metrics("Forwarded: for=10.0.0.1", "X-Real-IP: 10.0.0.1"), 401, "unauthorised"),
    ("metrics with an address in an environment's name", metrics("Remote_Addr: 10.0.0.1"), 401, "unauthorised"),
    ("metrics with a wrong password", metrics("Authorization: Basic cHJvbWV0aGV1czp3cm9uZw=="), 401, "unauthorised"),
    ("metrics with a password that is no text", metrics("Authorization: Basic \xff\xfe"), 401, "unauthorised"),
    (
        "a path moved by a header",
        wire(head("x/penguindome/v1/healthz", "Script_Name: /x", "Connection: close", method="GET", prefix="/")),
        404,
        "not-found",
    ),
    # Paths and methods.
    ("a path out of the tree", path("/penguindome/v1/../../etc/passwd", "GET"), 404, "not-found"),
    ("an encoded path out of the tree", path("/penguindome/v1/..%2f..%2fetc%2fpasswd", "GET"), 404, "not-found"),
    ("a path with NUL", path("/penguindome/v1/submit%00", "POST"), 404, "not-found"),
    ("a path with a line end", path("/penguindome/v1/submit%0d%0aX:%20y"), 404, "not-found"),
    ("a doubled slash", path("//penguindome/v1/submit"), 404, "not-found"),
    ("a path of 6 kB", path("/" + "x" * 6000), 414, "malformed"),
    ("reading what is written", path("/penguindome/v1/submit", "GET"), 405, "method-not-allowed"),
    ("deleting", path("/PenguinDome/v1/submit", "DELETE"), 405, "method-not-allowed"),
    ("tracing", path("/penguindome/v1/update", "TRACE"), 405, "method-not-allowed"),
    (
        "another method by a header",
        wire(head("submit", "X-HTTP-Method-Override: POST", "Connection: close", method="GET")),
        405,
        "method-not-allowed",
    ),
    ("a method that is none", path("/penguindome/v1/healthz", "G\x01T"), 400, "malformed"),
    # Framing.
    ("a header flood", wire(head("healthz", *(f"X-{n}: y" for n in range(100)), method="GET")), 431, "malformed"),
    ("a header of 40 kB", wire(head("healthz", "X: " + "y" * 40_000, method="GET")), 431, "malformed"),
    ("two lengths", framed("Content-Length: LENGTH", "Content-Length: 5"), 400, "malformed"),
    ("two equal lengths", framed("Content-Length: LENGTH", "Content-Length: LENGTH"), 400, "malformed"),
    ("two lengths in one header", framed("Content-Length: LENGTH, LENGTH"), 400, "malformed"),
    ("a length with a sign", framed("Content-Length: +LENGTH"), 400, "malformed"),
    ("a negative length", framed("Content-Length: -1"), 400, "malformed"),
    ("length and chunks", framed("Content-Length: LENGTH", "Transfer-Encoding: chunked"), 400, "malformed"),
    ("chunks and length", framed("Transfer-Encoding: chunked", "Content-Length: LENGTH"), 400, "malformed"),
    ("two codings", framed("Transfer-Encoding: gzip, chunked"), 400, "malformed"),
    ("a coding in disguise", framed("Transfer-Encoding: \x0bchunked"), 400, "malformed"),
    ("a length before a colon with a space", framed("Content-Length : LENGTH"), 400, "malformed"),
    ("a folded length", framed("X: y", " Content-Length: LENGTH"), 400, "malformed"),
    ("a length behind a bare line feed", framed("X: y\nContent-Length: LENGTH"), 400, "malformed"),
    ("a chunk without an end", framed("Transfer-Encoding: chunked", body=b"5\r\nhelloXX0\r\n\r\n"), 400, "malformed"),
    (
        "a chunk size with a space",
        framed("Transfer-Encoding: chunked", body=b"5 \r\nhello\r\n0\r\n\r\n"),
        400,
        "malformed",
    ),
    ("a chunk of no size", framed("Transfer-Encoding: chunked", body=b"\r\nhello\r\n0\r\n\r\n"), 400, "malformed"),
    ("a chunk of 4 GB", framed("Transfer-Encoding: chunked", body=b"ffffffff\r\nhello"), 413, "too-large"),
    (
        "a trailer that is no header",
        framed("Transfer-Encoding: chunked", body=b"0\r\nno header\r\n\r\n"),
        400,
        "malformed",
    ),
    (
        "a flood of trailers",
        framed("Transfer-Encoding: chunked", body=b"0\r\n" + b"X: y\r\n" * 100 + b"\r\n"),
        431,
        "malformed",
    ),
    ("HTTP/2 from the start", wire(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400, "malformed"),
    ("TLS where there is none", wire(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), 400, "malformed"),
]


@pytest.mark.parametrize(("attack", "status", "code"), [pytest.param(*row[1:], id=row[0]) for row in ATTACKS])
def test_attack_is_refused(target: Target, attack: Attack, status: int, code: str) -> None:
    reply = target.refuses(attack(target))
    assert (reply.status, reply.code) == (status, code)


def test_a_good_report_is_taken_after_all_that(target: Target) -> None:
    assert target.device.submit().status_code == 200


def test_large_outputs_of_commands_do_not_pile_up_until_reports_are_refused(any_target: Target) -> None:
    device = any_target.server.enrolled(f"talkative-{secrets.token_hex(4)}")
    for number in range(8):
        assert device.submit(commands={f"command-{number}": "x" * 900_000}).status_code == 200
    for number in range(8):
        assert device.submit(commands={f"small-{number}": "x" * 60_000}).status_code == 200
    kept = any_target.server.client(device.client_id)["commands"]
    assert "small-7" in kept
    assert len(json.dumps(kept)) < 300_000
    assert device.submit(plugins={"large": "x" * 500_000}).status_code == 200
    revoke(any_target.server.store, device.client_id, who="test", now=utc_now())
