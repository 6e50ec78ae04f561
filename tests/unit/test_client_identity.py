"""Who this machine says it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguindome.client.errors import NotSetUp
from penguindome.client.identity import Identity, acceptable_hostname
from penguindome.files import ensure_directory, write_atomically
from penguindome.openpgp import DeviceKey
from penguindome.paths import Paths

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


@given(st.text(max_size=300))
def test_whatever_the_host_is_called_the_name_is_one_that_the_server_takes(name: str) -> None:
    accepted = acceptable_hostname(name)
    assert re.fullmatch(rf"{LABEL}(\.{LABEL})*", accepted)
    assert len(accepted) <= 253


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("laptop", "laptop"), ("Laptop.Example.ORG", "laptop.example.org"), ("my_laptop", "my-laptop"),
        ("", "localhost"), ("-x-", "x"), ("a..b.", "a.b"), ("laptop\n", "laptop"),
    ],
)  # fmt: skip
def test_ordinary_names_stay_and_others_change_as_little_as_possible(name: str, accepted: str) -> None:
    assert acceptable_hostname(name) == accepted


def test_the_machine_id_itself_is_not_told(paths: Paths) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    (paths.root / "etc").mkdir()
    (paths.root / "etc/machine-id").write_text(secret + "\n")
    derived = Identity(paths).machine_id
    assert re.fullmatch("[0-9a-f]{32}", derived)
    assert derived != secret
    assert derived == Identity(paths).machine_id


def test_a_machine_that_is_not_set_up_says_what_to_do(paths: Paths) -> None:
    with pytest.raises(NotSetUp) as caught:
        _ = Identity(paths).client_id
    assert "penguindome-client setup" in str(caught.value.hint)


def test_the_identity_is_the_fingerprint_of_the_device_key(paths: Paths) -> None:
    key = DeviceKey.generate("device")
    ensure_directory(paths.client_state, 0o700)
    write_atomically(paths.client_state / "device.key", key.text)
    assert Identity(paths).client_id == key.certificate.fingerprint
