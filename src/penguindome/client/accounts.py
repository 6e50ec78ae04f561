"""The people of this machine, as /etc/passwd and login.defs(5) have them, and which of their homes may be deleted.

Only what stands in /etc/passwd itself counts: accounts of a directory service are not this machine's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from penguindome.client.mounts import is_below

SYSTEM_DIRECTORIES = (
    "/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/opt", "/proc", "/root",
    "/run", "/sbin", "/snap", "/sys", "/usr", "/var",
)  # fmt: skip
# Where systems whose root cannot be written have their homes.
HOMES_OF_IMAGES = "/var/home"
NOT_PEOPLE = frozenset({"nobody", "nfsnobody", "nogroup"})
DEFAULT_RANGE = (1000, 60000)
NOBODY = 65534

_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,255}\$?")


@dataclass(frozen=True)
class Account:
    """One line of /etc/passwd."""

    name: str
    uid: int
    home: str


def read_accounts(etc: Path) -> list[Account]:
    """All local accounts; what is no account, as the `+` of NIS, is left out. Raises OSError."""
    found = []
    # People write into their line with chfn(1), and Unicode has other ends of lines.
    for line in (etc / "passwd").read_bytes().decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) == 7 and _NAME.fullmatch(fields[0]) and fields[2].isascii() and fields[2].isdigit():
            found.append(Account(fields[0], int(fields[2]), fields[5]))
    return found


def people(accounts: Iterable[Account], numbers: tuple[int, int]) -> list[Account]:
    """Those of human beings, by the range of their numbers."""
    lowest, highest = numbers
    return [
        account
        for account in accounts
        if max(lowest, 1) <= account.uid <= highest and account.uid != NOBODY and account.name not in NOT_PEOPLE
    ]


def range_of_people(etc: Path) -> tuple[int, int]:
    """UID_MIN and UID_MAX of login.defs(5), or what they are where nothing says so."""
    values = dict(zip(("UID_MIN", "UID_MAX"), DEFAULT_RANGE, strict=True))
    try:
        text = (etc / "login.defs").read_text("utf-8", "replace")
    except OSError:
        return DEFAULT_RANGE
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] in values:
            try:
                values[words[0]] = int(words[1], 0)
            except ValueError:
                continue
    return values["UID_MIN"], values["UID_MAX"]


def subordinate_numbers(etc: Path, name: str) -> list[range]:
    """The user numbers that an account may give to its containers, see subuid(5)."""
    try:
        text = (etc / "subuid").read_text("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] == name and fields[1].isdigit() and fields[2].isdigit():
            start = int(fields[1])
            if start > NOBODY:
                found.append(range(start, start + int(fields[2])))
    return found


def refusal(account: Account, home: str, accounts: Sequence[Account], humans: Sequence[Account]) -> str | None:
    """Why the home of an account must not be deleted; None when it may. `home` is where its links lead."""
    if not account.home.startswith("/"):
        return "its path is not absolute"
    if home.count("/") < 2 or home == HOMES_OF_IMAGES:
        return f"{home} is no home of one person"
    if not is_below(home, HOMES_OF_IMAGES) and any(is_below(home, place) for place in SYSTEM_DIRECTORIES):
        return f"{home} is a directory of the system"
    for other in accounts:
        if other not in humans and other.home.startswith("/") and is_below(os.path.realpath(other.home), home):
            return f"{home} is the home of {other.name} too, which stays"
    return None
