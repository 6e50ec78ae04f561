#!/usr/bin/env python3
"""The packages that are installed, by the first of dpkg, pacman and rpm that knows of any.

Names are unique. A package of another architecture than the machine's own carries its architecture in the name, as its
package manager writes it (`libc6:i386`, `glibc.i686`), and by itself; versions installed beside each other, as Fedora
keeps its kernels, are one entry.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

from penguindome.errors import ProcessError
from penguindome.plugin_tools import output, run, unknown

DPKG_FORMAT = r"${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
RPM_FORMAT = r"%{NAME}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\t%{ARCH}\n"
RPM_NATIVE = {"noarch", "(none)"}

Package = tuple[str, str, str]
"""Name, version and, where it is not the machine's own, architecture."""


def parse_dpkg(text: str, native: str) -> list[Package]:
    """What `dpkg-query` prints in DPKG_FORMAT; packages that were removed but left their settings are not installed."""
    found = []
    for line in text.splitlines():
        status, _, rest = line.partition("\t")
        fields = rest.split("\t")
        if len(fields) == 3 and len(status) >= 2 and status[1] not in "nc":
            name, version, architecture = fields
            foreign = bool(native) and architecture not in {native, "all"}
            found.append((f"{name}:{architecture}" if foreign else name, version, architecture if foreign else ""))
    return found


def parse_pacman(text: str) -> list[Package]:
    """What `pacman -Q` prints."""
    rows = (line.split() for line in text.splitlines())
    return [(row[0], row[1], "") for row in rows if len(row) == 2]


def parse_rpm(text: str, native: str) -> list[Package]:
    """What `rpm -qa` prints in RPM_FORMAT; imported keys, which rpm lists as packages, are left out."""
    found = []
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[0] != "gpg-pubkey":
            name, version, architecture = fields
            foreign = bool(native) and architecture not in RPM_NATIVE | {native}
            found.append((f"{name}.{architecture}" if foreign else name, version, architecture if foreign else ""))
    return found


def report(manager: str, packages: Iterable[Package]) -> dict[str, Any]:
    """The report, sorted by name, one entry a name."""
    entries: dict[str, dict[str, str]] = {}
    for name, version, architecture in sorted(packages):
        entry = entries.setdefault(name, {"name": name, "version": version})
        if version not in entry["version"].split(", "):
            entry["version"] += f", {version}"
        if architecture:
            entry["architecture"] = architecture
    return {"manager": manager, "packages": list(entries.values())}


def ask(*command: str) -> str:
    """The output of a program, empty where it is missing or fails."""
    try:
        return run(command, timeout=60) or ""
    except ProcessError:
        return ""


def from_dpkg() -> list[Package]:
    """Packages of Debian and its children."""
    return parse_dpkg(ask("dpkg-query", "-W", "-f", DPKG_FORMAT), ask("dpkg", "--print-architecture").strip())


def from_pacman() -> list[Package]:
    """Packages of Arch and its children."""
    return parse_pacman(ask("pacman", "-Q"))


def from_rpm() -> list[Package]:
    """Packages of Fedora, openSUSE and their like."""
    return parse_rpm(ask("rpm", "-qa", "--qf", RPM_FORMAT), platform.machine())


MANAGERS = {"dpkg": from_dpkg, "pacman": from_pacman, "rpm": from_rpm}


def collect() -> dict[str, Any] | str:
    """The report of this machine; "unknown" if no package manager knows of any package."""
    for manager, packages_of in MANAGERS.items():
        packages = packages_of()
        if packages:
            return report(manager, packages)
    return unknown


if __name__ == "__main__":
    output(collect())
