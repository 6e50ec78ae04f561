"""Enrolment against a running server: policies, tokens, conflicts, what administrators decide, and what is refused."""

from __future__ import annotations

import secrets
import threading
from datetime import timedelta

import pytest

from penguindome import json
from penguindome.openpgp import DeviceKey
from penguindome.times import utc_now
from penguindome_server.enrolment import approve, reject, revoke
from penguindome_server.enrolment_tokens import create_token
from web_server import Device, Server, at, refused, until


def name() -> str:
    """A host name of the test's own."""
    return f"host-{secrets.token_hex(4)}"


def state(device: Device) -> str:
    """The state of a device in the store."""
    document = device.server.store.collection("clients").get(device.client_id)
    return "unknown" if document is None else document["state"]


def decide_and_see(device: Device, status: int) -> None:
    """Wait until all workers have noticed what an administrator decided (five seconds at most)."""
    for _ in range(6):
        until(lambda: device.update().status_code == status, seconds=10, what=f"status {status}")


@pytest.fixture
def approving(server: Server) -> Server:
    """A server whose policy is to ask an administrator."""
    return server.start(enrolment__policy="approve", enrolment__pending_limit=6, enrolment__pending_limit_per_address=4,
                        trusted_proxies=["127.0.0.1"])  # fmt: skip


def test_an_enrolled_device_gets_a_token_and_credentials_that_only_it_can_read(shared_server: Server) -> None:
    device = shared_server.device(name())
    answer = device.enroll().json()
    assert answer["status"] == "enrolled"
    assert answer["client_id"] == device.client_id
    assert len(answer["exchange_token"]) >= 24
    credentials = json.loads(device.key.decrypt(answer["repository_credentials"].encode()))
    assert credentials["user"] == device.client_id
    assert credentials["password"] not in json.dumps(shared_server.client(device.client_id))


def test_asking_again_is_allowed_and_gives_a_fresh_token(shared_server: Server) -> None:
    device = shared_server.device(name())
    first, second = device.enroll().json(), device.enroll().json()
    assert first["client_id"] == second["client_id"]
    assert first["exchange_token"] != second["exchange_token"]
    assert device.submit().status_code == 200


def test_a_recorded_request_gets_nothing(shared_server: Server) -> None:
    device = shared_server.device(name())
    body = json.dumps(device.enrolment()).encode()
    fields = {
        "data": body,
        "signature": shared_server.enrolment_key.sign(body),
        "device_signature": device.key.sign(body),
    }
    device.exchange_token = device.post("enroll", fields).json()["exchange_token"]
    refused(device.post("enroll", fields), 409, "conflict")
    assert device.submit().status_code == 200
    issues = shared_server.store.collection("issues").find({"client_id": device.client_id, "state": "open"})
    assert [issue["name"] for issue in issues] == []


def test_a_second_key_for_a_known_host_name_or_machine_id_waits(shared_server: Server) -> None:
    first = shared_server.enrolled(name())
    same_name = shared_server.device(first.hostname)
    same_machine = shared_server.device(name(), machine_id=first.machine_id)
    assert same_name.enroll().json() == {"status": "pending", "client_id": same_name.client_id}
    assert same_machine.enroll().json()["status"] == "pending"
    token = create_token(shared_server.store, who="test", now=utc_now(), lifetime=timedelta(hours=1))
    with_token = shared_server.device(first.hostname, token=token)
    assert with_token.enroll().json()["status"] == "pending"
    assert first.submit().status_code == 200
    refused(same_name.submit(), 403, "pending")


def test_of_many_keys_that_ask_for_one_name_at_once_at_most_one_is_enrolled(shared_server: Server) -> None:
    hostname = name()
    devices = [shared_server.device(hostname) for _ in range(8)]
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda one=one: answers.append(one.enroll().json()["status"])) for one in devices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert answers.count("enrolled") <= 1
    assert [state(device) for device in devices].count("enrolled") == answers.count("enrolled")


def test_the_same_device_asking_many_times_at_once_is_enrolled_once(shared_server: Server) -> None:
    device = shared_server.device(name())
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(device.enroll().status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    assert state(device) == "enrolled"


@pytest.mark.parametrize(
    ("values", "status", "code"),
    [
        ({"machine_id": "x" * 32}, 422, "invalid"),
        ({"machine_id": "A" * 32}, 422, "invalid"),
        ({"machine_id": {"$ne": 1}}, 422, "invalid"),
        ({"machine_id": ...}, 422, "invalid"),
        ({"hostname": {"$gt": ""}}, 422, "invalid"),
        ({"public_key": "nothing"}, 422, "invalid"),
        ({"public_key": None}, 422, "invalid"),
        ({"token": ["x"]}, 422, "invalid"),
        ({"token": "unknown"}, 403, "not-allowed"),
        ({"request": "submit"}, 403, "not-allowed"),
        ({"sent_at": at(minutes=20)}, 409, "clock-skew"),
        ({"more": "x" * 70_000}, 413, "too-large"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_is_stored(
    shared_server: Server, values: dict[str, object], status: int, code: str
) -> None:
    device = shared_server.device(name())
    refused(device.enroll(**values), status, code)
    assert state(device) == "unknown"


def test_a_private_key_or_another_devices_key_is_not_taken(shared_server: Server) -> None:
    device, other = shared_server.device(name()), DeviceKey.generate("other")
    refused(device.enroll(public_key=device.key.text), 422, "invalid")
    refused(device.enroll(public_key=other.certificate.text), 401, "bad-signature")
    assert state(device) == "unknown"


def test_without_the_enrolment_key_nobody_is_enrolled(shared_server: Server) -> None:
    device = shared_server.device(name())
    refused(device.enroll(signer=DeviceKey.generate("stranger")), 401, "bad-signature")
    refused(device.enroll(signer=device.key), 401, "bad-signature")
    stranger = shared_server.device(name(), token="guessed")
    refused(stranger.enroll(signer=stranger.key), 403, "not-allowed")


def test_a_client_waits_until_it_is_approved(approving: Server) -> None:
    device = approving.device("laptop")
    assert device.enroll().json() == {"status": "pending", "client_id": device.client_id}
    refused(device.update(), 403, "pending")
    refused(device.submit(), 403, "pending")
    approve(approving.store, device.client_id, who="admin", now=utc_now())
    assert device.enroll().json()["status"] == "enrolled"
    decide_and_see(device, 200)
    assert approving.client(device.client_id)["enrolled_by"] == "admin"


def test_a_rejected_client_stays_out(approving: Server) -> None:
    device = approving.device("laptop")
    device.enroll()
    reject(approving.store, device.client_id, who="admin", now=utc_now())
    refused(device.enroll(), 403, "rejected")
    until(lambda: device.update().json()["error"]["code"] == "rejected", seconds=10)


def test_a_revoked_client_is_refused_by_every_worker_within_seconds(approving: Server) -> None:
    device = approving.device("laptop")
    device.enroll()
    approve(approving.store, device.client_id, who="admin", now=utc_now())
    device.enroll()
    decide_and_see(device, 200)
    revoke(approving.store, device.client_id, who="admin", now=utc_now())
    decide_and_see(device, 403)
    refused(device.submit(), 403, "revoked")
    refused(device.enroll(), 403, "revoked")
    assert approving.client(device.client_id)["repository_secret_hash"] is None


def test_a_token_enrols_one_machine_once(approving: Server) -> None:
    token = create_token(approving.store, who="admin", now=utc_now(), lifetime=timedelta(hours=1))
    first, second = approving.device("one", token=token), approving.device("two", token=token)
    assert first.enroll(signer=first.key).json()["status"] == "enrolled"
    refused(second.enroll(signer=second.key), 403, "not-allowed")
    assert first.enroll(signer=first.key).json()["status"] == "enrolled"
    assert state(second) == "unknown"
    assert approving.client(first.client_id)["enrolled_by"] == "token"


def test_a_token_used_by_many_at_once_enrols_one(approving: Server) -> None:
    token = create_token(approving.store, who="admin", now=utc_now(), lifetime=timedelta(hours=1))
    devices = [approving.device(f"host{number}", token=token) for number in range(3)]
    threads = [threading.Thread(target=lambda one=one: one.enroll(signer=one.key)) for one in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [state(device) for device in devices].count("enrolled") == 1


def test_an_expired_token_is_refused(approving: Server) -> None:
    token = create_token(approving.store, who="admin", now=at(hours=2), lifetime=timedelta(hours=1))
    device = approving.device("one", token=token)
    refused(device.enroll(signer=device.key), 403, "not-allowed")
    refused(device.enroll(), 403, "not-allowed")


def test_waiting_requests_are_limited_per_address_and_in_all(approving: Server) -> None:
    def ask(number: int, address: str) -> Device:
        device = approving.device(f"host{number}", headers={"X-Forwarded-For": address})
        device.last = device.enroll()  # type: ignore[attr-defined]  # only this test keeps the answer
        return device

    def status(number: int, address: str) -> int:
        return int(ask(number, address).last.status_code)  # type: ignore[attr-defined]  # as above

    assert [status(number, "192.0.2.1") for number in range(4)] == [200] * 4
    answer = approving.device("host5", headers={"X-Forwarded-For": "192.0.2.1"}).enroll()
    refused(answer, 429, "rate-limited")
    assert int(answer.headers["Retry-After"]) > 0
    assert [status(number, "2001:db8::1") for number in (6, 7)] == [200] * 2
    refused(approving.device("host8", headers={"X-Forwarded-For": "192.0.2.9"}).enroll(), 429, "rate-limited")
    assert approving.store.collection("clients").count({"state": "pending"}) == 6


def test_nobody_new_is_taken_when_enrolment_is_closed(server: Server) -> None:
    server.start(enrolment__policy="closed")
    token = create_token(server.store, who="admin", now=utc_now(), lifetime=timedelta(hours=1))
    refused(server.device("one").enroll(), 403, "enrolment-closed")
    refused(server.device("two", token=token).enroll(), 403, "enrolment-closed")


def test_automatic_enrolment_is_for_its_ranges_only(server: Server) -> None:
    server.start(
        enrolment__policy="automatic", enrolment__automatic_ranges=["10.0.0.0/8"], trusted_proxies=["127.0.0.1"]
    )
    assert server.device("outside").enroll().json()["status"] == "pending"
    assert server.device("inside", headers={"X-Forwarded-For": "10.1.2.3"}).enroll().json()["status"] == "enrolled"
    forged = server.device("forged", headers={"X-Forwarded-For": "10.1.2.3, 192.0.2.1"})
    assert forged.enroll().json()["status"] == "pending"


def test_a_reinstalled_machine_takes_over_from_its_old_key(approving: Server) -> None:
    old = approving.device("laptop")
    old.enroll()
    approve(approving.store, old.client_id, who="admin", now=utc_now())
    old.enroll()
    assert until(lambda: old.submit().status_code == 200, seconds=10)
    parameters = approving.store.collection("client_parameters")
    parameters.insert({"_id": old.client_id, "hostname": "laptop", "user_email": "a@example.org"})
    new = approving.device("laptop", machine_id=old.machine_id)
    new.enroll()
    approve(approving.store, new.client_id, who="admin", now=utc_now(), replaces=old.client_id)
    assert (state(old), state(new)) == ("replaced", "enrolled")
    assert approving.client(old.client_id)["replaced_by"] == new.client_id
    assert approving.client(new.client_id)["replaces"] == old.client_id
    moved = parameters.get(new.client_id)
    assert moved is not None
    assert moved["user_email"] == "a@example.org"
    assert parameters.get(old.client_id) is None
    assert approving.store.collection("audit_trail").count({"client_id": old.client_id}) > 0
    assert new.enroll().json()["status"] == "enrolled"
    until(lambda: new.submit().status_code == 200, seconds=10)
    decide_and_see(old, 403)
    refused(old.submit(), 403, "revoked")
