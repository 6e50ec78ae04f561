#!/usr/bin/env python3
"""The network devices of this machine, out of /sys/class/net.

Left out, because they come and go with containers and virtual machines: the ends of virtual cables (veth) and taps that
are ports of a bridge. `mac` is the address the maker gave where `ip` knows it, since systems change the one in use for
privacy; it is None for devices that have none, or a random one. `up` says whether the device is switched on, not
whether there is a cable or a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any

from penguindome.errors import ProcessError
from penguindome.plugin_tools import output, run, unknown

ATTRIBUTES = ("address", "addr_assign_type", "flags", "ifindex", "iflink", "type", "tun_flags", "uevent")
DIRECTORIES = ("bonding", "bridge", "brport", "device", "master", "phy80211", "wireless")

ETHERNET, INFINIBAND, PPP, LOOPBACK, NO_HEADER = "1", "32", "512", "772", "65534"
TUNNELS = {"768", "769", "776", "778", "823"}
"""Of /usr/include/linux/if_arp.h: IPIP, IP6IP6, sit, GRE, GRE over IPv6."""

KINDS = {
    "bond": "bond",
    "bluetooth": "bluetooth",
    "bridge": "bridge",
    "erspan": "tunnel",
    "geneve": "tunnel",
    "gretap": "tunnel",
    "ip6erspan": "tunnel",
    "ip6gretap": "tunnel",
    "vlan": "vlan",
    "vti": "tunnel",
    "vxlan": "tunnel",
    "wireguard": "tunnel",
    "wlan": "wifi",
    "wwan": "mobile",
    "xfrm": "tunnel",
}
"""By the DEVTYPE that the kernel gives, or the kind that `ip` shows."""

IFF_UP = 1
RANDOM_ADDRESS = "1"


def parse_permanent(text: str) -> dict[str, dict[str, str]]:
    """Name to {"permaddr", "info_kind"} in the JSON of `ip -json -details link`; empty if it is something else."""
    try:
        return {
            str(link["ifname"]): {
                "permaddr": str(link.get("permaddr", "")),
                "info_kind": str(link.get("linkinfo", {}).get("info_kind", "")),
            }
            for link in loads(text)
            if link
        }
    except (JSONDecodeError, RecursionError, LookupError, TypeError, AttributeError):
        return {}


def is_passing(facts: Mapping[str, str], info_kind: str) -> bool:
    """Whether this belongs to a container or virtual machine."""
    if info_kind == "veth":
        return True
    if "brport" in facts and "tun_flags" in facts:
        return True
    # Without `ip`: a veth is an Ethernet without hardware or DEVTYPE, linked to another device without lying on it.
    linked = facts.get("iflink") not in {None, "", "0", facts.get("ifindex")}
    plain = facts.get("type") == ETHERNET and not (
        {"device", "lower", "tun_flags"} & facts.keys() or device_type(facts)
    )
    return linked and plain and not info_kind


def device_type(facts: Mapping[str, str]) -> str:
    """The DEVTYPE in the device's uevent file."""
    for line in facts.get("uevent", "").splitlines():
        name, _, value = line.partition("=")
        if name == "DEVTYPE":
            return value
    return ""


def kind_of(facts: Mapping[str, str], info_kind: str) -> str:
    """ethernet, wifi, mobile, bluetooth, infiniband, bridge, bond, vlan, tunnel, ppp, loopback or virtual."""
    hardware = facts.get("type")
    if hardware == LOOPBACK:
        return "loopback"
    if "wireless" in facts or "phy80211" in facts:
        return "wifi"
    for word in (device_type(facts), info_kind):
        if word in KINDS:
            return KINDS[word]
    for directory, kind in (("bridge", "bridge"), ("bonding", "bond"), ("tun_flags", "tunnel")):
        if directory in facts:
            return kind
    if hardware in TUNNELS:
        return "tunnel"
    if hardware in {PPP, INFINIBAND}:
        return "ppp" if hardware == PPP else "infiniband"
    if "device" not in facts:
        return "tunnel" if hardware == NO_HEADER else "virtual"
    return "mobile" if hardware == NO_HEADER else "ethernet"


def mac_of(facts: Mapping[str, str], permanent: str) -> str | None:
    """The address that stays with the device, if it has one."""
    address = permanent or facts.get("address", "")
    if not permanent and facts.get("addr_assign_type") == RANDOM_ADDRESS:
        return None
    return address if address.strip("0:") and len(address) >= 17 else None


def describe(name: str, facts: Mapping[str, str], link: Mapping[str, str]) -> dict[str, Any]:
    """One device as reported; `facts` is what `read_facts` returns, `link` what `ip` adds."""
    try:
        up: bool | str = bool(int(facts["flags"], 16) & IFF_UP)
    except (KeyError, ValueError):
        up = unknown
    driver = {"driver": facts["driver"]} if facts.get("driver") else {}
    mac = mac_of(facts, link.get("permaddr", ""))
    return {"name": name, "mac": mac, "kind": kind_of(facts, link.get("info_kind", "")), "up": up, **driver}


def describe_all(
    devices: Mapping[str, Mapping[str, str]], links: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The report, sorted by name."""
    return [
        describe(name, facts, links.get(name, {}))
        for name, facts in sorted(devices.items())
        if not is_passing(facts, links.get(name, {}).get("info_kind", ""))
    ]


def read_facts(directory: Path) -> dict[str, str]:
    """What the kernel says of a device: the text of its attributes, and the names of directories that are there."""
    facts = {name: "" for name in DIRECTORIES if (directory / name).exists()}
    for name in ATTRIBUTES:
        try:
            facts[name] = (directory / name).read_text(errors="replace").strip()
        except OSError:  # noqa: PERF203 - not every device has every attribute
            continue
    if any(directory.glob("lower_*")):
        facts["lower"] = ""
    try:
        facts["driver"] = (directory / "device/driver").readlink().name
    except OSError:
        pass
    return facts


def collect(directory: Path = Path("/sys/class/net")) -> list[dict[str, Any]] | str:
    """The report of this machine; "unknown" where the kernel's list cannot be read."""
    try:
        devices = {path.name: read_facts(path) for path in directory.iterdir() if path.is_dir()}
    except OSError:
        return unknown
    try:
        links = parse_permanent(run(["ip", "-json", "-details", "link"]) or "")
    except ProcessError:
        links = {}
    return describe_all(devices, links)


if __name__ == "__main__":
    output(collect())
