#!/usr/bin/env python3
"""Whether an SSH server runs here, and what it lets in: the effective configuration, by `sshd -T`.

The server itself is asked, so that included files, defaults and Match blocks count. It is asked for root and for an
ordinary user, who each come from an address outside: `permit_root_login` is what holds for root, and a method to
authenticate is on if it is for either. What it does not say is "unknown", and `reason` tells why (it wants
root, and the directory /run/sshd, which systemd makes when the service starts).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from shutil import which
from typing import Any

from penguindome.errors import ProcessError
from penguindome.plugin_tools import output, run, unknown

DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
UNITS = ("ssh.service", "sshd.service", "ssh.socket", "sshd.socket")
OUTSIDE = "203.0.113.1"
"""An address of documentation (RFC 5737), for Match blocks that are about addresses."""
USERS = ("root", "nobody")

SWITCHES = {
    "password_authentication": ("passwordauthentication",),
    "permit_empty_passwords": ("permitemptypasswords",),
    # The name until OpenSSH 8.6 is the second one. With PAM this asks for the password too.
    "keyboard_interactive_authentication": ("kbdinteractiveauthentication", "challengeresponseauthentication"),
    "public_key_authentication": ("pubkeyauthentication",),
    "x11_forwarding": ("x11forwarding",),
    "use_pam": ("usepam",),
}
FIELDS = ("permit_root_login", *SWITCHES, "ports", "listen_addresses")

Configuration = Mapping[str, list[str]]
"""Keyword (lower case) to the values that `sshd -T` prints for it."""


def parse_configuration(text: str) -> dict[str, list[str]]:
    """What `sshd -T` prints: a keyword and a value a line, some keywords more than once."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.strip().partition(" ")
        if keyword:
            found.setdefault(keyword.lower(), []).append(value)
    return found


def describe(configurations: Iterable[Configuration]) -> dict[str, Any]:
    """The fields of the report; the first configuration is root's."""
    configurations = list(configurations)
    root = configurations[0]
    fields: dict[str, Any] = {"permit_root_login": _root_login(root)}
    for name, keywords in SWITCHES.items():
        values = {_switch(configuration, keywords) for configuration in configurations}
        fields[name] = True if True in values else unknown if unknown in values else False
    fields["ports"] = sorted({int(value) for value in root.get("port", []) if value.isdigit()}) or unknown
    fields["listen_addresses"] = sorted(root.get("listenaddress", [])) or unknown
    return fields


def _root_login(configuration: Configuration) -> str:
    value = configuration.get("permitrootlogin", [unknown])[0]
    return "prohibit-password" if value == "without-password" else value


def _switch(configuration: Configuration, keywords: Iterable[str]) -> bool | str:
    for keyword in keywords:
        value = configuration.get(keyword, [""])[0]
        if value in {"yes", "no"}:
            return value == "yes"
    return unknown


def parse_units(text: str) -> dict[str, bool]:
    """Unit to whether it is active, out of `systemctl show --property=Id,ActiveState`."""
    found = {}
    for block in text.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in fields and "ActiveState" in fields:
            found[fields["Id"]] = fields["ActiveState"] in {"active", "reloading"}
    return found


def parse_socket(text: str) -> list[str]:
    """The addresses that `systemctl show --property=Listen` says systemd listens on in sshd's place."""
    return sorted(set(re.findall(r"^Listen=(\S+) \(Stream\)", text, re.MULTILINE)))


def is_listener(command_line: bytes) -> bool:
    """Whether a process, by its /proc/PID/cmdline, is the server that waits for connections, and no session of it."""
    text = command_line.replace(b"\0", b" ").decode(errors="replace").strip()
    if text.startswith("sshd: "):
        return "[listener]" in text
    words = text.split()
    return bool(words) and Path(words[0]).name == "sshd" and "-T" not in words and "-i" not in words


def apply_socket(report: dict[str, Any], addresses: list[str]) -> None:
    """With socket activation systemd decides where to listen, whatever sshd's own settings say."""
    ports = {int(port) for port in (address.rpartition(":")[2] for address in addresses) if port.isdigit()}
    if ports:
        report["ports"] = sorted(ports)
        report["listen_addresses"] = addresses


def ask(*command: str) -> str | None:
    """The output of a program; None where it is missing or fails."""
    try:
        return run(command, timeout=10)
    except ProcessError:
        return None


def ask_sshd(program: str) -> dict[str, Any]:
    """The fields that `sshd -T` can tell, or why it cannot."""
    configurations = []
    try:
        for user in USERS:
            text = run([program, "-T", "-C", f"user={user},host={OUTSIDE},addr={OUTSIDE}"], timeout=10)
            configurations.append(parse_configuration(text or ""))
    except ProcessError as error:
        return {**dict.fromkeys(FIELDS, unknown), "reason": error.message.replace(program, "sshd")}
    if "permitrootlogin" not in configurations[0]:
        return {**dict.fromkeys(FIELDS, unknown), "reason": "sshd -T does not print a configuration"}
    return describe(configurations)


def is_running(units: Mapping[str, bool], proc: Path) -> bool | str:
    """Whether a server waits for connections: as a unit of systemd, or as a process."""
    if any(units.values()):
        return True
    lines = []
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:  # noqa: PERF203 - processes end while one looks
            continue
    if any(is_listener(line) for line in lines):
        return True
    return False if any(lines) else unknown


def collect(proc: Path = Path("/proc")) -> dict[str, Any]:
    """The report of this machine."""
    program = which("sshd") or which("sshd", path=DIRECTORIES)
    if program is None:
        return {"installed": False, "running": False}
    units = parse_units(ask("systemctl", "show", "--property=Id,ActiveState", *UNITS) or "")
    report: dict[str, Any] = {"installed": True, "running": is_running(units, proc), **ask_sshd(program)}
    for unit, active in units.items():
        if active and unit.endswith(".socket"):
            apply_socket(report, parse_socket(ask("systemctl", "show", "--property=Listen", unit) or ""))
    return report


if __name__ == "__main__":
    output(collect())
