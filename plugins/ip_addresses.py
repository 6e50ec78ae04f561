#!/usr/bin/env python3
"""The IP addresses of this machine, by `ip -json -details address`.

What comes and goes without anybody doing anything is left out: the temporary addresses of IPv6 privacy extensions,
addresses that are deprecated or not yet (or never) usable, life times, and the ends of containers' virtual cables.
Loopback addresses have the scope `host`.
"""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONDecodeError, loads
from typing import Any

from penguindome.errors import ProcessError
from penguindome.plugin_tools import output, run, unknown

FAMILIES = {"inet": "ipv4", "inet6": "ipv6"}
PASSING = ("temporary", "deprecated", "tentative", "dadfailed")


def parse_addresses(text: str) -> list[dict[str, Any]]:
    """The addresses in the JSON of `ip`. Raises ValueError if it is something else."""
    try:
        found = [
            describe(interface["ifname"], address)
            for interface in loads(text)
            # Some versions print empty objects for what a filter leaves out.
            if interface and interface.get("linkinfo", {}).get("info_kind") != "veth"
            for address in interface.get("addr_info", [])
            if address.get("family") in FAMILIES and not any(address.get(mark) for mark in PASSING)
        ]
    except (JSONDecodeError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not the output of ip: {error}") from error
    return sorted(found, key=lambda row: (row["interface"], row["family"], row["address"], row["prefix"]))


def describe(interface: str, address: Mapping[str, Any]) -> dict[str, Any]:
    """One address as reported."""
    return {
        "interface": str(interface),
        "address": str(address["local"]),
        "prefix": int(address["prefixlen"]),
        "family": FAMILIES[address["family"]],
        "scope": str(address.get("scope", unknown)),
    }


def collect() -> list[dict[str, Any]] | str:
    """The report of this machine; "unknown" without a working `ip`."""
    try:
        text = run(["ip", "-json", "-details", "address"])
        return unknown if text is None else parse_addresses(text)
    except (ProcessError, ValueError):
        return unknown


if __name__ == "__main__":
    output(collect())
