"""Simulated devices: what a laptop would report, decided by a seed, changing a little from report to report."""

from __future__ import annotations

import random
import uuid
from datetime import datetime, timedelta
from typing import Any

from penguindome.openpgp import DeviceKey

DISTRIBUTIONS = (
    ("debian", "12", "bookworm", "Debian GNU/Linux 12 (bookworm)", "6.1.0-40-amd64", "apt", "dpkg"),
    ("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)", "6.12.48+deb13-amd64", "apt", "dpkg"),
    ("ubuntu", "24.04", "noble", "Ubuntu 24.04.3 LTS", "6.8.0-85-generic", "apt", "dpkg"),
    ("fedora", "43", "", "Fedora Linux 43 (Workstation Edition)", "6.17.7-300.fc43.x86_64", "dnf", "rpm"),
    ("arch", "", "", "Arch Linux", "6.17.8-arch1-1", "pacman", "pacman"),
)
PENDING_UPDATES = 90  # gives a report of about 15 kB
PACKAGES = 2500  # gives a list of about 150 kB
CHANGES_A_REPORT = 4
VOLUMES = (("root", "/", "filesystem"), ("home", "/home", "filesystem"), ("swap", "[SWAP]", "swap"))


class Device:
    """One simulated laptop. The same seed and number give the same reports (its key is always new).

    `with_packages` adds a package list of about 150 kB to the 10 to 20 kB that the other plugins report.
    """

    def __init__(self, number: int, seed: int, *, with_packages: bool = False) -> None:
        self.random = random.Random(f"{seed}:{number}")
        self.hostname = f"laptop-{seed}-{number:05d}"
        self.machine_id = f"{self.random.getrandbits(128):032x}"
        self.key = DeviceKey.generate(self.hostname)
        self.exchange_token: str | None = None
        self.manifest_sha256: str | None = None
        self.sequence = 0
        self.plugins = self._first_report()
        if with_packages:
            self.plugins["packages"] = self._packages()

    def next_report(self, now: datetime) -> dict[str, Any]:
        """The `data` of the next `submit` but for token and `sent_at`: at least three fields have changed."""
        self.sequence += 1
        if self.sequence > 1:
            self._change(now)
        return {
            "hostname": self.hostname,
            "request": "submit",
            "report_id": str(uuid.UUID(int=self.random.getrandbits(128), version=4)),
            "sequence": self.sequence,
            "collected_at": now - timedelta(seconds=self.random.randrange(1, 20)),
            "plugins": self.plugins,
            "commands": {},
        }

    def _first_report(self) -> dict[str, Any]:
        pick = self.random
        distribution = pick.choice(DISTRIBUTIONS)
        self.package_manager = distribution[6]
        return {
            "os_info": dict(
                zip(("distribution", "version", "codename", "name", "kernel"), distribution[:5], strict=True),
                architecture="x86_64",
                virtualization="none",
            ),
            "ip_addresses": self._addresses(),
            "network_devices": self._network_devices(),
            "firewall": {
                "active": pick.random() < 0.8,
                "backends": [
                    {"name": name, "active": pick.random() < 0.8, "input_policy": "drop", "rules": pick.randrange(60)}
                    for name in ("iptables", "ip6tables", "nftables", "ufw")
                ],
            },
            "hd_encryption": self._encryption(),
            "sshd": {
                "installed": True,
                "running": pick.random() < 0.5,
                "permit_root_login": pick.choice(["no", "prohibit-password", "yes"]),
                "password_authentication": pick.random() < 0.3,
                "permit_empty_passwords": False,
                "ports": [22],
                "listen_addresses": ["0.0.0.0:22", "[::]:22"],
            },
            "os_updates": self._updates(distribution[5]),
        }

    def _addresses(self) -> list[dict[str, Any]]:
        pick = self.random
        return [{"interface": "lo", "address": "127.0.0.1", "prefix": 8, "family": "ipv4", "scope": "host"}] + [
            {"interface": f"wlp{n}s0", "address": f"10.{pick.randrange(256)}.{pick.randrange(256)}.{n + 2}",
             "prefix": 24, "family": "ipv4", "scope": "global"}
            for n in range(3)
        ]  # fmt: skip

    def _network_devices(self) -> list[dict[str, Any]]:
        pick = self.random
        return [
            {"name": f"wlp{n}s0", "mac": ":".join(f"{pick.randrange(256):02x}" for _ in range(6)),
             "kind": "wifi", "up": True, "driver": "iwlwifi"}
            for n in range(3)
        ]  # fmt: skip

    def _encryption(self) -> dict[str, Any]:
        encrypted = self.random.random() < 0.85
        volumes = [
            {"path": f"/dev/mapper/{name}", "mountpoints": [mount], "kind": kind, "encrypted": encrypted,
             "method": "luks2" if encrypted else "none", "removable": False}
            for name, mount, kind in VOLUMES
        ]  # fmt: skip
        return {"encrypted": encrypted, "volumes": volumes}

    def _updates(self, manager: str) -> dict[str, Any]:
        pick = self.random
        patches = [
            {"name": f"lib{_word(pick)}{n}", "installed": _version(pick), "available": _version(pick),
             "security": pick.random() < 0.2}
            for n in range(PENDING_UPDATES + pick.randrange(40))
        ]  # fmt: skip
        return {
            "supported": True,
            "manager": manager,
            "patches": patches,
            "pending": len(patches),
            "security_pending": sum(patch["security"] for patch in patches),
            "release_upgrade": None,
            "reboot_needed": pick.random() < 0.2,
            "lists_updated_at": None,
        }

    def _packages(self) -> dict[str, Any]:
        pick = self.random
        return {
            "manager": self.package_manager,
            "packages": [{"name": f"{_word(pick)}-{n}", "version": _version(pick)} for n in range(PACKAGES)],
        }

    def _change(self, now: datetime) -> None:
        pick = self.random
        updates = self.plugins["os_updates"]
        for patch in pick.sample(updates["patches"], CHANGES_A_REPORT - 1):
            patch["available"] = _version(pick)
        updates["lists_updated_at"] = now
        address = pick.choice(self.plugins["ip_addresses"][1:])
        address["address"] = f"10.{pick.randrange(256)}.{pick.randrange(256)}.{pick.randrange(2, 255)}"
        if pick.random() < 0.02:
            self.plugins["firewall"]["active"] = not self.plugins["firewall"]["active"]
        if "packages" in self.plugins:
            pick.choice(self.plugins["packages"]["packages"])["version"] = _version(pick)


def _word(pick: random.Random) -> str:
    return "".join(pick.choice("aeioubcdfgklmnprstvz") for _ in range(pick.randrange(4, 14)))


def _version(pick: random.Random) -> str:
    upstream = f"{pick.randrange(20)}.{pick.randrange(100)}.{pick.randrange(100)}"
    return f"{upstream}-{pick.randrange(9)}+deb{pick.randrange(14)}u1"
