"""What a Debian with pacman lacks to be an Arch, as far as our packages see it: small packages that stand in for Arch's
own, with the hooks by which systemd reacts to a transaction.

What this cannot show: other versions of Python, systemd and pacman than Debian's, and Arch's own packages.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from containers import Machine
from roots import Finished, Root

HOOK = """\
[Trigger]
Type = Path
Operation = Install
Operation = Upgrade
{more}Target = {target}

[Action]
Description = {name}...
When = PostTransaction
Exec = {command}
"""
RELOAD = "/bin/sh -c '[ ! -d /run/systemd/system ] || systemctl daemon-reload'"
HOOKS = {
    "20-systemd-sysusers": ("usr/lib/sysusers.d/*.conf", "/usr/bin/systemd-sysusers", ""),
    "30-systemd-tmpfiles": ("usr/lib/tmpfiles.d/*.conf", "/usr/bin/systemd-tmpfiles --create", ""),
    "30-systemd-daemon-reload-system": ("usr/lib/systemd/system/*", RELOAD, "Operation = Remove\n"),
}
STAND_INS = ("bash", "gnupg", "iproute2", "openssl", "zstd")


def package(
    directory: Path, name: str, version: str, files: Mapping[str, str] | None = None, provides: str = ""
) -> Path:
    """A package of text files, for any machine; it says that Debian has what Arch's package of that name brings."""
    info = [
        f"pkgname = {name}",
        f"pkgver = {version}-1",
        "pkgdesc = stands in for Arch's own",
        "arch = any",
        "size = 0",
    ]
    info += [f"provides = {provides}"] if provides else []
    target = directory / f"{name}-{version}-1-any.pkg.tar"
    with tarfile.open(target, "w") as tar:
        for path, text in {".PKGINFO": "\n".join(info) + "\n", **(files or {})}.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text.encode()), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    return target


def python(directory: Path, version: str) -> Path:
    """Stands in for the package `python`, whose upgrades start our hooks. The program itself is Debian's."""
    return package(directory, "python", version)


def stand_ins(directory: Path) -> list[Path]:
    """All that our packages depend on."""
    hooks = {
        f"usr/share/libalpm/hooks/{name}.hook": HOOK.format(name=name, target=target, command=command, more=more)
        for name, (target, command, more) in HOOKS.items()
    }
    others = [package(directory, name, "1", provides="sh" if name == "bash" else "") for name in STAND_INS]
    return [python(directory, "3.11.2"), package(directory, "systemd", "252", hooks), *others]


def pacman(where: Root | Machine, *words: str | Path) -> Finished:
    """`pacman --noconfirm WORDS`. Files of the host that are named are copied into the tree first."""
    root = where.root if isinstance(where, Machine) else where
    arguments = [root.take(word) if isinstance(word, Path) else word for word in words]
    return where.run("pacman", "--noconfirm", *arguments)
