"""Requests that nobody thought of: whatever comes, the answer is a refusal of ours, and nothing is left behind."""

from __future__ import annotations

import gzip
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hostile_requests import EXAMPLES, Reply, Target, good_poll, head
from penguindome import json
from penguindome.openpgp import DeviceKey
from web_server import PREFIX, Device

fuzzed = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)

FORMS = ("multipart/form-data; boundary=b", "application/x-www-form-urlencoded", "application/json", "text/plain", "")
SIGNED = ("submit", "update", "acknowledge_patch")
PREFIXES = (PREFIX, "/PenguinDome/v1/")

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False, allow_infinity=False)
)
keys = st.one_of(st.text(max_size=12), st.sampled_from(("$gt", "a.b", "$", ".", "x_at", "_id", "name", "packages")))
trees = st.recursive(
    scalars | st.text(max_size=30) | st.just("2026-01-01T00:00:00Z"),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=12,
)
lists_and_objects = st.lists(trees, max_size=3) | st.dictionaries(keys, trees, max_size=3)
no_text = scalars.filter(lambda value: value is not None) | lists_and_objects
no_name = st.sampled_from(
    ("", "a\nb", "a\0", "-a", "a-", ".a", "a..b", "ä", "a b", "a/b", "$gt", "a" * 64, "a." * 127, "x" * 100_000)
)
no_object = scalars | st.text(max_size=20) | st.lists(trees, max_size=3)
no_count = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 62), -1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20), lists_and_objects, st.just(...),
)  # fmt: skip
no_line = st.sampled_from(("", "a\nb", "\x1b[31m", "x" * 1000)) | no_text | st.none() | st.just(...)

WRONG: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "submit": {
        "hostname": no_text | no_name | st.none() | st.just(...),
        "request": trees.filter(lambda value: value != "submit") | st.just(...),
        "sent_at": no_text | st.text(max_size=20) | st.just("2026-01-01T00:00:00") | st.just(...),
        "report_id": no_line | st.sampled_from(("../x", "a b", "x" * 65, "ä")),
        "sequence": no_count,
        "collected_at": no_text | st.none() | st.text(max_size=20) | st.just(...),
        "plugins": no_object | st.just(...),
        "commands": no_object | st.just(...),
        "exchange_token": no_text | st.sampled_from(("", "a\n", "x" * 200)),
        "old_release": no_count.filter(lambda value: value is not ...),
        "manifest_sha256": no_text | st.text(max_size=70),
    },
    "update": {
        "hostname": no_text | no_name | st.none() | st.just(...),
        "old_release": no_count,
        "package_version": no_line,
        "package_kind": trees.filter(lambda value: value not in ("deb", "pacman", "tar", "source")) | st.just(...),
        "manifest_sha256": no_text | st.text(max_size=70),
    },
    "acknowledge_patch": {
        "id": no_line,
        "result": no_object | st.just(...) | st.dictionaries(keys, trees, max_size=3),
    },
    "enroll": {
        "hostname": no_text | no_name | st.none() | st.just(...),
        "machine_id": no_text | st.text(max_size=40) | st.none() | st.just(...),
        "public_key": no_text | st.text(max_size=200) | st.none() | st.just(...),
        "token": no_text | st.text(max_size=40),
        "request": trees.filter(lambda value: value != "enroll") | st.just(...),
    },
}  # fmt: skip


def document(device: Device, endpoint: str) -> dict[str, Any]:
    """What a good request to this endpoint says."""
    if endpoint == "submit":
        return device.report()
    if endpoint == "update":
        return device.poll()
    if endpoint == "acknowledge_patch":
        return device.data(endpoint, id="x", result={"status": "done"})
    return device.enrolment()


def send(target: Target, endpoint: str, data: bytes, applicant: DeviceKey) -> Reply:
    """Send data with all signatures right."""
    return target.enroll(data, applicant) if endpoint == "enroll" else target.signed(endpoint, data)


@given(data=st.data())
@fuzzed
def test_a_field_that_is_wrong_is_refused_however_well_it_is_signed(target: Target, data: st.DataObject) -> None:
    endpoint = data.draw(st.sampled_from(sorted(WRONG)))
    field = data.draw(st.sampled_from(sorted(WRONG[endpoint])))
    value = data.draw(WRONG[endpoint][field], label=f"{endpoint}.{field}")
    device = target.server.device("applicant") if endpoint == "enroll" else target.device
    good = document(device, endpoint)
    good.pop(field, None)
    changed = good if value is ... else {**good, field: value}
    reply = target.refuses(lambda: send(target, endpoint, encoded(changed), device.key))
    assert (reply.status, reply.code) in {
        (422, "invalid"), (403, "not-allowed"), (409, "clock-skew"), (404, "not-found"), (413, "too-large")
    }  # fmt: skip


def encoded(value: Any) -> bytes:
    """JSON that may hold half of a surrogate pair."""
    return json.dumps(value).encode("ascii")


LITERALS = (
    "NaN", "-Infinity", "1e999", str(1 << 63), str(-(1 << 63) - 1), "9" * 5000,
    '"\\ud800"', '"\\u0000"', '{"\\u0000":1}',
    "[" * 40 + "]" * 40, "[" * 100_000 + "]" * 100_000, '{"a":' * 40 + "1" + "}" * 40, "[" + "1," * 120_000 + "1]",
    '{"' + "k" * 300 + '":1}', '{"a.b":1,"a\uff0eb":2}', '{"$a":1,"\uff04a":2}', "{,}", "[1,]",
    "'x'", "01", "\xff", "\x01", '"\n"',
    "x", "", '{"a"}', '"' + "x" * (1 << 20) + '"',
)  # fmt: skip
NAMED = {f"{number} {literal[:20]!r}": literal for number, literal in enumerate(LITERALS)}


@given(endpoint=st.sampled_from(sorted(WRONG)), name=st.sampled_from(sorted(NAMED)), top=st.booleans())
@fuzzed
def test_json_beyond_the_rules_is_refused_wherever_it_is(target: Target, endpoint: str, name: str, top: bool) -> None:
    device = target.server.device("applicant") if endpoint == "enroll" else target.device
    literal = NAMED[name]
    place = "more" if top else "plugins"
    text = json.dumps({**document(device, endpoint), place: "HERE"}).replace('"HERE"', literal)
    if not top:
        text = text.replace(literal, '{"x":[' + literal + "]}", 1)
    reply = target.refuses(lambda: send(target, endpoint, text.encode(), device.key))
    assert (reply.status, reply.code) in {(400, "malformed"), (422, "invalid"), (413, "too-large")}


@given(endpoint=st.sampled_from(SIGNED), cut=st.integers(0, 10_000), byte=st.binary(max_size=3), gone=st.integers(0, 5))
@fuzzed
def test_data_changed_after_signing_is_refused(target: Target, endpoint: str, cut: int, byte: bytes, gone: int) -> None:
    data = encoded(document(target.device, endpoint))
    cut %= len(data)
    changed = data[:cut] + byte + data[cut + gone :]
    if changed == data:
        changed += b" "
    made = target.device.key.sign(data)
    reply = target.refuses(lambda: target.form(endpoint, data=changed, signature=made))
    assert (reply.status, reply.code) == (401, "bad-signature")


@given(endpoint=st.sampled_from(SIGNED), part=st.integers(0, 400), other=st.binary(max_size=200), whole=st.booleans())
@fuzzed
def test_what_is_not_the_whole_signature_is_refused(
    target: Target, endpoint: str, part: int, other: bytes, whole: bool
) -> None:
    data = encoded(document(target.device, endpoint))
    made = target.device.key.sign(data)
    changed = other if whole else made[: part % (len(made) - 2)] + other.replace(b"-", b"")
    reply = target.refuses(lambda: target.form(endpoint, data=data, signature=changed))
    assert (reply.status, reply.code) == (401, "bad-signature")


@given(
    endpoint=st.sampled_from((*SIGNED, "enroll")), body=st.binary(max_size=300), form=st.sampled_from(FORMS),
    coding=st.sampled_from(("", "gzip", "br", "identity", "gzip, gzip")),
)  # fmt: skip
@example(endpoint="submit", body=b"--b\r\n\r\n\r\n--b--", form=FORMS[0], coding="")
@example(endpoint="submit", body=b"%", form=FORMS[1], coding="")
@fuzzed
def test_a_body_that_is_no_form_is_refused(target: Target, endpoint: str, body: bytes, form: str, coding: str) -> None:
    headers = {"Content_Type": form, "Content_Encoding": coding}
    reply = target.refuses(
        lambda: target.body(endpoint, body, **{name: text for name, text in headers.items() if text})
    )
    assert (reply.status, reply.code) == (400, "malformed")


@given(cut=st.integers(0, 100_000), packed=st.booleans(), twice=st.booleans(), damage=st.booleans())
@fuzzed
def test_a_form_that_was_cut_or_damaged_is_refused(
    target: Target, cut: int, packed: bool, twice: bool, damage: bool
) -> None:
    body, content_type = good_poll(target.device)
    boundary = b"--" + content_type.partition("boundary=")[2].encode()
    if twice:
        again = b'\r\nContent-Disposition: form-data; name="data"\r\n\r\nx\r\n'
        body = body.replace(boundary + b"--", boundary + again + boundary + b"--")
    headers = {"Content_Type": content_type}
    if packed:
        body, headers["Content_Encoding"] = gzip.compress(body), "gzip"
        at = 10 + cut % (len(body) - 10)
        body = body[:at] + bytes([body[at] ^ 255]) + body[at + 1 :] if damage else body[:at]
    elif not twice:
        body = body[: cut % (len(body) - 3)]
    reply = target.refuses(lambda: target.body("update", body, **headers))
    assert reply.status in (400, 413)


@given(
    at=st.integers(0, 100_000), gone=st.integers(0, 4), new=st.binary(max_size=4), chunked=st.booleans(),
    extra=st.sampled_from(("", "Expect: 100-continue", "Connection: close", "Content-Length: 3", "X-Forwarded-For: x")),
)  # fmt: skip
@fuzzed
def test_a_request_damaged_anywhere_on_the_wire_breaks_nothing(
    target: Target, at: int, gone: int, new: bytes, chunked: bool, extra: str
) -> None:
    body, content_type = good_poll(target.device)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = [line for line in (f"Content-Type: {content_type}", length, extra) if line]
    if chunked:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    whole = head("update", *lines) + body
    at %= len(whole)
    damaged = whole[:at] + new + whole[at + gone :]
    before = target.stored()

    def attack() -> Reply:
        replies = target.replies(damaged)
        for reply in replies:
            assert reply.status == 200 or reply.code
            assert reply.status < 500
        return replies[0] if replies else Reply(0, "", b"")

    target.survives(attack)
    assert target.stored() == before


@given(
    path=st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=60),
    prefix=st.sampled_from((*PREFIXES, "/", "")),
    method=st.sampled_from(("GET", "POST", "PUT", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "X-Y", "")),
)  # fmt: skip
@example(path="healthz", prefix=PREFIX, method="POST")
@example(path="metrics", prefix=PREFIX, method="PUT")
@fuzzed
def test_a_path_that_is_none_is_refused_with_every_method(target: Target, path: str, prefix: str, method: str) -> None:
    if (method, prefix + path.partition("?")[0].partition("#")[0]) in {
        ("GET", prefix + "healthz") for prefix in PREFIXES
    }:
        return
    request = f"{method} {prefix}{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode("latin-1")
    replies: list[Reply] = []

    def attack() -> Reply:
        replies.extend(target.replies(request))
        return replies[0]

    target.refuses(attack)
    assert all(400 <= reply.status < 500 for reply in replies)


@given(
    endpoint=st.sampled_from(("healthz", "metrics")), prefix=st.sampled_from(PREFIXES),
    name=st.sampled_from(("Authorization", "X-Forwarded-For", "Forwarded", "Accept", "Host", "Cookie", "Script_Name",
                          "X-Forwarded-Proto")),
    scheme=st.sampled_from(("", "Basic ", "Bearer ")),
    value=st.binary(max_size=60).map(lambda value: value.translate(None, b"\r\n\0")),
    body=st.binary(max_size=20),
)  # fmt: skip
@fuzzed
def test_headers_give_no_right_and_break_nothing(
    target: Target, endpoint: str, prefix: str, name: str, scheme: str, value: bytes, body: bytes
) -> None:
    lines = (f"{name}: {scheme}{value.decode('latin-1')}", f"Content-Length: {len(body)}", "Connection: close")
    if name == "Host":
        request = head(endpoint, *lines, method="GET", prefix=prefix).replace(b"Host: a\r\n", b"", 1)
    else:
        request = head(endpoint, *lines, method="GET", prefix=prefix)
    reply = target.survives(lambda: target.wire(request + body))
    if endpoint == "metrics":
        assert reply.status in (400, 401, 429)
        assert reply.code
    else:
        assert reply.status in (200, 400)


@given(plugins=st.dictionaries(keys, trees, max_size=4), commands=st.dictionaries(keys, trees, max_size=3))
@example(plugins={"": {"": 1}}, commands={"": None})
@example(plugins={"packages": {"manager": "apt", "packages": [{"name": 1}, {"name": {"x": 2}}, 3]}}, commands={})
@example(plugins={"x": {"y_at": "0001-01-01T00:00:00+14:00"}}, commands={"x_at": "9999-12-31T23:59:59.9999-14:00"})
@fuzzed
def test_odd_outputs_are_kept_or_refused_and_the_next_report_is_taken(
    any_target: Target, plugins: dict[str, Any], commands: dict[str, Any]
) -> None:
    device = any_target.device
    for _ in range(2):
        report = encoded(device.report(plugins=plugins, commands=commands))
        reply = any_target.survives(lambda report=report: any_target.signed("submit", report))  # type: ignore[misc]  # a default binds it
        assert reply.status == 200 or (reply.status, reply.code) == (422, "invalid")
    assert device.submit().status_code == 200
    assert any_target.server.client(device.client_id)["plugins"] == {
        "os_info": {"distribution": "debian", "version": "12"}
    }
