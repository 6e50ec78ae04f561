#!/usr/bin/env python3
"""What runs here: distribution, kernel, architecture, and what kind of machine it is."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from penguindome.errors import ProcessError
from penguindome.plugin_tools import output, run, unknown

CHASSIS = {
    **dict.fromkeys(("3", "4", "5", "6", "7", "13", "15", "16", "24", "35", "36"), "desktop"),
    **dict.fromkeys(("8", "9", "10", "14", "31"), "laptop"),
    **dict.fromkeys(("30", "32"), "tablet"),
    **dict.fromkeys(("17", "23", "25", "28", "29"), "server"),
    "11": "handset",
}
"""Kinds of machine by the SMBIOS chassis type."""

HYPERVISORS = {
    "qemu": "qemu",
    "kvm": "kvm",
    "vmware": "vmware",
    "virtualbox": "oracle",
    "innotek": "oracle",
    "xen": "xen",
    "amazon ec2": "amazon",
    "parallels": "parallels",
    "bhyve": "bhyve",
    "google compute engine": "google",
    "microsoft corporation virtual machine": "microsoft",
}
"""Words in the machine's maker and model, and what systemd-detect-virt calls them."""

CONTAINER_MARKS = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
NOT_FILLED_IN = {"", "none", "default string", "system manufacturer", "system product name", "to be filled by o.e.m."}


def parse_os_release(text: str) -> dict[str, str]:
    """The variables of an os-release file, without their quotes; lines that are no assignment are left out."""
    variables = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.isidentifier():
            try:
                variables[name] = "".join(shlex.split(value))
            except ValueError:
                variables[name] = value
    return variables


def describe_distribution(variables: Mapping[str, str]) -> dict[str, Any]:
    """Distribution, version, codename (None where it has none) and full name, out of os-release."""
    if "ID" not in variables and "NAME" not in variables:
        return dict.fromkeys(("distribution", "version", "codename", "name"), unknown)
    return {
        "distribution": variables.get("ID") or variables["NAME"].lower(),
        # Debian testing has no version; Arch has the build "rolling".
        "version": variables.get("VERSION_ID") or variables.get("BUILD_ID") or unknown,
        "codename": variables.get("VERSION_CODENAME") or variables.get("UBUNTU_CODENAME"),
        "name": variables.get("PRETTY_NAME") or variables.get("NAME") or variables["ID"],
    }


def parse_boot_time(stat: str) -> datetime | None:
    """When the machine was started, out of /proc/stat."""
    for line in stat.splitlines():
        name, _, value = line.partition(" ")
        if name == "btime" and value.strip().isdigit():
            return datetime.fromtimestamp(int(value), timezone.utc)
    return None


def parse_detect_virt(text: str | None) -> str | None:
    """The one word that systemd-detect-virt prints, "none" on hardware; None if it printed something else."""
    word = (text or "").strip()
    return word if word and len(word) < 40 and word.replace("-", "").isalnum() else None


def guess_virtualization(dmi: Mapping[str, str], cpuinfo: str, container: str | None) -> str:
    """As systemd-detect-virt would say, out of the SMBIOS texts, /proc/cpuinfo and a container's marks."""
    if container:
        return container
    texts = " ".join(dmi.get(name, "") for name in ("sys_vendor", "product_name", "bios_vendor")).lower()
    for words, name in HYPERVISORS.items():
        if words in texts:
            return name
    flags = {word for line in cpuinfo.splitlines() if line.startswith("flags") for word in line.split()}
    if "hypervisor" in flags:
        return "vm-other"
    return "none" if dmi.get("sys_vendor") and flags else unknown


def machine_type(virtualization: str, dmi: Mapping[str, str], device_tree: str) -> str:
    """Whether this is a "laptop", "desktop", "server", "tablet", ... or "virtual"; "unknown" where nothing says."""
    if virtualization not in {"none", unknown}:
        return "virtual"
    return CHASSIS.get(dmi.get("chassis_type", ""), device_tree or unknown)


def describe_maker(dmi: Mapping[str, str]) -> dict[str, str]:
    """Maker and model, as far as the maker has filled them in."""
    fields = {"manufacturer": "sys_vendor", "model": "product_name"}
    texts = {name: dmi.get(key, "") for name, key in fields.items()}
    return {name: text for name, text in texts.items() if text.lower() not in NOT_FILLED_IN}


def read(path: Path) -> str:
    """The text of a file without NUL bytes and white space around it, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def find_container(root: Path) -> str | None:
    """What kind of container this is, by the marks that container engines leave."""
    for word in read(root / "proc/1/environ").split():
        if word.startswith("container="):
            return word.partition("=")[2] or None
    return next((name for mark, name in CONTAINER_MARKS.items() if (root / mark[1:]).exists()), None)


def detect_virtualization(dmi: Mapping[str, str], root: Path) -> str:
    """What systemd-detect-virt says, or else what can be seen."""
    try:
        word = parse_detect_virt(run(["systemd-detect-virt"], timeout=10, ok_codes=(0, 1)))
    except ProcessError:
        word = None
    return word or guess_virtualization(dmi, read(root / "proc/cpuinfo"), find_container(root))


def collect(root: Path = Path("/")) -> dict[str, Any]:
    """The report of this machine; `root` is where its files lie."""
    release = read(root / "etc/os-release") or read(root / "usr/lib/os-release")
    names = ("sys_vendor", "product_name", "bios_vendor", "chassis_type")
    dmi = {name: read(root / "sys/class/dmi/id" / name) for name in names}
    virtualization = detect_virtualization(dmi, root)
    system = os.uname()
    return {
        **describe_distribution(parse_os_release(release)),
        **describe_maker(dmi),
        "kernel": system.release,
        "architecture": system.machine,
        "virtualization": virtualization,
        "machine_type": machine_type(virtualization, dmi, read(root / "proc/device-tree/chassis-type")),
        "boot_at": parse_boot_time(read(root / "proc/stat")),
    }


if __name__ == "__main__":
    output(collect())
