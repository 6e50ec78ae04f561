"""A release and a publication as root would have made them, small and by hand, for tests of how they are served."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from penguindome.release import PackageFile, build
from penguindome.times import utc_now
from web_server import Server


def publish(repository: Path, number: int, files: Mapping[str, bytes]) -> Path:
    """Make publication `number` of these files, and the current one."""
    tree = repository / "publications" / str(number)
    for name, contents in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    new = repository / "current.new"
    new.symlink_to(f"publications/{number}")
    new.rename(repository / "current")
    return tree


def release(server: Server, number: int, *, size: int = 1000, **fields: Any) -> dict[str, bytes]:
    """Make release `number`, for all unless `fields` of its document say otherwise; the contents of its files by
    format.
    """
    version = f"{number}+0.1.0"
    names = {
        "deb": f"penguindome-client_{version}_amd64.deb",
        "pacman": f"penguindome-client-1:{version}-1-x86_64.pkg.tar.zst",
        "tar": f"penguindome-client-{version}.tar",
    }
    contents = {form: os.urandom(size + place) for place, form in enumerate(names)}
    directory = server.paths.releases / str(number)
    directory.mkdir()
    packages = {
        form: PackageFile(name, hashlib.sha256(contents[form]).hexdigest(), len(contents[form]))
        for form, name in names.items()
    }
    now = utc_now()
    description = build(
        release=number, version=version, machine="x86_64", issued_at=now, expires_at=now + timedelta(days=300),
        manifest_sha256="0" * 64, packages=packages,
    )  # fmt: skip
    (directory / "release.json").write_bytes(description)
    for form, name in names.items():
        (directory / name).write_bytes(contents[form])
    for form, ending in (("pacman", ".sig"), ("tar", ".asc")):
        contents[form + ending] = f"signature of {form} {number}".encode()
        (directory / (names[form] + ending)).write_bytes(contents[form + ending])
    document = {
        "_id": f"{number:09d}", "release": number, "created_at": now, "created_by": "root", "message": "",
        "version": version, "content_of": number, "stage": {"percent": 0, "clients": []}, "promoted_at": now,
        "halted_at": None, "halted_by": None, "halted_reason": None, "pruned_at": None, **fields,
    }  # fmt: skip
    server.store.collection("releases").insert(document)
    return contents
