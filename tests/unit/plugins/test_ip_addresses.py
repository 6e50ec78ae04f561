"""The addresses that a real `ip` prints."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

Read = Callable[[str], str]

DEBIAN13 = [
    "br0 10.9.0.1/16 ipv4 global",
    "br0 fe80::48a2:beff:fe3d:1e13/64 ipv6 link",
    "enp0s2 192.0.2.10/24 ipv4 global",
    "enp0s2 2001:db8::10/64 ipv6 global",
    "enp0s2 fe80::5054:ff:fe12:3456/64 ipv6 link",
    "enp0s2 fec0::5054:ff:fe12:3456/64 ipv6 site",
    "enp0s2.5 fe80::5054:ff:fe12:3456/64 ipv6 link",
    "enp0s3 2001:db8:1:2::6/64 ipv6 global",
    "enp0s3 2001:db8:1::5/64 ipv6 global",
    "enp0s3 fe80::11:22ff:fe33:4455/64 ipv6 link",
    "enp0s3 fec0::11:22ff:fe33:4455/64 ipv6 site",
    "lo 127.0.0.1/8 ipv4 host",
    "lo ::1/128 ipv6 host",
    "tun0 10.7.0.1/32 ipv4 global",
    "wg0 10.8.0.2/32 ipv4 global",
]


def rows(plugin: ModuleType, text: str) -> list[str]:
    return ["{interface} {address}/{prefix} {family} {scope}".format(**row) for row in plugin.parse_addresses(text)]


def test_addresses_of_many_kinds_of_devices_are_told(plugin: ModuleType, read: Read) -> None:
    assert rows(plugin, read("debian13-many.addresses.json")) == DEBIAN13


def test_addresses_that_come_and_go_are_left_out(plugin: ModuleType, read: Read) -> None:
    text = read("debian13-many.addresses.json")
    assert text.count('"temporary":true') == 2
    assert text.count('"deprecated":true') == 1
    assert "2001:db8:1::7" in text
    assert not any("2001:db8:1::7" in row for row in rows(plugin, text))


def test_the_ends_of_virtual_cables_are_left_out(plugin: ModuleType, read: Read) -> None:
    text = read("debian13-many.addresses.json")
    assert '"vethab12"' in text
    assert not any(row.startswith(("vethab12", "eth9")) for row in rows(plugin, text))


@pytest.mark.parametrize("machine", ["debian11-namespace", "debian12-namespace"])
def test_older_versions_print_the_same(plugin: ModuleType, read: Read, machine: str) -> None:
    expected = ["d0 192.0.2.9/24 ipv4 global", "d0 2001:db8::9/64 ipv6 global"]
    found = rows(plugin, read(f"{machine}.addresses.json"))
    assert [row for row in found if row.startswith("d0") and "fe80" not in row] == expected
    assert len(found) == 4
    assert {row.rpartition(" ")[2] for row in found if row.startswith("lo ")} == {"host"}


def test_empty_objects_of_some_versions_are_passed_over(plugin: ModuleType) -> None:
    assert plugin.parse_addresses('[{},{},{"ifname":"lo"}]') == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        '"x"',
        "[1]",
        '[{"addr_info":[{"family":"inet"}],"ifname":"x"}]',
        '[{"ifname":"x","addr_info":3}]',
    ],
)
def test_rubbish_is_not_taken_for_addresses(plugin: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="not the output of ip"):
        plugin.parse_addresses(text)


def test_every_machine_in_the_data_is_looked_at(machines: list[str]) -> None:
    assert machines == ["debian11-namespace", "debian12-namespace", "debian13-many"]
