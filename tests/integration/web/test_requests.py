"""What a running server answers to good requests, and to attacks: always the right status, always our JSON, nothing
stored.
"""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import requests
from urllib3.filepost import encode_multipart_formdata

from penguindome import json
from penguindome.openpgp import DeviceKey
from penguindome.times import utc_now
from web_server import PREFIX, Device, Server, at, refused, until


def nothing_new(device: Device) -> dict[str, Any]:
    """What a client is told while there are no releases."""
    key = device.server.server_key.certificate.fingerprint
    return {"status": "current", "current_release": 0, "release": None, "server_key": key, "patches": []}


@pytest.fixture
def device(shared_server: Server) -> Device:
    """An enrolled device with a host name of its own."""
    return shared_server.enrolled(f"host-{secrets.token_hex(4)}")


def test_a_report_is_stored_before_it_is_acknowledged(device: Device) -> None:
    before = device.exchange_token
    answer = device.submit(plugins={"os_info": {"version": "12", "boot_at": at(hours=1)}, "firewall": {"active": True}})
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "exchange_token": device.exchange_token, "update": nothing_new(device)}
    assert device.exchange_token != before
    stored = device.server.client(device.client_id)
    assert stored["plugins"]["firewall"] == {"active": True}
    assert stored["sequence"] == 1
    assert stored["address"] == "127.0.0.1"
    assert utc_now() - stored["reported_at"] < timedelta(minutes=1)


def test_a_report_sent_again_is_answered_alike_and_stored_once(device: Device) -> None:
    document = device.report(plugins={"x": {"a": 1}})
    first, second = device.send("submit", document), device.send("submit", {**document, "sent_at": utc_now()})
    assert first.json()["exchange_token"] == second.json()["exchange_token"]
    assert device.server.client(device.client_id)["recent_reports"] == [document["report_id"]]


def test_a_poll_is_answered_and_the_client_counts_as_seen(device: Device) -> None:
    answer = device.update(package_version="9.9", package_kind="pacman")
    assert (answer.status_code, answer.json()) == (200, nothing_new(device))
    stored = until(lambda: _with_version(device, "9.9"), what="writing when the client was seen")
    assert stored["package_kind"] == "pacman"
    assert utc_now() - stored["last_seen_at"] < timedelta(minutes=1)


def _with_version(device: Device, version: str) -> dict[str, Any] | None:
    document = device.server.client(device.client_id)
    return document if document.get("package_version") == version else None


def test_both_prefixes_both_forms_and_gzip_are_understood(device: Device) -> None:
    data = json.dumps(device.poll()).encode()
    fields = {"data": data, "signature": device.key.sign(data)}
    for prefix in (PREFIX, "/PenguinDome/v1/"):
        url = f"{device.server.url}{prefix}update"
        assert requests.post(url, data=fields, timeout=60).json() == nothing_new(device)
        body, content_type = encode_multipart_formdata(dict(fields))
        assert requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=60).json() == nothing_new(
            device
        )
        headers = {"Content-Type": content_type, "Content-Encoding": "gzip"}
        assert requests.post(url, data=gzip.compress(body), headers=headers, timeout=60).json() == nothing_new(device)
        headers = {"Content-Type": content_type}
        assert requests.post(
            url, data=iter([body[:100], body[100:]]), headers=headers, timeout=10
        ).json() == nothing_new(device)


def test_another_clients_action_cannot_be_acknowledged(device: Device) -> None:
    refused(
        device.send("acknowledge_patch", device.data("acknowledge_patch", id="none", result={"status": "done"})),
        404,
        "not-found",
    )


def test_a_rename_is_recorded_and_no_other_client_is_touched(shared_server: Server) -> None:
    one, two = shared_server.enrolled("rename-one"), shared_server.enrolled("rename-two")
    assert two.submit().status_code == 200
    one.hostname = "rename-two"
    assert one.submit().status_code == 200
    first, second = shared_server.client(one.client_id), shared_server.client(two.client_id)
    assert [name["hostname"] for name in first["previous_hostnames"]] == ["rename-one"]
    assert first["hostname"] == second["hostname"] == "rename-two"
    assert second["sequence"] == 1


def test_hostile_keys_are_stored_harmlessly(device: Device) -> None:
    plugins = {"a.b": {"$gt": {"x.y": [{"$ne": 1}]}}, "empty": {}, "null": None}
    assert device.submit(plugins=plugins).status_code == 200
    stored = device.server.client(device.client_id)["plugins"]
    assert stored == {"a\uff0eb": {"\uff04gt": {"x\uff0ey": [{"\uff04ne": 1}]}}, "empty": {}, "null": None}


@pytest.fixture(scope="module")
def attacker(shared_server: Server) -> Device:
    """One enrolled device for all attacks."""
    return shared_server.enrolled("attacker")


Attack = Callable[[Device], requests.Response]


def _signed_by_another(device: Device) -> requests.Response:
    other = device.server.enrolled(f"other-{secrets.token_hex(4)}")
    data = json.dumps(device.report()).encode()
    good = other.key.sign(data)
    return device.post("submit", {"data": data + b" ", "signature": good})


def _report(**values: Any) -> Attack:
    return lambda device: device.send("submit", device.report(**values))


def _poll(**values: Any) -> Attack:
    return lambda device: device.send("update", device.poll(**values))


def _text(change: Callable[[str], str]) -> Attack:
    return lambda device: device.send("submit", change(json.dumps(device.report())).encode())


def _fields(**fields: bytes | None) -> Attack:
    def attack(device: Device) -> requests.Response:
        data = json.dumps(device.report()).encode()
        form = {"data": data, "signature": device.key.sign(data), **fields}
        return device.post("submit", {name: value for name, value in form.items() if value is not None})

    return attack


def _body(body: Any, headers: dict[str, str]) -> Attack:
    return lambda device: device.raw("submit", body, headers)


def _commands(text: str) -> Attack:
    return _text(lambda report: report.replace('"commands":{}', f'"commands":{text}'))


def _sent(**ago: float) -> Attack:
    return lambda device: device.send("submit", device.report(sent_at=at(**ago)))


def _bomb(device: Device) -> requests.Response:
    return device.raw("submit", gzip.compress(b"\0" * (50 << 20)), GZIPPED)


def _huge(device: Device) -> requests.Response:
    return device.raw("submit", b"data=" + b"x" * (200 << 20), URLENCODED)


def _endless(device: Device) -> requests.Response:
    return device.raw("submit", (b"x" * 65536 for _ in range(3200)), URLENCODED)


URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
GZIPPED = {**URLENCODED, "Content-Encoding": "gzip"}
DEEP = "[" * 50_000 + "]" * 50_000

ATTACKS: list[tuple[str, Attack, int, str]] = [
    ("no form at all", _body(b"", {}), 400, "malformed"),
    ("JSON instead of a form", _body(b"{}", {"Content-Type": "application/json"}), 400, "malformed"),
    ("an empty form", _body(b"", URLENCODED), 400, "malformed"),
    ("no signature", _fields(signature=None), 400, "malformed"),
    ("no data", _fields(data=None), 400, "malformed"),
    ("one field too many", _fields(more=b"1"), 400, "malformed"),
    ("thousands of fields", _body(b"&".join(b"f%d=1" % n for n in range(100_000)), URLENCODED), 400, "malformed"),
    ("a field twice", _body(b"data=1&data=2&signature=3", URLENCODED), 400, "malformed"),
    ("broken gzip", _body(b"data=1", GZIPPED), 400, "malformed"),
    ("a gzip bomb", _bomb, 413, "too-large"),
    ("a body of 200 MB", _huge, 413, "too-large"),
    ("a body of 200 MB, not announced", _endless, 413, "too-large"),
    ("a report beyond its limit", _report(plugins={"x": "y" * (1 << 20)}), 413, "too-large"),
    ("an empty signature", _fields(signature=b""), 401, "bad-signature"),
    ("a signature of 100 kB", _fields(signature=b"x" * 100_000), 401, "bad-signature"),
    ("half a signature", lambda d: _fields(signature=d.key.sign(b"x")[:200])(d), 401, "bad-signature"),
    ("a signature over other bytes", lambda d: _fields(signature=d.key.sign(b"x"))(d), 401, "bad-signature"),
    ("another client's signature, changed data", _signed_by_another, 401, "bad-signature"),
    ("an unknown key", lambda d: d.send("submit", d.report(), key=DeviceKey.generate("x")), 401, "unknown-client"),
    ("the enrolment key", lambda d: d.send("submit", d.report(), key=d.server.enrolment_key), 401, "unknown-client"),
    ("signed for another endpoint", lambda d: d.send("update", d.report()), 403, "not-allowed"),
    ("signed for no endpoint", _report(request=...), 403, "not-allowed"),
    ("a request of eleven minutes ago", _sent(minutes=11), 409, "clock-skew"),
    ("a request of the future", _sent(minutes=-11), 409, "clock-skew"),
    ("a request without a time", _report(sent_at=...), 422, "invalid"),
    ("a time that is none", _text(lambda text: text.replace('"sent_at":"', '"sent_at":"x')), 422, "invalid"),
    ("not JSON", _text(lambda text: text[:-1]), 400, "malformed"),
    ("NaN", _commands('{"x":NaN}'), 400, "malformed"),
    ("a JSON list", lambda d: d.send("submit", b"[1]"), 422, "invalid"),
    ("deep nesting", _commands(DEEP), 422, "invalid"),
    ("an integer over 64 bits", _commands(f'{{"x":{2**64}}}'), 422, "invalid"),
    ("a NUL", _report(plugins={"x": "\0"}), 422, "invalid"),
    ("half a surrogate pair", _commands(r'{"x":"\ud800"}'), 422, "invalid"),
    ("a key of 10 kB", _report(plugins={"x" * 10_000: 1}), 422, "invalid"),
    ("120,000 values", _report(plugins={"x": [0] * 120_000}), 422, "invalid"),
    ("an operator for a host name", _report(hostname={"$gt": ""}), 422, "invalid"),
    ("no host name", _report(hostname=None), 422, "invalid"),
    ("an empty host name", _report(hostname=""), 422, "invalid"),
    ("a host name of 100 kB", _report(hostname="x" * 100_000), 422, "invalid"),
    ("a host name with a line end", _report(hostname="a\nb"), 422, "invalid"),
    ("a missing key", _report(plugins=...), 422, "invalid"),
    ("plugins that are a list", _report(plugins=[]), 422, "invalid"),
    ("a sequence that is true", _report(sequence=True), 422, "invalid"),
    ("a negative sequence", _report(sequence=-1), 422, "invalid"),
    ("a report id that is an operator", _report(report_id={"$ne": 1}), 422, "invalid"),
    ("a report id with a path", _report(report_id="../../x"), 422, "invalid"),
    ("an exchange token that is a list", _report(exchange_token=["x"]), 422, "invalid"),
    ("a collection time that is none", _report(collected_at=None), 422, "invalid"),
    ("a poll without release", _poll(old_release=...), 422, "invalid"),
    ("a poll with a release of text", _poll(old_release="0"), 422, "invalid"),
    ("a poll of an unknown kind", _poll(package_kind="rpm"), 422, "invalid"),
    ("a poll with a wrong hash", _poll(manifest_sha256="x"), 422, "invalid"),
    ("a poll of 100 kB", lambda d: d.send("update", d.poll(more="x" * 100_000)), 413, "too-large"),
]  # fmt: skip


@pytest.mark.parametrize(("attack", "status", "code"), [pytest.param(*row[1:], id=row[0]) for row in ATTACKS])
def test_an_attack_is_refused_and_leaves_nothing(attacker: Device, attack: Attack, status: int, code: str) -> None:
    before, log = attacker.server.client(attacker.client_id), len(attacker.server.log())
    refused(attack(attacker), status, code)
    assert attacker.server.client(attacker.client_id) == before
    assert "Traceback" not in attacker.server.log()[log:]
    assert attacker.submit().status_code == 200


def test_a_replayed_request_is_refused_after_ten_minutes_and_tells_the_servers_time(device: Device) -> None:
    answer = device.send("submit", device.report(sent_at=at(minutes=10, seconds=5)))
    refused(answer, 409, "clock-skew")
    told = json.loads(answer.content)["error"]["server_time_at"]
    assert abs(told - utc_now()) < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not-found"),
        ("POST", "/penguindome/v1/", 404, "not-found"),
        ("POST", "/penguindome/v1/submit/", 404, "not-found"),
        ("POST", "/penguindome/v1//submit", 404, "not-found"),
        ("POST", "/penguindome/v2/submit", 404, "not-found"),
        ("POST", "/penguindome/v1/../v1/nothing", 404, "not-found"),
        ("GET", "/penguindome/v1/submit", 405, "method-not-allowed"),
        ("OPTIONS", "/penguindome/v1/submit", 405, "method-not-allowed"),
        ("DELETE", "/penguindome/v1/healthz", 405, "method-not-allowed"),
        ("GET", "/" + "x" * 6000, 414, "malformed"),
        ("get", "/penguindome/v1/healthz", 400, "malformed"),
    ],
)
def test_other_paths_and_methods_are_refused_in_json(
    shared_server: Server, method: str, path: str, status: int, code: str
) -> None:
    session = requests.Session()
    request = requests.Request(method, shared_server.url + path).prepare()
    request.method, request.url = method, shared_server.url + path
    refused(session.send(request, timeout=60), status, code)


@pytest.mark.parametrize("headers", [{f"X-{n}": "y" for n in range(90)}, {"X": "y" * 9000}, {"X": "y" * 40_000}])
def test_too_many_or_long_headers_are_refused_in_json(shared_server: Server, headers: dict[str, str]) -> None:
    refused(requests.get(f"{shared_server.url}{PREFIX}healthz", headers=headers, timeout=60), 431, "malformed")


def test_the_health_check_tells_nothing_but_ok(shared_server: Server) -> None:
    answer = requests.get(f"{shared_server.url}{PREFIX}healthz", timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_simultaneous_first_reports_of_many_machines_all_succeed(shared_server: Server) -> None:
    devices = [shared_server.device(f"first-{secrets.token_hex(6)}") for _ in range(60)]

    def begin(device: Device) -> tuple[int, int]:
        return device.enroll().status_code, device.submit().status_code

    with ThreadPoolExecutor(30) as pool:
        assert set(pool.map(begin, devices)) == {(200, 200)}
    for device in devices:
        assert shared_server.client(device.client_id)["sequence"] == 1
