#!/usr/bin/env python3
"""Which updates wait: patches, security patches, a newer release, a reboot; and how old that knowledge is.

Nothing is changed, and no lock is taken that could stand in the way of somebody who installs something: apt only
simulates, pacman's database is left alone (`checkupdates` keeps a copy of its own), dnf answers from its cache.

To support another package manager, write a function that returns a `report`, or None on a machine that is not its own,
and add it to CHECKERS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from penguindome import cached_data, var_dir
from penguindome.errors import ProcessError
from penguindome.plugin_tools import output, run, unknown
from penguindome.times import utc_now

SYNC_INTERVAL = timedelta(hours=6)
"""How often Arch's mirrors are asked for new lists."""

Patch = dict[str, Any]


def report(
    manager: str,
    patches: Iterable[Patch] | None,
    *,
    release_upgrade: str | None,
    reboot_needed: bool | str,
    lists_updated_at: datetime | None,
    out_of_support: bool | str = unknown,
) -> dict[str, Any]:
    """What all checkers answer; `patches` is None where they cannot be listed."""
    listed = sorted(patches or (), key=lambda patch: patch["name"])
    security = {patch["security"] for patch in listed}
    return {
        "supported": True,
        "manager": manager,
        "patches": unknown if patches is None else listed,
        "pending": unknown if patches is None else len(listed),
        "security_pending": unknown
        if patches is None or unknown in security
        else sum(patch["security"] for patch in listed),
        "release_upgrade": release_upgrade,
        "reboot_needed": reboot_needed,
        "out_of_support": out_of_support,
        "lists_updated_at": lists_updated_at,
    }


def patch(name: str, installed: str, available: str, *, security: bool | str) -> Patch:
    """One patch as reported."""
    return {"name": name, "installed": installed, "available": available, "security": security}


# Debian and Ubuntu


def parse_apt_simulation(text: str) -> list[Patch]:
    """The packages that `apt-get --simulate dist-upgrade` would upgrade; new ones that come with them are left out."""
    found = {}
    for name, installed, available, origins in re.findall(
        r"^Inst (\S+) \[([^\]\s]+)\] \((\S+) (.*?) \[[^\]]*\]\)", text, re.MULTILINE
    ):
        found[name] = patch(name, installed, available, security=_is_security(origins))
    return list(found.values())


def parse_apt_list(text: str) -> list[Patch]:
    """The packages that `apt list --upgradable` prints."""
    rows = re.findall(r"^([^/\s]+)/(\S+) (\S+) (\S+) \[upgradable from: (\S+)\]", text, re.MULTILINE)
    return [
        patch(name, installed, available, security=_is_security(origins))
        for name, origins, available, _, installed in rows
    ]


def _is_security(origins: str) -> bool:
    """By the archive (`bookworm-security`, `jammy-apps-security`) or its owner (`Debian-Security`, `UbuntuESM`)."""
    words = re.split(r"[\s,]+", origins)
    return any(
        word.endswith("-security") or re.match(r"[^:/]*-security[:/]|UbuntuESM", word, re.IGNORECASE) for word in words
    )


def parse_release_upgrade(text: str) -> str | None:
    """The release that Ubuntu's update notifier offers in its file; None if it offers none."""
    match = re.search(r"New release '([^']+)'", text)
    return match[1] if match else None


def parse_debian_releases(text: str, version: str, today: date) -> tuple[str | None, bool | str]:
    """The newest release after `version` in Debian's debian.csv, if one is out, and whether `version` lost its support.

    Support lasts as long as Debian's own long term support.
    """
    rows = [line.split(",") for line in text.splitlines()]
    if not rows or "series" not in rows[0]:
        return unknown, unknown
    releases = [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    released = [row for row in releases if row.get("version") and (_day(row.get("release")) or date.max) <= today]
    current = next((row for row in released if row["version"] == version), None)
    if current is None:
        return unknown, unknown
    ends = [day for day in (_day(current.get("eol")), _day(current.get("eol-lts"))) if day]
    newest = max(released, key=lambda row: _numbers(row["version"]))
    newer = f"{newest['version']} ({newest['series']})" if _numbers(newest["version"]) > _numbers(version) else None
    return newer, (today > max(ends) if ends else unknown)


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text or "")
    except ValueError:
        return None


def kernel_is_outdated(running: str, installed: Iterable[str]) -> bool | str:
    """Whether a newer kernel of the running one's flavour is installed; "unknown" if there are none of that flavour."""
    flavour = _flavour(running)
    same = [release for release in installed if _flavour(release) == flavour]
    if not same:
        return unknown
    return running not in same or _numbers(max(same, key=_numbers)) > _numbers(running)


def _flavour(release: str) -> str:
    """What a kernel's name ends in: `-amd64`, `-generic`, `.fc40.x86_64` without its numbers."""
    return re.sub(r"\d+", "", re.sub(r"^[\d.]+(-\d[\d.]*)?|\+deb\d+", "", release))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def kernel_was_replaced(build: str, packaged: str) -> bool:
    """Whether the running kernel (`uname -v`) is an older build than Debian's package of the same name now is."""
    match = re.search(r"\bDebian (\S+)", build)
    return bool(match and packaged and match[1] != packaged)


def check_apt(root: Path, ask: Ask) -> dict[str, Any] | None:
    """Debian, Ubuntu and their children."""
    if not read(root / "var/lib/dpkg/status"):
        return None
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', read(root / "etc/os-release"), re.MULTILINE))
    release_upgrade, out_of_support = _debian_release(root, release)
    return report(
        "apt",
        _apt_patches(root, ask),
        release_upgrade=release_upgrade,
        reboot_needed=_debian_reboot(root, ask),
        lists_updated_at=_newest(
            [root / "var/lib/apt/periodic/update-success-stamp", root / "var/lib/apt/lists/partial"]
        ),
        out_of_support=out_of_support,
    )


APT_INPUTS = (
    "var/lib/dpkg/status",
    "var/lib/apt/lists",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d",
    "etc/apt/preferences",
    "etc/apt/preferences.d",
)


def _apt_patches(root: Path, ask: Ask) -> list[Patch] | None:
    """What apt would upgrade. To work it out takes seconds, so it is remembered until what it depends on changes."""
    inputs = [str(_newest([root / name, *(root / name).glob("*")])) for name in APT_INPUTS]
    remembered = cached_data("os_updates-apt", None, max_age="1d")
    if isinstance(remembered, dict) and remembered.get("inputs") == inputs:
        patches: list[Patch] | None = remembered["patches"]
        return patches
    patches = _ask_apt(ask)
    if patches is not None:
        cached_data("os_updates-apt", {"inputs": inputs, "patches": patches})
    return patches


def _ask_apt(ask: Ask) -> list[Patch] | None:
    # Packages on hold are told as well: somebody decided not to take them, and somebody else may want to know.
    text = ask("apt-get", "-q", "-s", "-o", "Debug::NoLocking=true", "--ignore-hold", "dist-upgrade")
    if text is not None and "Reading package lists" in text:
        return parse_apt_simulation(text)
    text = ask("apt", "list", "--upgradable")
    return parse_apt_list(text) if text is not None and "Listing" in text else None


def _debian_release(root: Path, release: Mapping[str, str]) -> tuple[str | None, bool | str]:
    offered = root / "var/lib/ubuntu-release-upgrader/release-upgrade-available"
    if offered.exists():
        return parse_release_upgrade(read(offered)), unknown
    if release.get("ID") == "debian":
        table = read(root / "usr/share/distro-info/debian.csv")
        return parse_debian_releases(table, release.get("VERSION_ID", ""), utc_now().date())
    return unknown, unknown


def _debian_reboot(root: Path, ask: Ask) -> bool | str:
    if (root / "run/reboot-required").exists():
        return True
    running, build = (ask("uname", "-r") or "").strip(), ask("uname", "-v") or ""
    packaged = ask("dpkg-query", "-W", "-f", "${Version}", f"linux-image-{running}")
    return kernel_was_replaced(build, packaged or "") or kernel_is_outdated(running, _kernels(root))


# Arch


def parse_pacman_updates(text: str, vulnerable: set[str] | None) -> list[Patch]:
    """What `checkupdates` or `pacman -Qu` print, given the packages that arch-audit names, or None without it."""
    rows = re.findall(r"^(\S+) (\S+) -> (\S+)", text, re.MULTILINE)
    return [
        patch(name, installed, available, security=unknown if vulnerable is None else name in vulnerable)
        for name, installed, available in rows
    ]


def parse_arch_audit(text: str) -> set[str]:
    """The packages that `arch-audit --upgradable --quiet` names, with or without the version that mends them."""
    return set(re.findall(r"^([\w@.+-]+?)(?:>=\S+)?$", text, re.MULTILINE))


def check_pacman(root: Path, ask: Ask) -> dict[str, Any] | None:
    """Arch and its children."""
    if not any((root / "var/lib/pacman/local").glob("*/desc")):
        return None
    audit = ask("arch-audit", "--upgradable", "--quiet")
    text, updated_at = _arch_updates(root, ask)
    running = (ask("uname", "-r") or "").strip()
    modules = root / "usr/lib/modules"
    return report(
        "pacman",
        None if text is None else parse_pacman_updates(text, None if audit is None else parse_arch_audit(audit)),
        release_upgrade=None,  # Arch has no releases
        reboot_needed=not (modules / running).is_dir() if running and modules.is_dir() else unknown,
        lists_updated_at=updated_at,
        out_of_support=False,
    )


def _arch_updates(root: Path, ask: Ask) -> tuple[str | None, datetime | None]:
    """What waits, and as of when: by checkupdates with fresh lists, or with the last ones, or by pacman's own."""
    copy = ("env", f"CHECKUPDATES_DB={Path(var_dir) / 'os_updates-checkupdates'}", "checkupdates")
    synced_at = cached_data("os_updates-synced", None, max_age=SYNC_INTERVAL)
    text = ask(*copy, *(("--nosync",) if synced_at else ()), ok_codes=(0, 2))  # 2: nothing waits
    if text is not None:
        return text, synced_at or cached_data("os_updates-synced", utc_now())
    # 1: nothing waits, or it failed; without lists it would say the same.
    updated_at = _newest((root / "var/lib/pacman/sync").glob("*.db"))
    return (ask("pacman", "-Qu", ok_codes=(0, 1)) if updated_at else None), updated_at


# Fedora


def parse_check_update(text: str, installed: Mapping[str, str], advised: set[str] | None) -> list[Patch]:
    """What `dnf --quiet check-update` prints: name.architecture, version, repository, which old versions may wrap.

    `advised` are the packages that advisories about security name, or None if that is not known.
    """
    table, *_ = re.split(r"^Obsoleting [Pp]ackages", text, maxsplit=1, flags=re.MULTILINE)
    words = table.split()
    rows = [words[start : start + 3] for start in range(0, len(words), 3)]
    return [
        patch(name, installed.get(name, unknown), available, security=unknown if advised is None else name in advised)
        for name, available, _ in (row for row in rows if len(row) == 3)
        if "." in name and available[0].isdigit()
    ]


def parse_advisories(text: str) -> set[str]:
    """The packages (name.architecture) that `dnf updateinfo list --security` names."""
    return {f"{match[1]}.{match[2]}" for match in map(_FULL_NAME.fullmatch, text.split()) if match}


_FULL_NAME = re.compile(r"(\S+)-[^-\s]+-[^-\s]+\.(\w+)")
"""name-version-release.architecture"""


def check_dnf(root: Path, ask: Ask) -> dict[str, Any] | None:
    """Fedora and its like, with dnf 4 and 5."""
    if not any((root / place).is_dir() for place in ("var/lib/rpm", "usr/lib/sysimage/rpm")):
        return None
    rows = ask("rpm", "-qa", "--qf", r"%{NAME}.%{ARCH}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n")
    text = ask("dnf", "--quiet", "--cacheonly", "check-update", ok_codes=(0, 100))  # 100: updates wait
    if not rows or text is None:
        return None
    installed = dict(line.split("\t", 1) for line in sorted(rows.splitlines()) if "\t" in line)
    advisories = ask("dnf", "--quiet", "--cacheonly", "updateinfo", "list", "--security")
    patches = parse_check_update(text, installed, None if advisories is None else parse_advisories(advisories))
    caches = [*(root / "var/cache/dnf").glob("*/repodata"), *(root / "var/cache/libdnf5").glob("*/repodata")]
    return report(
        "dnf",
        patches,
        release_upgrade=unknown,
        reboot_needed=_fedora_reboot(root, ask),
        lists_updated_at=_newest(caches),
    )


def parse_needs_restarting(text: str) -> bool | str:
    """What `dnf needs-restarting --reboothint` says."""
    if re.search(r"reboot is required|reboot is necessary", text, re.IGNORECASE):
        return True
    return False if re.search(r"should not be necessary|no reboot", text, re.IGNORECASE) else unknown


def _fedora_reboot(root: Path, ask: Ask) -> bool | str:
    text = ask("dnf", "--quiet", "--cacheonly", "needs-restarting", "--reboothint", ok_codes=(0, 1))
    said = parse_needs_restarting(text or "")
    return kernel_is_outdated((ask("uname", "-r") or "").strip(), _kernels(root)) if said == unknown else said


# All


def _kernels(root: Path) -> list[str]:
    """The releases of the kernels that are installed to be booted."""
    return [path.name.partition("-")[2] for path in (root / "boot").glob("vmlinuz-[0-9]*")]


def _newest(paths: Iterable[Path]) -> datetime | None:
    times = []
    for path in paths:
        try:
            times.append(datetime.fromtimestamp(int(path.stat().st_mtime), timezone.utc))
        except OSError:  # noqa: PERF203 - which of them are there differs
            continue
    return max(times, default=None)


def read(path: Path) -> str:
    """The text of a file, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def ask_system(*command: str, ok_codes: tuple[int, ...] = (0,)) -> str | None:
    """The output of a program; None where it is missing or fails."""
    try:
        return run(command, timeout=50, ok_codes=ok_codes)
    except ProcessError:
        return None


Ask = Callable[..., "str | None"]
CHECKERS: tuple[Callable[[Path, Ask], dict[str, Any] | None], ...] = (check_apt, check_pacman, check_dnf)


def collect(root: Path = Path("/"), ask: Ask = ask_system) -> dict[str, Any]:
    """The report of this machine, by the first checker that knows it."""
    for check in CHECKERS:
        answer = check(root, ask)
        if answer is not None:
            return answer
    return {"supported": False, "manager": unknown}


if __name__ == "__main__":
    output(collect())
