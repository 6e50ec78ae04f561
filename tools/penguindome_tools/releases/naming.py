"""Versions and file names of a release's packages, such that dpkg and pacman order them by the release's number.

The epoch of 1 puts every release above every base package, which has none; after it comes the number, which both
compare as a number.
"""

from __future__ import annotations

import re

from penguindome.release import InvalidRelease

PACKAGE = "penguindome-client"
EPOCH = 1
PACMAN_RELEASE = 1
"""What makepkg calls pkgrel."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "x86_64": "x86_64", "aarch64": "aarch64"}
"""Architecture of a package, in Debian's or Arch's words -> what `uname -m` says there."""

_BASE = re.compile(r"[0-9][A-Za-z0-9.~_]{0,59}")
_RELEASED = re.compile(r"([1-9][0-9]{0,17})\+(.*)")


def version(number: int, base: str) -> str:
    """What a release and its packages are called: `5+0.1.0`."""
    return f"{number}+{base}"


def base_of(text: str) -> str:
    """The base version in the version of a client's package of Debian or Arch, be it a base package or a release's.

    `0.1.0-1`, `1:5+0.1.0` and `1:5+0.1.0-1` are all of `0.1.0`. Raises InvalidRelease.
    """
    upstream = text.partition(":")[2] or text
    upstream = upstream.rpartition("-")[0] or upstream
    released = _RELEASED.fullmatch(upstream)
    base = released[2] if released else upstream
    if not _BASE.fullmatch(base):
        raise InvalidRelease(f"{text[:80]!r} is no version that a release can be made of")
    return base


def deb_version(number: int, base: str) -> str:
    """`Version:` of the Debian package."""
    return f"{EPOCH}:{version(number, base)}"


def pacman_version(number: int, base: str) -> str:
    """`pkgver` of the package of Arch."""
    return f"{EPOCH}:{version(number, base)}-{PACMAN_RELEASE}"


def machine_of(architecture: str) -> str:
    """What `uname -m` says where packages of this architecture fit. Raises InvalidRelease."""
    if architecture not in MACHINES:
        raise InvalidRelease(f"{architecture[:40]!r} is no architecture that a release can be made for")
    return MACHINES[architecture]


def file_name(kind: str, number: int, base: str, architecture: str) -> str:
    """The name of the package of a kind: as dpkg-deb and makepkg would choose it; of the tar the same everywhere."""
    name = version(number, base)
    return {
        "deb": f"{PACKAGE}_{name}_{architecture}.deb",
        "pacman": f"{PACKAGE}-{EPOCH}:{name}-{PACMAN_RELEASE}-{architecture}.pkg.tar.zst",
        "tar": f"{PACKAGE}-{name}.tar",
    }[kind]
