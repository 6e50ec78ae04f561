#!/usr/bin/env python3
"""Whether a packet that nobody asked for, coming in from outside, is turned away: for IPv4 and IPv6 each.

The rules that the kernel follows decide, not what a tool says of itself. They are read by `nft` and `iptables-save`,
and followed with a few packets in mind: the first TCP and UDP packet from another machine, over some interface, to some
port. Where each of these ends in a drop or reject, the family is filtered; rules that speak of certain ports, addresses
or rates do not concern such a packet. So a policy, a last rule that rejects everything, and what ufw and firewalld make
all count, and a rule set with which docker or libvirt only forwards does not. Where it depends on the interface, or
without root and tools, the answer is "unknown". A machine without IPv6 needs no filter for it ("absent").

`rules` counts the rules in the chains that receive incoming packets first; chains below are left out, since
fail2ban and its like keep changing theirs.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any, NamedTuple

from penguindome.errors import ProcessError
from penguindome.plugin_tools import output, run, unknown

FAMILIES = ("ipv4", "ipv6")
DEEPEST = 40
"""Jumps that are followed; the kernel allows 16."""


class Probe(NamedTuple):
    """The packet that is followed through the rules."""

    family: str
    protocol: str
    state: str = "new"
    destination: str = "local"
    packet_type: str = "host"


class Test(NamedTuple):
    """One condition of a rule: a field of the probe, "interface", or "special" for what only certain packets have."""

    subject: str
    values: frozenset[str] = frozenset()
    negated: bool = False

    def holds(self, probe: Probe) -> bool | None:
        """Whether the probe fulfils it; None where that depends on the interface."""
        if self.subject == "interface":
            return self.negated if self.values == {"lo"} else None
        met = getattr(probe, self.subject) in self.values if self.subject in Probe._fields else False
        return met != self.negated


class Rule(NamedTuple):
    """What happens ("accept", "drop", "return", "jump", "goto" or "") to packets that fulfil all tests."""

    tests: tuple[Test, ...]
    verdict: str
    target: str = ""

    def holds(self, probe: Probe) -> bool | None:
        """As `Test.holds`, for all tests together."""
        answers = {test.holds(probe) for test in self.tests}
        return False if False in answers else None if None in answers else True


@dataclass
class Chain:
    """Rules in order. Packets come into a chain with a `hook` by themselves, and its `policy` is what comes last.

    `size` is the number of rules as their author counts them: a verdict map is one to him, and several to us.
    """

    hook: str = ""
    policy: str = "accept"
    rules: list[Rule] = field(default_factory=list)
    size: int = 0


@dataclass
class Table:
    """Chains that can jump to each other, and the families of packets that they see."""

    name: str
    families: tuple[str, ...]
    chains: dict[str, Chain] = field(default_factory=dict)

    def fate(self, probe: Probe) -> str:
        """What becomes of the probe in this table: "drop", "accept" or "maybe"."""
        if probe.family not in self.families:
            return "accept"
        fates = set()
        for chain in self.chains.values():
            if chain.hook:
                said, doubt = self._follow(chain, probe, 0)
                verdict = said or chain.policy
                fates.add("maybe" if doubt and verdict == "accept" else verdict)
        return next((fate for fate in ("drop", "maybe") if fate in fates), "accept")

    def _follow(self, chain: Chain, probe: Probe, depth: int) -> tuple[str | None, bool]:
        """What the rules say (None if the probe falls through), and whether they say "drop" to some interfaces only."""
        doubt = False
        for rule in chain.rules if depth < DEEPEST else ():
            holds = rule.holds(probe)
            if holds is False or not rule.verdict:
                continue
            said, inner_doubt = self._verdict(rule, probe, depth)
            if holds is None:
                doubt |= inner_doubt or said == "drop"
                continue
            doubt |= inner_doubt
            if said or rule.verdict in {"goto", "return"}:
                return said, doubt
        return None, doubt

    def _verdict(self, rule: Rule, probe: Probe, depth: int) -> tuple[str | None, bool]:
        if rule.verdict in {"jump", "goto"}:
            target = self.chains.get(rule.target)
            return self._follow(target, probe, depth + 1) if target else (None, False)
        return (None if rule.verdict == "return" else rule.verdict), False


SPECIAL = Test("special")
NFT_FAMILIES = {"ip": ("ipv4",), "ip6": ("ipv6",), "inet": FAMILIES}
NFT_VERDICTS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return", "continue": ""}
NFT_MATCHES = {
    ("meta", "iifname"): "interface",
    ("meta", "iif"): "interface",
    ("meta", "l4proto"): "protocol",
    ("meta", "nfproto"): "family",
    ("meta", "pkttype"): "packet_type",
    ("ct", "state"): "state",
    ("ip", "protocol"): "protocol",
    ("ip6", "nexthdr"): "protocol",
    ("fib", "type"): "destination",
}
NFT_CONDITIONS = {"limit", "quota", "ct count", "xt", "connlimit", "last", "osf", "socket"}
"""Statements that let only certain packets go on to the rest of their rule."""


def parse_nft(text: str) -> list[Table]:
    """The tables in the JSON of `nft list ruleset` that see incoming packets. Raises ValueError for anything else."""
    tables: dict[tuple[str, str], Table] = {}
    try:
        for entry in loads(text)["nftables"]:
            for kind, value in entry.items():
                if kind in {"table", "chain", "rule"} and value["family"] in NFT_FAMILIES:
                    _add_nft(tables, kind, value)
    except (JSONDecodeError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not the output of nft: {error}") from error
    return list(tables.values())


def _add_nft(tables: dict[tuple[str, str], Table], kind: str, value: Mapping[str, Any]) -> None:
    name = value["name"] if kind == "table" else value["table"]
    table = tables.setdefault((value["family"], name), Table(name, NFT_FAMILIES[value["family"]]))
    if kind == "chain":
        filters = value.get("hook") in {"input", "prerouting"} and value.get("type") == "filter"
        table.chains[value["name"]] = Chain(value["hook"] if filters else "", value.get("policy", "accept"))
    elif kind == "rule":
        chain = table.chains.setdefault(value["chain"], Chain())
        chain.rules.extend(_nft_rules(value.get("expr", [])))
        chain.size += 1


def _nft_rules(statements: Iterable[Mapping[str, Any]]) -> Iterator[Rule]:
    """The rule that these statements are; one for each entry of a verdict map."""
    tests: list[Test] = []
    for statement in statements:
        for kind, value in statement.items():
            target_of_xt = isinstance(value, dict) and value.get("name") in {"REJECT", "DROP"}
            if kind == "match":
                tests.extend(_nft_tests(value["left"], value["right"], negated=value["op"] == "!="))
            elif kind == "vmap":
                yield from _nft_map(tests, value)
            elif kind == "xt" and target_of_xt:
                yield Rule(tuple(tests), "drop")
            elif kind in NFT_CONDITIONS:
                tests.append(SPECIAL)
            elif kind in NFT_VERDICTS:
                yield Rule(tuple(tests), NFT_VERDICTS[kind])
            elif kind in {"jump", "goto"}:
                yield Rule(tuple(tests), kind, value["target"])


def _nft_map(tests: list[Test], value: Mapping[str, Any]) -> Iterator[Rule]:
    data = value["data"]
    for key, verdict in data["set"] if isinstance(data, dict) else ():
        for kind, detail in verdict.items():
            narrowed = (*tests, *_nft_tests(value["key"], key, negated=False))
            yield Rule(narrowed, NFT_VERDICTS.get(kind, kind), detail["target"] if detail else "")


def _nft_tests(left: Any, right: Any, *, negated: bool) -> Iterator[Test]:
    """The tests that a match comes to: one of a port is one of the protocol too."""
    (kind, detail), *_ = left.items() if isinstance(left, dict) else (("", ""),)
    if kind == "payload" and isinstance(detail, dict):
        protocol, subject = detail.get("protocol"), detail.get("field")
        if protocol in NFT_FAMILIES:
            yield Test("family", frozenset(NFT_FAMILIES[protocol]))
        elif protocol in {"tcp", "udp"}:
            yield Test("protocol", frozenset({protocol}))
        kind = str(protocol)
    elif isinstance(detail, dict):
        subject = detail.get("result" if kind == "fib" else "key")
    else:
        subject = ""
    about = NFT_MATCHES.get((kind, str(subject)))
    if about is None:
        yield Test("special", negated=negated)
    else:
        yield Test(about, frozenset(_nft_values(right)), negated)


def _nft_values(right: Any) -> list[str]:
    if isinstance(right, dict):
        right = right.get("set", [])
    return [str(value) for value in right] if isinstance(right, list) else [str(right)]


IPTABLES_HOOKS = {"INPUT": "input", "PREROUTING": "prerouting"}
IPTABLES_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}
IPTABLES_FILTERS = {"filter", "mangle", "raw", "security"}
NO_CONDITIONS = {"--comment", "--syn", "--tcp-flags"}
"""Options that say nothing, or that the first packet of a connection fulfils."""


def parse_iptables(text: str, family: str) -> list[Table]:
    """The tables that `iptables-save` or `ip6tables-save` prints and that filter."""
    tables: list[Table] = []
    for line in text.splitlines():
        if line.startswith("*"):
            tables.append(Table(line[1:].strip(), (family,)))
        elif tables and line.startswith(":") and len(words := line[1:].split()) >= 2:
            filters = tables[-1].name in IPTABLES_FILTERS
            hook = IPTABLES_HOOKS.get(words[0], "") if filters else ""
            tables[-1].chains[words[0]] = Chain(hook, words[1].lower() if hook else "accept")
        elif tables and line.startswith("-A "):
            _add_iptables(tables[-1], line)
    return [table for table in tables if table.name in IPTABLES_FILTERS]


def _add_iptables(table: Table, line: str) -> None:
    try:
        words = shlex.split(line)
    except ValueError:
        return
    chain = table.chains.setdefault(words[1], Chain())
    tests: list[Test] = []
    verdict = target = ""
    for option, values, negated in _options(words[2:]):
        if option in {"-j", "-g"}:
            target = values[0] if values else ""
            jump = "goto" if option == "-g" else "jump"
            verdict = IPTABLES_VERDICTS.get(target, jump if target in table.chains else "")
            break
        test = _iptables_test(option, values, negated=negated)
        if test:
            tests.append(test)
    chain.rules.append(Rule(tuple(tests), verdict, target))
    chain.size += 1


def _options(words: Sequence[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Each option with its values, and whether a "!" stands before it."""
    option, negated = "", False
    values: list[str] = []
    for position, word in enumerate(words):
        if word == "!":
            continue
        if re.match(r"--?[a-z]", word):
            if option:
                yield option, values, negated
            option, values, negated = word, [], position > 0 and words[position - 1] == "!"
        else:
            values.append(word)
    if option:
        yield option, values, negated


def _iptables_test(option: str, values: list[str], *, negated: bool) -> Test | None:
    words = frozenset(word.lower() for value in values for word in value.split(","))
    if option in {"-p", "--protocol"}:
        return None if words & {"all", "0"} else Test("protocol", words, negated)
    if option in {"-i", "--in-interface"}:
        return None if words == {"+"} else Test("interface", words, negated)
    if option in {"--ctstate", "--state"}:
        return Test("state", words, negated)
    if option == "--dst-type":
        return Test("destination", words, negated)
    if option == "-m" or option in NO_CONDITIONS:
        return None
    return Test("special", negated=negated)


def filtered(tables: Iterable[Table], family: str) -> bool | str:
    """Whether these tables turn the probes of a family away."""
    tables = list(tables)
    fates = {_fate(tables, Probe(family, protocol)) for protocol in ("tcp", "udp")}
    return fates == {"drop"} or (unknown if "accept" not in fates else False)


def _fate(tables: list[Table], probe: Probe) -> str:
    fates = {table.fate(probe) for table in tables}
    return next((fate for fate in ("drop", "maybe") if fate in fates), "accept")


def describe(name: str, tables: list[Table]) -> dict[str, Any]:
    """A backend of the kernel as reported; active if it filters every family that it speaks of."""
    inputs = [chain for table in tables for chain in table.chains.values() if chain.hook == "input"]
    policies = {chain.policy for chain in inputs}
    families = {family for table in tables for family in table.families}
    return {
        "name": name,
        "active": bool(families) and all(filtered(tables, family) is True for family in families),
        "input_policy": "drop" if "drop" in policies else "accept" if policies else "none",
        "rules": sum(chain.size for chain in inputs),
    }


def parse_ufw(text: str) -> dict[str, Any] | None:
    """The backend that `ufw status verbose` describes; None if that is not what it printed."""
    status = re.search(r"^Status: (\w+)", text, re.MULTILINE)
    if status is None:
        return None
    policy = re.search(r"^Default: (\w+) \(incoming\)", text, re.MULTILINE)
    _, _, rules = text.partition("\n--")
    return {
        "name": "ufw",
        "active": status[1] == "active",
        "input_policy": policy[1] if policy else "none",
        "rules": len([line for line in rules.splitlines()[1:] if line.strip()]),
    }


def parse_firewalld(text: str) -> dict[str, Any]:
    """The backend that `firewall-cmd --list-all` describes: the default zone of a firewalld that runs."""
    fields = dict(re.findall(r"^  ([\w -]+): ?(.*)$", text, re.MULTILINE))
    target = fields.get("target", "default").strip("%").lower()
    allowed = [word for name in ("services", "ports", "protocols") for word in fields.get(name, "").split()]
    return {
        "name": "firewalld",
        "active": target != "accept",
        "input_policy": {"default": "reject"}.get(target, target),
        "rules": len(allowed) + text.count("\n\trule "),
    }


@dataclass(frozen=True)
class Sources:
    """What could be read; None for what could not."""

    nft: str | None = None
    iptables: Mapping[str, str | None] = field(default_factory=dict)
    """By family."""
    legacy: Mapping[str, str | None] = field(default_factory=dict)
    """By family: rules that nft does not show, empty where the kernel has none."""
    ufw: str | None = None
    firewalld: str | None = None
    ipv6: bool = True


def examine(sources: Sources) -> dict[str, Any]:
    """The report, from everything that was read."""
    tables: dict[str, list[Table]] = {}
    for family, program in zip(FAMILIES, ("iptables", "ip6tables"), strict=True):
        texts = {sources.iptables.get(family), sources.legacy.get(family)} - {None, ""}
        tables[program] = [table for text in texts for table in parse_iptables(text or "", family)]
    complete = sources.nft is not None and all(sources.legacy.get(family) is not None for family in FAMILIES)
    try:
        tables["nftables"] = _without(parse_nft(sources.nft or '{"nftables": []}'), sources.iptables)
    except ValueError:
        complete = False
    backends = [describe(name, rules) for name, rules in tables.items() if rules]
    if sources.ufw is not None:
        backends += filter(None, [parse_ufw(sources.ufw)])
    if sources.firewalld is not None:
        backends.append(parse_firewalld(sources.firewalld))
    everything = [table for rules in tables.values() for table in rules]
    verdicts: dict[str, bool | str] = {}
    for family in FAMILIES:
        verdict = filtered(everything, family)
        verdicts[family] = verdict if verdict is True or complete else _by_firewalld(backends)
    if not sources.ipv6:
        verdicts["ipv6"] = "absent"
    return {"active": _together(verdicts), **verdicts, "backends": sorted(backends, key=lambda row: row["name"])}


def _without(tables: list[Table], saved: Mapping[str, str | None]) -> list[Table]:
    """The tables but those that `iptables-save` printed in full as well, which it describes better."""
    owned: set[tuple[str, str]] = set()
    for family, text in saved.items():
        partly = set(re.findall(r"^# Table `(\w+)'", text or "", re.MULTILINE))
        owned |= {(family, name) for name in re.findall(r"^\*(\w+)", text or "", re.MULTILINE) if name not in partly}
    return [table for table in tables if len(table.families) > 1 or (table.families[0], table.name) not in owned]


def _by_firewalld(backends: Iterable[Mapping[str, Any]]) -> bool | str:
    """What firewalld says. It can work without the tools that would show its rules."""
    return any(row["name"] == "firewalld" and row["active"] for row in backends) or unknown


def _together(verdicts: Mapping[str, bool | str]) -> bool | str:
    answers = [verdict for verdict in verdicts.values() if verdict != "absent"]
    return False if False in answers else unknown if unknown in answers else True


NFNETLINK_TABLES = struct.pack("=IHHII BBH", 20, 10 << 8 | 1, 0x301, 1, 0, 0, 0, 0)
"""Netlink header and body: list (NLM_F_REQUEST, NLM_F_DUMP) the tables of nftables (NFT_MSG_GETTABLE), all families."""


def kernel_has_tables() -> bool | None:
    """Whether nftables has any table, asked of the kernel, for machines without `nft`; None if it will not say."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as link:
            link.settimeout(5)
            link.send(NFNETLINK_TABLES)
            answer = link.recv(65536)
        _, kind, _, _, _ = struct.unpack_from("=IHHII", answer)
        if kind == 3:
            return False
        if kind == 2:
            (code,) = struct.unpack_from("=i", answer, 16)
            return False if -code in {errno.EINVAL, errno.EOPNOTSUPP} else None
    except (OSError, struct.error, ValueError):
        return None
    return True


def read(path: str) -> str | None:
    """The text of a file: empty if it is not there, None if it may not be read."""
    try:
        return Path(path).read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError:
        return None


def ask(*command: str) -> str | None:
    """The output of a program; None where it is missing or fails."""
    try:
        return run(command)
    except ProcessError:
        return None


def legacy_rules(program: str, names: str | None, saved: str | None) -> str | None:
    """The rules of the old iptables, which is asked only if the kernel has such tables: asking might load modules."""
    if not names:
        return names
    if saved and "(nf_tables)" not in saved:
        return saved
    return ask(f"{program}-legacy-save")


def collect() -> dict[str, Any]:
    """The report of this machine."""
    firewalld = (
        ask("firewall-cmd", "--list-all") if (ask("firewall-cmd", "--state") or "").strip() == "running" else None
    )
    ipv6 = read("/proc/net/if_inet6") != ""
    if os.geteuid() != 0:
        return examine(Sources(firewalld=firewalld, ipv6=ipv6))
    saved = {"ipv4": ask("iptables-save"), "ipv6": ask("ip6tables-save")}
    names = {"ipv4": read("/proc/net/ip_tables_names"), "ipv6": read("/proc/net/ip6_tables_names")}
    nft = ask("nft", "-j", "list", "ruleset")
    if nft is None and kernel_has_tables() is False:
        nft = '{"nftables": []}'
    return examine(
        Sources(
            nft=nft,
            iptables=saved,
            legacy={
                "ipv4": legacy_rules("iptables", names["ipv4"], saved["ipv4"]),
                "ipv6": legacy_rules("ip6tables", names["ipv6"], saved["ipv6"]),
            },
            ufw=ask("ufw", "status", "verbose"),
            firewalld=firewalld,
            ipv6=ipv6,
        )
    )


if __name__ == "__main__":
    output(collect())
