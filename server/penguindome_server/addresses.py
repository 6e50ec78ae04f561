"""Whose request this is: the peer's address, told by X-Forwarded-For only where a proxy of ours wrote it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
LONGEST_CHAIN = 32


def parse_address(text: str) -> Address | None:
    """An IP address as proxies write it (`192.0.2.1`, `192.0.2.1:4711`, `[2001:db8::1]:4711`), or None for anything
    else.

    IPv4 that arrived on an IPv6 socket (`::ffff:192.0.2.1`) is the IPv4 address; a zone (`%eth0`) is dropped.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Networks:
    """A set of networks, from settings. Raises ValueError for text that is none."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(str(text), strict=False) for text in texts]

    def __contains__(self, address: object) -> bool:
        if isinstance(address, str):
            address = parse_address(address)
        return isinstance(address, IPv4Address | IPv6Address) and any(
            address.version == network.version and address in network for network in self._networks
        )

    def __bool__(self) -> bool:
        return bool(self._networks)


class Peers:
    """Finds the address of who sent a request, given the proxies that are trusted."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted = Networks(trusted_proxies)

    def address(self, environ: Mapping[str, Any]) -> str:
        """The peer's address in its canonical form; "" when there is none (a local socket).

        X-Forwarded-For is read from its right end, the end that our own proxies wrote, and only as far as each hop is a
        trusted proxy; the first that is not is the peer. What cannot be read ends the search at the hop before it.
        """
        remote = str(environ.get("REMOTE_ADDR", ""))
        if not self._trusted:
            return _canonical(remote)
        peer = parse_address(remote)
        if peer is None:
            return ""
        chain = str(environ.get("HTTP_X_FORWARDED_FOR", ""))
        if chain:
            for hop in reversed(chain.rsplit(",", LONGEST_CHAIN)):
                if peer not in self._trusted:
                    break
                address = parse_address(hop)
                if address is None:
                    break
                peer = address
        return str(peer)


@functools.lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    address = parse_address(text)
    return "" if address is None else str(address)
