"""Whose address counts, behind proxies that are ours and proxies that are not."""

from __future__ import annotations

import pytest

from penguindome_server.addresses import Networks, Peers

PROXIES = ["10.0.0.1", "10.0.1.0/24", "2001:db8:1::/64"]


def address(remote: str, forwarded: str | None = None, *, trusted: list[str] | None = None) -> str:
    environ = {"REMOTE_ADDR": remote}
    if forwarded is not None:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded
    return Peers(PROXIES if trusted is None else trusted).address(environ)


def test_without_a_proxy_the_peer_is_the_address() -> None:
    assert address("192.0.2.7") == "192.0.2.7"


def test_forwarded_for_from_anybody_is_not_believed() -> None:
    assert address("192.0.2.7", "198.51.100.1") == "192.0.2.7"
    assert address("10.0.0.1", "198.51.100.1", trusted=[]) == "10.0.0.1"


def test_forwarded_for_from_a_trusted_proxy_names_the_peer() -> None:
    assert address("10.0.0.1", "198.51.100.1") == "198.51.100.1"


def test_what_the_client_wrote_into_the_header_itself_is_not_believed() -> None:
    assert address("10.0.0.1", "127.0.0.1, 10.0.0.1, 198.51.100.1") == "198.51.100.1"


def test_a_chain_of_trusted_proxies_is_followed_to_the_first_that_is_not() -> None:
    assert address("10.0.0.1", "203.0.113.5, 198.51.100.1, 10.0.1.7, 10.0.1.8") == "198.51.100.1"


@pytest.mark.parametrize(
    ("written", "peer"),
    [
        ("2001:db8::5", "2001:db8::5"),
        ("[2001:db8::5]:4711", "2001:db8::5"),
        ("198.51.100.1:4711", "198.51.100.1"),
        ("2001:DB8:0:0::5", "2001:db8::5"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("fe80::1%eth0", "fe80::1"),
        ('"[2001:db8::5]"', "2001:db8::5"),
    ],
)
def test_addresses_are_understood_as_proxies_write_them(written: str, peer: str) -> None:
    assert address("10.0.0.1", written) == peer


@pytest.mark.parametrize(
    "rubbish", ["", " ", "unknown", "_hidden", "1.2.3", "1.2.3.4.5", "'; drop", "\x00", "999.1.1.1", ",,,", "[", "[]:1"]
)
def test_rubbish_in_the_header_leaves_the_last_hop_that_is_known(rubbish: str) -> None:
    assert address("10.0.0.1", rubbish) == "10.0.0.1"
    assert address("10.0.0.1", f"{rubbish}, 10.0.1.5") == "10.0.1.5"


def test_an_endless_header_is_not_followed() -> None:
    assert address("10.0.0.1", ",".join(["10.0.1.1"] * 10_000)) == "10.0.1.1"


def test_ipv4_on_an_ipv6_socket_is_ipv4() -> None:
    assert address("::ffff:192.0.2.7") == "192.0.2.7"
    assert address("::ffff:10.0.0.1", "198.51.100.1") == "198.51.100.1"


def test_a_local_socket_has_no_address() -> None:
    assert address("") == ""


def test_a_network_does_not_hold_addresses_of_the_other_family() -> None:
    networks = Networks(["0.0.0.0/0"])
    assert "192.0.2.1" in networks
    assert "2001:db8::1" not in networks
    assert "" not in networks
