"""Who is enrolled at once, who waits, and how administrators find and decide about clients; without the web."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from penguindome.errors import UsageError
from penguindome.openpgp import DeviceKey
from penguindome_server.addresses import Networks
from penguindome_server.enrolment import approve, find_client, predecessors, reject, revoke
from penguindome_server.enrolment_requests import Answer, Applicant, Policy, request
from penguindome_server.enrolment_tokens import create_token, list_tokens
from penguindome_server.refusals import Refusal
from penguindome_server.store import Store

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
KEY = DeviceKey.generate("device").certificate.text
INSIDE, OUTSIDE = "10.1.2.3", "192.0.2.1"


def policy(mode: str, **values: Any) -> Policy:
    defaults = {"automatic": Networks(["10.0.0.0/8"]), "pending_limit": 5, "pending_limit_per_address": 3}
    return Policy(mode=mode, **{**defaults, **values})


def applicant(number: int, **values: Any) -> Applicant:
    client_id = f"{number:040X}"
    own = {
        "client_id": client_id,
        "signing_key": client_id[::-1],
        "hostname": f"host{number}",
        "machine_id": f"{number:032x}",
    }
    rest = {"public_key": KEY, "token": None, "by_token_alone": False, "sent_at": NOW}
    return Applicant(**{**own, **rest, **values})


def ask(store: Store, mode: str, who: Applicant, *, address: str = INSIDE, **limits: Any) -> Answer:
    return request(store, policy(mode, **limits), who, address=address, now=NOW)


def refusal(store: Store, mode: str, who: Applicant, **values: Any) -> str:
    with pytest.raises(Refusal) as caught:
        ask(store, mode, who, **values)
    return caught.value.reason


@pytest.mark.parametrize(
    ("mode", "address", "state"),
    [
        ("approve", INSIDE, "pending"),
        ("automatic", INSIDE, "enrolled"),
        ("automatic", OUTSIDE, "pending"),
        ("automatic", "", "pending"),
    ],
)
def test_the_policy_decides(sqlite_store: Store, mode: str, address: str, state: str) -> None:
    assert ask(sqlite_store, mode, applicant(1), address=address).state == state


def test_a_client_that_waits_is_enrolled_once_the_policy_allows_it(sqlite_store: Store) -> None:
    assert ask(sqlite_store, "approve", applicant(1)).state == "pending"
    assert ask(sqlite_store, "automatic", applicant(1)).state == "enrolled"


def test_a_client_that_waited_before_enrolment_was_closed_may_still_be_approved(sqlite_store: Store) -> None:
    ask(sqlite_store, "approve", applicant(1))
    assert ask(sqlite_store, "closed", applicant(1)).state == "pending"
    approve(sqlite_store, applicant(1).client_id, who="admin", now=NOW)
    assert ask(sqlite_store, "closed", applicant(1)).state == "enrolled"


def test_a_token_alone_does_not_make_use_of_the_automatic_policy(sqlite_store: Store) -> None:
    token = create_token(sqlite_store, who="admin", now=NOW, lifetime=timedelta(hours=1))
    who = applicant(1, token=token, by_token_alone=True)
    assert ask(sqlite_store, "automatic", who).state == "enrolled"
    assert [document["used_by"] for document in list_tokens(sqlite_store)] == [who.client_id]


@pytest.mark.parametrize("state", ["pending", "enrolled", "rejected", "revoked"])
def test_a_name_that_was_ever_taken_is_never_given_away_automatically(sqlite_store: Store, state: str) -> None:
    ask(sqlite_store, "approve", applicant(1))
    decide = {"enrolled": approve, "rejected": reject, "revoked": approve}.get(state)
    if decide is not None:
        decide(sqlite_store, applicant(1).client_id, who="admin", now=NOW)
    if state == "revoked":
        revoke(sqlite_store, applicant(1).client_id, who="admin", now=NOW)
    assert ask(sqlite_store, "automatic", applicant(2, hostname="host1")).state == "pending"
    assert ask(sqlite_store, "automatic", applicant(3, machine_id=applicant(1).machine_id)).state == "pending"


def test_a_signing_key_belongs_to_one_client(sqlite_store: Store) -> None:
    ask(sqlite_store, "automatic", applicant(1))
    assert refusal(sqlite_store, "automatic", applicant(2, signing_key=applicant(1).signing_key)) == "conflict"


def test_limits_count_only_those_who_wait(sqlite_store: Store) -> None:
    for number in range(10):
        assert ask(sqlite_store, "automatic", applicant(number)).state == "enrolled"
    for number in range(10, 13):
        assert ask(sqlite_store, "approve", applicant(number)).state == "pending"
    assert refusal(sqlite_store, "approve", applicant(13)) == "rate-limited"
    assert ask(sqlite_store, "approve", applicant(10)).state == "pending"
    assert ask(sqlite_store, "approve", applicant(14), address=OUTSIDE).state == "pending"
    reject(sqlite_store, applicant(10).client_id, who="admin", now=NOW)
    assert ask(sqlite_store, "approve", applicant(13)).state == "pending"


def test_an_older_request_than_the_last_one_answered_gets_nothing(sqlite_store: Store) -> None:
    ask(sqlite_store, "automatic", applicant(1))
    assert refusal(sqlite_store, "automatic", applicant(1)) == "conflict"
    assert refusal(sqlite_store, "automatic", applicant(1, sent_at=NOW - timedelta(minutes=1))) == "conflict"
    assert ask(sqlite_store, "automatic", applicant(1, sent_at=NOW + timedelta(minutes=1))).state == "enrolled"


def test_tokens_are_stored_as_hashes(sqlite_store: Store) -> None:
    token = create_token(sqlite_store, who="admin", now=NOW, lifetime=timedelta(hours=1))
    (document,) = list_tokens(sqlite_store)
    assert token not in repr(document)


def test_clients_are_found_by_name_id_and_beginning_of_the_id(sqlite_store: Store) -> None:
    ask(sqlite_store, "automatic", applicant(0xABCDEF << 136))
    client_id = applicant(0xABCDEF << 136).client_id
    hostname = applicant(0xABCDEF << 136).hostname
    for text in (client_id, client_id.lower(), client_id[:4], client_id[:12], hostname, hostname.upper()):
        assert find_client(sqlite_store, text)["_id"] == client_id
    for text in ("abc", "host", "FFFF", "", "$gt", "a" * 10_000):
        with pytest.raises(UsageError):
            find_client(sqlite_store, text)


def test_an_ambiguous_name_is_refused_with_the_list(sqlite_store: Store) -> None:
    ask(sqlite_store, "automatic", applicant(1, hostname="laptop"))
    ask(sqlite_store, "automatic", applicant(2, hostname="laptop"))
    with pytest.raises(UsageError) as caught:
        find_client(sqlite_store, "laptop")
    assert applicant(1).client_id in caught.value.message
    assert applicant(2).client_id in caught.value.message
    assert find_client(sqlite_store, "laptop", states=("pending",))["_id"] == applicant(2).client_id


def test_a_client_that_is_done_with_does_not_make_its_name_ambiguous(sqlite_store: Store) -> None:
    ask(sqlite_store, "automatic", applicant(1, hostname="laptop"))
    revoke(sqlite_store, applicant(1).client_id, who="admin", now=NOW)
    ask(sqlite_store, "automatic", applicant(2, hostname="laptop"))
    assert find_client(sqlite_store, "laptop")["_id"] == applicant(2).client_id


@pytest.mark.parametrize("decide", [approve, reject])
def test_only_who_waits_is_approved_or_rejected(sqlite_store: Store, decide: Any) -> None:
    ask(sqlite_store, "automatic", applicant(1))
    with pytest.raises(UsageError):
        decide(sqlite_store, applicant(1).client_id, who="admin", now=NOW)
    with pytest.raises(UsageError):
        decide(sqlite_store, "F" * 40, who="admin", now=NOW)


def test_only_who_is_enrolled_is_revoked(sqlite_store: Store) -> None:
    ask(sqlite_store, "approve", applicant(1))
    with pytest.raises(UsageError):
        revoke(sqlite_store, applicant(1).client_id, who="admin", now=NOW)


def test_replacing_can_be_repeated_after_an_interruption_and_leaves_a_chain(sqlite_store: Store) -> None:
    ask(sqlite_store, "automatic", applicant(1, hostname="laptop"))
    for number in (2, 3):
        ask(sqlite_store, "automatic", applicant(number, hostname="laptop"))
        old, new = applicant(number - 1).client_id, applicant(number).client_id
        for _ in range(2):
            approve(sqlite_store, new, who="admin", now=NOW, replaces=old)
    newest = find_client(sqlite_store, "laptop")
    assert newest["_id"] == applicant(3).client_id
    assert [one["_id"] for one in predecessors(sqlite_store, newest)] == [
        applicant(2).client_id,
        applicant(1).client_id,
    ]


@pytest.mark.parametrize("old", [applicant(1).client_id, applicant(2).client_id, "F" * 40])
def test_what_cannot_be_replaced_changes_nothing(sqlite_store: Store, old: str) -> None:
    ask(sqlite_store, "approve", applicant(1))
    ask(sqlite_store, "approve", applicant(2))
    with pytest.raises(UsageError):
        approve(sqlite_store, applicant(2).client_id, who="admin", now=NOW, replaces=old)
    assert find_client(sqlite_store, "host2")["state"] == "pending"
