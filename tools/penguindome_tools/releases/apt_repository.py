"""The apt repository of a publication: pool, Packages, by-hash, Release, InRelease.

The stanzas are written here rather than by apt-ftparchive: there is one package to name, and a server on Arch then
needs nothing of Debian. Format: https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import gzip
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from penguindome.files import ensure_directory, write_atomically
from penguindome_server.repository_index import date_text
from penguindome_tools.releases.package_contents import deb_control
from penguindome_tools.releases.signer import Signer

SUITE = "stable"
COMPONENT = "main"
DISTRIBUTION = f"dists/{SUITE}"
BY_HASH = "by-hash/SHA256"

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """What Debian calls a machine like this one: where no package says it."""
    return _MACHINES.get(platform.machine(), platform.machine())


def write_apt(
    directory: Path,
    packages: Sequence[Path],
    signer: Signer,
    *,
    signed_at: datetime,
    expires_at: datetime,
    earlier: Sequence[Path] = (),
) -> None:
    """Make a repository in the empty `directory`, whose index names `packages` (in its `pool/main/` already).

    `earlier` are repositories whose indices can still be fetched by their hash. Raises PenguinDomeError, OSError.
    """
    stanzas = [(deb_control(package), package) for package in packages]
    machines = sorted({fields["Architecture"] for fields, _ in stanzas} or {architecture()})
    release = directory / DISTRIBUTION
    listed: dict[str, bytes] = {}
    for machine in machines:
        place = f"{COMPONENT}/binary-{machine}"
        text = "\n".join(_stanza(fields, package) for fields, package in stanzas if fields["Architecture"] == machine)
        plain = text.encode()
        indices = {"Packages": plain, "Packages.gz": gzip.compress(plain, mtime=0)}
        _write_indices(release / place, indices, [older / DISTRIBUTION / place for older in earlier])
        listed |= {f"{place}/{name}": data for name, data in indices.items()}
    text = _release(listed, machines, signer.fingerprint, signed_at=signed_at, expires_at=expires_at)
    data = text.encode()
    write_atomically(release / "Release", data, mode=0o644)
    write_atomically(release / "Release.gpg", signer.armoured(data), mode=0o644)
    write_atomically(release / "InRelease", signer.text(data), mode=0o644)


def _stanza(fields: Mapping[str, str], package: Path) -> str:
    contents = package.read_bytes()
    more = {
        "Filename": f"pool/{COMPONENT}/{package.name}",
        "Size": str(len(contents)),
        "SHA256": sha256(contents).hexdigest(),
    }
    return "".join(f"{name}: {value}\n" for name, value in {**fields, **more}.items())


def _write_indices(place: Path, indices: Mapping[str, bytes], earlier: Sequence[Path]) -> None:
    by_hash = place / BY_HASH
    ensure_directory(by_hash)
    for older in earlier:
        for index in (older / BY_HASH).glob("*"):
            if not (by_hash / index.name).exists():
                os.link(index, by_hash / index.name)
    for name, data in indices.items():
        write_atomically(place / name, data, mode=0o644)
        hashed = by_hash / sha256(data).hexdigest()
        if not hashed.exists():
            os.link(place / name, hashed)


def _release(
    listed: Mapping[str, bytes],
    machines: Sequence[str],
    fingerprint: str,
    *,
    signed_at: datetime,
    expires_at: datetime,
) -> str:
    fields = {
        "Origin": "PenguinDome",
        "Label": "PenguinDome",
        "Suite": SUITE,
        "Codename": SUITE,
        "Date": date_text(signed_at),
        "Valid-Until": date_text(expires_at),
        "Acquire-By-Hash": "yes",
        "Architectures": " ".join(machines),
        "Components": COMPONENT,
        "Description": "Packages of this site's PenguinDome clients",
        "Signed-By": fingerprint,
    }
    lines = [f"{name}: {value}" for name, value in fields.items()]
    lines += ["SHA256:", *(f" {sha256(data).hexdigest()} {len(data)} {name}" for name, data in sorted(listed.items()))]
    return "\n".join(lines) + "\n"
