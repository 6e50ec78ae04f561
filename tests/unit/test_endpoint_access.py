"""Who may use an endpoint, and what guessing brings."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from penguindome.errors import SettingsError
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome_server.client_secrets import ClientSecrets
from penguindome_server.endpoint_access import EndpointAccess, credentials
from penguindome_server.password_checks import WRONG_FOR_A_USER, WRONG_FROM_AN_ADDRESS, PasswordChecks
from penguindome_server.passwords import password_context
from penguindome_server.refusals import Refusal
from penguindome_server.settings import SERVER_SETTINGS, load_server_settings
from penguindome_server.store import Store, open_store

QUICK = password_context().using(pbkdf2_sha256__default_rounds=1000)
FRED, ANNA, INSTALLER = (QUICK.hash(word) for word in ("fred's", "anna's", "installer's"))
HERE, THERE = "192.0.2.1", "198.51.100.7"
CLIENT = "A1" * 20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def settings(**values: Any) -> Settings:
    own = {f"server_auth.{name.replace('__', '.')}" if "__" in name else name: value for name, value in values.items()}
    return Settings.of(SERVER_SETTINGS, {"users": {"fred": FRED, "anna": ANNA}, **own})


def access(
    endpoint: str = "download_release",
    *,
    mandatory: bool = False,
    clients: ClientSecrets | None = None,
    clock: Clock | None = None,
    **values: Any,
) -> EndpointAccess:
    passwords = PasswordChecks(monotonic=clock or Clock(), patience_seconds=0.01)
    section = f"server_auth.{endpoint}"
    return EndpointAccess(settings(**values), section, mandatory=mandatory, passwords=passwords, clients=clients)


def asked(user: str = "", password: str = "") -> Mapping[str, str]:
    if not user:
        return {}
    return {"HTTP_AUTHORIZATION": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def outcome(who: EndpointAccess, user: str = "", password: str = "", address: str = HERE, **values: Any) -> str:
    try:
        who.require(asked(user, password), address, **values)
    except Refusal as refusal:
        return refusal.reason
    return "in"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = open_store(f"sqlite://{tmp_path}/store.sqlite")
    secret = hashlib.sha256(b"of the client").hexdigest()
    document = {"_id": CLIENT, "state": "enrolled", "repository_secret_hash": secret}
    opened.collection("clients").insert(document)
    return opened


def change(store: Store, **values: Any) -> None:
    store.collection("clients").update(CLIENT, lambda document: {**(document or {}), **values})


def test_what_nothing_is_configured_for_is_open_unless_it_must_not_be() -> None:
    assert outcome(access()) == "in"
    assert outcome(access(), "fred", "anything") == "in"
    assert outcome(access("pipe_create", mandatory=True)) == "not-allowed"
    assert outcome(access("pipe_create", mandatory=True), "fred", "fred's") == "not-allowed"
    with pytest.raises(Refusal, match=r"server_auth\.pipe_create"):
        access("pipe_create", mandatory=True).require({}, HERE)


@pytest.mark.parametrize(("address", "expected"), [
    ("192.0.2.1", "in"), ("192.0.2.9", "not-allowed"), ("10.200.0.1", "in"), ("2001:db8::5", "in"),
    ("2001:db9::5", "not-allowed"), ("", "not-allowed"),
])  # fmt: skip
def test_addresses_and_ranges_of_both_versions_let_in(address: str, expected: str) -> None:
    ranges = ["192.0.2.1", "10.0.0.0/8", "2001:db8::/32"]
    assert outcome(access("pipe_create", pipe_create__ipranges=ranges), address=address) == expected


def test_users_groups_and_the_endpoints_own_passwords_let_in_and_nobody_else() -> None:
    who = access(
        download_release__users=["fred"],
        download_release__passwords={"installer": INSTALLER},
        groups={"administrators": ["anna"]},
    )
    assert outcome(who, "fred", "fred's") == "in"
    assert outcome(who, "installer", "installer's") == "in"
    assert outcome(who, "anna", "anna's") == "unauthorised"
    assert outcome(who, "fred", "anna's") == "unauthorised"
    assert outcome(who, "nobody", "fred's") == "unauthorised"
    assert outcome(who) == "unauthorised"
    grouped = access(download_release__groups=["administrators"], groups={"administrators": ["anna"]})
    assert outcome(grouped, "anna", "anna's") == "in"
    assert outcome(grouped, "fred", "fred's") == "unauthorised"


def test_any_one_that_fits_lets_in() -> None:
    who = access(
        download_release__users=["fred"],
        download_release__passwords={"fred": INSTALLER},
        download_release__ipranges=[THERE],
    )
    assert outcome(who, address=THERE) == "in"
    assert outcome(who, "fred", "wrong", address=THERE) == "in"
    assert outcome(who, "fred", "fred's") == "in"
    assert outcome(who, "fred", "installer's") == "in"


def test_a_password_of_one_endpoint_is_none_of_another() -> None:
    who = access("pipe_create", download_release__passwords={"installer": INSTALLER}, pipe_create__users=["fred"])
    assert outcome(who, "installer", "installer's") == "unauthorised"


def test_a_client_comes_in_with_its_own_credentials_as_long_as_it_is_enrolled(store: Store) -> None:
    who = access(clients=ClientSecrets(store), download_release__ipranges=[THERE])
    assert outcome(who, CLIENT, "of the client") == "in"
    assert outcome(who, CLIENT, "of another") == "unauthorised"
    assert outcome(who, CLIENT.lower(), "of the client") == "unauthorised"
    assert outcome(who, "B2" * 20, "of the client") == "unauthorised"
    change(store, state="revoked")
    assert outcome(who, CLIENT, "of the client") == "unauthorised"
    change(store, state="enrolled", repository_secret_hash=None)
    for password in ("", "None", "of the client"):
        assert outcome(who, CLIENT, password) == "unauthorised"


def test_what_holds_secrets_is_closed_without_configuration_but_to_clients(store: Store) -> None:
    who = access(clients=ClientSecrets(store))
    assert outcome(who, mandatory=True) == "not-allowed"
    assert outcome(who, CLIENT, "wrong", mandatory=True) == "unauthorised"
    assert outcome(who, CLIENT, "of the client", mandatory=True) == "in"
    assert outcome(who) == "in"


def test_401_comes_where_a_password_could_help_and_403_where_none_can(store: Store) -> None:
    assert outcome(access(download_release__ipranges=[THERE])) == "not-allowed"
    assert outcome(access(clients=ClientSecrets(store), download_release__ipranges=[THERE])) == "unauthorised"
    assert outcome(access(download_release__users=["fred"])) == "unauthorised"


def test_guessing_is_slowed_for_one_user_and_whoever_was_right_before_notices_nothing() -> None:
    clock = Clock()
    who = access(clock=clock, download_release__users=["fred", "anna"])
    assert outcome(who, "anna", "anna's") == "in"
    assert [outcome(who, "fred", f"guess {number}") for number in range(WRONG_FOR_A_USER)] == [
        "unauthorised"
    ] * WRONG_FOR_A_USER
    with pytest.raises(Refusal) as refused:
        who.require(asked("fred", "fred's"), HERE)
    assert (refused.value.status, 0 < (refused.value.retry_after or 0) <= 61) == (429, True)
    assert outcome(who, "anna", "anna's") == "in"
    assert outcome(who, "fred", "fred's", address=THERE) == "in"
    # Known to be right now, so that the guesses from the other address do not matter either.
    assert outcome(who, "fred", "fred's") == "in"
    clock.now += 61
    assert outcome(who, "fred", "another guess") == "unauthorised"


def test_a_name_that_nobody_has_is_slowed_like_one_that_somebody_has() -> None:
    who = access(download_release__users=["fred"])
    for name in ("fred", "nobody"):
        results = [outcome(who, name, "guess") for _ in range(WRONG_FOR_A_USER + 1)]
        assert results == ["unauthorised"] * WRONG_FOR_A_USER + ["rate-limited"]


def test_names_in_turn_are_slowed_too_also_from_all_addresses_of_a_network() -> None:
    who = access(download_release__users=["fred"])
    results = [
        outcome(who, f"name {number}", "guess", address=f"2001:db8::{number + 1:x}")
        for number in range(WRONG_FROM_AN_ADDRESS + 1)
    ]
    assert results == ["unauthorised"] * WRONG_FROM_AN_ADDRESS + ["rate-limited"]
    assert outcome(who, "fred", "fred's", address="2001:db8:0:1::1") == "in"


def test_one_password_is_checked_at_a_time_and_few_wait_for_it() -> None:
    who = access(download_release__users=["fred", "anna"])
    assert outcome(who, "fred", "fred's") == "in"
    # As if another thread were hashing.
    with who._passwords._one_at_a_time:
        assert outcome(who, "fred", "fred's") == "in"
        assert outcome(who, "anna", "anna's") == "rate-limited"
    assert outcome(who, "anna", "anna's") == "in"


@pytest.mark.parametrize("header", [
    "", "Basic", "Basic ", "Basic %%%", "Bearer abc", "Basic " + "A" * 5000,
    "Basic " + base64.b64encode(b"no colon").decode(),
    "Basic " + base64.b64encode(b"\xff\xfe:x").decode(), "Basic " + base64.b64encode(b"a:b\0c").decode(),
])  # fmt: skip
def test_what_is_no_pair_of_user_and_password_is_none(header: str) -> None:
    assert credentials({"HTTP_AUTHORIZATION": header}) is None


def test_a_password_may_hold_colons_and_any_letters() -> None:
    assert credentials(asked("fred", "a:b:ü")) == ("fred", "a:b:ü")


BAD = {
    "an unknown user": "server_auth:\n  download_release:\n    users: [fred]\n",
    "an unknown group": "users: {fred: HASH}\n\nserver_auth.pipe_create.groups: [admins]\n",
    "an unknown member": "users: {fred: HASH}\n\ngroups: {admins: [fred, anna]}\n",
    "no list of members": "users: {fred: HASH}\n\ngroups: {admins: fred}\n",
    "no network": "\n\nserver_auth.download_release.ipranges: [10.0.0.0/33]\n",
    "no hash": "\n\nusers: {fred: secret-itself}\n",
    "no name": "\n\nusers: {'fr:ed': HASH}\n",
    "no hash there": "server_auth:\n  download_release:\n    passwords: {fred: $1$x}\n",
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_do_not_fit_are_refused_with_file_and_line(case: str, tmp_path: Path) -> None:
    file = tmp_path / "etc/penguindome/server.yml"
    file.parent.mkdir(parents=True)
    file.write_text(BAD[case].replace("HASH", f'"{FRED}"'))
    with pytest.raises(SettingsError) as error:
        load_server_settings(Paths(tmp_path))
    assert error.value.message.startswith(f"{file}:3: ")
    assert "secret-itself" not in str(error.value)
