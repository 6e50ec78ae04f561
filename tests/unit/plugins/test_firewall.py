"""Whether incoming packets are turned away, by real rule sets of nftables, iptables, ufw and firewalld."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

Read = Callable[[str], str]

SCENARIOS: dict[str, tuple[bool | str, bool | str, dict[str, tuple[bool, str, int]]]] = {
    "none": (False, False, {}),
    "nft-shipped-default": (False, False, {"nftables": (False, "accept", 0)}),
    "nft-workstation": (True, True, {"nftables": (True, "drop", 6)}),
    "nft-ipv4-only": (True, False, {"iptables": (False, "accept", 0), "nftables": (True, "drop", 2)}),
    "nft-last-rule-rejects": (True, True, {"nftables": (True, "accept", 5)}),
    "nft-drop-but-accepts-all": (False, False, {"nftables": (False, "drop", 2)}),
    "nft-all-but-some-ports": (True, True, {"nftables": (True, "accept", 2)}),
    "nft-some-ports-only": (False, False, {"nftables": (False, "accept", 3)}),
    "nft-one-interface": ("unknown", "unknown", {"nftables": (False, "accept", 2)}),
    "nft-all-but-loopback": (True, True, {"nftables": (True, "accept", 1)}),
    "nft-prerouting": (True, True, {"nftables": (True, "none", 0)}),
    "forward-only": (False, False, {"iptables": (False, "accept", 0), "nftables": (False, "none", 0)}),
    "iptables-policy-drop": (True, True, {"ip6tables": (True, "drop", 3), "iptables": (True, "drop", 3)}),
    "iptables-reject-ipv4-only": (True, False, {"iptables": (True, "accept", 5)}),
    "iptables-reject-and-goto": (True, True, {"ip6tables": (True, "accept", 2), "iptables": (True, "accept", 5)}),
    "iptables-fail2ban-tcp-only": (False, False, {"iptables": (False, "accept", 2)}),
    "iptables-legacy": (True, True, {"ip6tables": (True, "drop", 2), "iptables": (True, "drop", 2)}),
    "ufw-default": (
        True,
        True,
        {"ip6tables": (True, "drop", 6), "iptables": (True, "drop", 6), "ufw": (True, "deny", 0)},
    ),
    "ufw-reject": (
        True,
        True,
        {"ip6tables": (True, "drop", 6), "iptables": (True, "drop", 6), "ufw": (True, "reject", 4)},
    ),
    "ufw-allow": (
        False,
        False,
        {"ip6tables": (False, "accept", 6), "iptables": (False, "accept", 6), "ufw": (True, "allow", 4)},
    ),
    "ufw-no-ipv6": (
        True,
        True,
        {"ip6tables": (True, "drop", 1), "iptables": (True, "drop", 6), "ufw": (True, "deny", 2)},
    ),
    "ufw-disabled": (False, False, {"ip6tables": (False, "accept", 1), "iptables": (False, "accept", 6)}),
    "firewalld-public": (True, True, {"firewalld": (True, "reject", 2), "nftables": (True, "accept", 6)}),
    "firewalld-trusted-interface": (True, True, {"firewalld": (True, "reject", 2), "nftables": (True, "accept", 6)}),
    "firewalld-trusted": (False, False, {"firewalld": (False, "accept", 0), "nftables": (False, "accept", 6)}),
    "firewalld-drop": (True, True, {"firewalld": (True, "drop", 2), "nftables": (True, "accept", 6)}),
}
"""IPv4 filtered, IPv6 filtered, and the backends but an inactive ufw, which is installed everywhere."""


def sources(plugin: ModuleType, read: Read, stem: str) -> Any:
    running = read(f"{stem}.firewalld-state.txt").strip() == "running"
    return plugin.Sources(
        nft=read(f"{stem}.nft.json"),
        iptables={"ipv4": read(f"{stem}.iptables.txt"), "ipv6": read(f"{stem}.ip6tables.txt")},
        legacy={"ipv4": read(f"{stem}.iptables-legacy.txt"), "ipv6": read(f"{stem}.ip6tables-legacy.txt")},
        ufw=read(f"{stem}.ufw.txt") or None,
        firewalld=read(f"{stem}.firewalld.txt") if running else None,
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_real_rules_are_followed_to_what_becomes_of_a_packet(
    plugin: ModuleType, read: Read, machines: list[str], scenario: str
) -> None:
    ipv4, ipv6, backends = SCENARIOS[scenario]
    stems = [stem for stem in machines if stem.partition("-")[2] == scenario]
    assert len(stems) == 2
    for stem in stems:
        report = plugin.examine(sources(plugin, read, stem))
        found = {
            row["name"]: (row["active"], row["input_policy"], row["rules"])
            for row in report["backends"]
            if row["name"] != "ufw" or row["active"]
        }
        assert (report["ipv4"], report["ipv6"]) == (ipv4, ipv6), stem
        assert found == backends, stem
        both = {ipv4, ipv6}
        assert report["active"] == (False if False in both else "unknown" if "unknown" in both else True)


def test_every_machine_in_the_data_is_expected_somewhere(machines: list[str]) -> None:
    assert {stem.partition("-")[2] for stem in machines} == SCENARIOS.keys()


def test_rules_are_no_firewall_only_if_all_rules_were_seen(plugin: ModuleType, read: Read) -> None:
    shown = sources(plugin, read, "debian13-none")
    for hidden in ({"nft": None}, {"legacy": {"ipv4": None, "ipv6": ""}}, {"nft": "rubbish"}):
        report = plugin.examine(plugin.Sources(**{**vars(shown), **hidden}))
        assert report["active"] == "unknown"


def test_a_firewall_that_was_seen_counts_even_if_other_rules_were_not(plugin: ModuleType, read: Read) -> None:
    shown = sources(plugin, read, "debian13-iptables-policy-drop")
    assert plugin.examine(plugin.Sources(iptables=shown.iptables))["active"] is True


def test_firewalld_is_believed_where_its_rules_cannot_be_seen(plugin: ModuleType, read: Read) -> None:
    for zone, expected in (("public", True), ("trusted", "unknown")):
        report = plugin.examine(plugin.Sources(firewalld=read(f"debian13-firewalld-{zone}.firewalld.txt")))
        assert report["active"] == expected


def test_a_machine_without_ipv6_needs_no_filter_for_it(plugin: ModuleType, read: Read) -> None:
    shown = sources(plugin, read, "debian13-nft-ipv4-only")
    report = plugin.examine(plugin.Sources(**{**vars(shown), "ipv6": False}))
    assert (report["active"], report["ipv6"]) == (True, "absent")


def test_nothing_is_known_where_nothing_can_be_read(plugin: ModuleType) -> None:
    assert plugin.examine(plugin.Sources()) == {
        "active": "unknown",
        "ipv4": "unknown",
        "ipv6": "unknown",
        "backends": [],
    }


def test_the_compatible_tables_of_nft_are_left_to_iptables_save(plugin: ModuleType, read: Read) -> None:
    shown = sources(plugin, read, "debian13-iptables-policy-drop")
    assert '"table"' in shown.nft
    assert [row["name"] for row in plugin.examine(shown)["backends"]] == ["ip6tables", "iptables", "ufw"]


@pytest.mark.parametrize("scenario", ["iptables-policy-drop", "ufw-default", "iptables-reject-ipv4-only"])
def test_nft_alone_sees_what_iptables_made_as_well(plugin: ModuleType, read: Read, scenario: str) -> None:
    nft = read(f"debian13-{scenario}.nft.json")
    report = plugin.examine(plugin.Sources(nft=nft, legacy={"ipv4": "", "ipv6": ""}))
    assert (report["ipv4"], report["ipv6"]) == SCENARIOS[scenario][:2]


def rules(*lines: str, policy: str = "ACCEPT") -> str:
    return "\n".join(["*filter", f":INPUT {policy} [0:0]", ":deep - [0:0]", *lines, "COMMIT"])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["-A INPUT -j DROP"], True),
        (["-A INPUT -j ACCEPT", "-A INPUT -j DROP"], False),
        (["-A INPUT ! -s 10.0.0.0/8 -j DROP"], True),
        (["-A INPUT -s 10.0.0.0/8 -j DROP"], False),
        (["-A INPUT -i eth0 -j DROP"], "unknown"),
        (["-A INPUT ! -i lo -j DROP"], True),
        (["-A INPUT -i lo -j DROP"], False),
        (["-A INPUT -i eth0 -j ACCEPT", "-A INPUT -j DROP"], True),
        (["-A INPUT -i eth0 -g deep", "-A deep -j DROP"], "unknown"),
        (["-A INPUT -j deep", "-A deep -i eth0 -j DROP", "-A INPUT -j DROP"], True),
        (["-A INPUT -p tcp -j DROP", "-A INPUT -p udp -j REJECT"], True),
        (["-A INPUT -p tcp -j DROP"], False),
        (["-A INPUT -m limit --limit 1/sec -j ACCEPT", "-A INPUT -j DROP"], True),
        (["-A INPUT -m addrtype --dst-type LOCAL -j DROP"], True),
        (["-A INPUT -j deep", "-A deep -j RETURN", "-A deep -j DROP"], False),
        (["-A INPUT -g deep", "-A INPUT -j DROP"], False),
        (["-A INPUT -j nowhere", "-A INPUT -j DROP"], True),
        (['-A INPUT -m comment --comment "it\'s -j ACCEPT" -j DROP'], True),
        (["-A INPUT -j deep", "-A deep -j INPUT"], False),
        (['-A INPUT -m comment --comment "broken -j DROP'], False),
    ],
)
def test_conditions_of_iptables_are_understood(plugin: ModuleType, lines: list[str], expected: bool | str) -> None:
    assert plugin.filtered(plugin.parse_iptables(rules(*lines), "ipv4"), "ipv4") == expected


def test_a_table_for_one_family_says_nothing_of_the_other(plugin: ModuleType) -> None:
    tables = plugin.parse_iptables(rules(policy="DROP"), "ipv4")
    assert plugin.filtered(tables, "ipv4") is True
    assert plugin.filtered(tables, "ipv6") is False


def nft(*expressions: dict[str, Any], policy: str = "accept", family: str = "inet") -> str:
    chain = {"family": family, "table": "t", "name": "c", "type": "filter", "hook": "input", "policy": policy}
    rule = {"family": family, "table": "t", "chain": "c", "expr": list(expressions)}
    return json.dumps({"nftables": [{"metainfo": {}}, {"chain": chain}, {"rule": rule}]})


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


PORT = {"payload": {"protocol": "tcp", "field": "dport"}}
ADDRESS = {"payload": {"protocol": "ip", "field": "saddr"}}


@pytest.mark.parametrize(
    ("expressions", "ipv4", "ipv6"),
    [
        ([{"drop": None}], True, True),
        ([match({"meta": {"key": "nfproto"}}, "ipv4"), {"drop": None}], True, False),
        ([match(ADDRESS, {"prefix": {"addr": "10.0.0.0", "len": 8}}, "!="), {"drop": None}], True, False),
        ([match(PORT, 22, "!="), {"drop": None}], False, False),
        ([match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), {"reject": {"type": "tcp reset"}}], True, True),
        ([match({"meta": {"key": "iifname"}}, "eth0"), {"drop": None}], "unknown", "unknown"),
        ([{"limit": {"rate": 1, "per": "second"}}, {"drop": None}], False, False),
        ([{"xt": None}, {"drop": None}], False, False),
        ([{"xt": {"type": "target", "name": "REJECT"}}], True, True),
        ([{"counter": {"packets": 0, "bytes": 0}}, {"log": None}, {"drop": None}], True, True),
        (
            [match({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, "syn"]}, "syn"), {"drop": None}],
            False,
            False,
        ),
        ([{"jump": {"target": "c"}}], False, False),
        ([{"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": {"set": [["tcp", {"drop": None}]]}}}], False, False),
        ([{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@interfaces"}}], False, False),
    ],
)
def test_conditions_of_nft_are_understood(
    plugin: ModuleType, expressions: list[dict[str, Any]], ipv4: bool | str, ipv6: bool | str
) -> None:
    tables = plugin.parse_nft(nft(*expressions))
    assert (plugin.filtered(tables, "ipv4"), plugin.filtered(tables, "ipv6")) == (ipv4, ipv6)


def test_bridges_and_arp_are_not_input(plugin: ModuleType) -> None:
    assert plugin.parse_nft(nft({"drop": None}, family="bridge")) == []


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"nftables": 1}', '{"nftables": [1]}', '{"nftables": [{"rule": 1}]}', "[" * 99999],
)
def test_rubbish_is_not_taken_for_nft(plugin: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="not the output of nft"):
        plugin.parse_nft(text)


def test_rubbish_is_not_taken_for_ufw(plugin: ModuleType) -> None:
    assert plugin.parse_ufw("ERROR: You need to be root to run this script") is None


def test_old_iptables_is_not_asked_where_the_kernel_has_no_such_tables(plugin: ModuleType) -> None:
    assert plugin.legacy_rules("no-such-program", "", None) == ""
    assert plugin.legacy_rules("no-such-program", None, None) is None
    assert plugin.legacy_rules("no-such-program", "filter\n", None) is None


def test_a_variant_of_iptables_that_is_the_old_one_has_shown_the_old_rules(plugin: ModuleType, read: Read) -> None:
    legacy = read("debian13-iptables-legacy.iptables-legacy.txt")
    assert plugin.legacy_rules("no-such-program", "filter\n", legacy) == legacy
    by_nft = read("debian13-iptables-policy-drop.iptables.txt")
    assert plugin.legacy_rules("no-such-program", "filter\n", by_nft) is None
