"""Installed packages: kept in a collection of their own, and changed by what differs.

The output `{"manager": "dpkg", "packages": [{"name", "version", "architecture"?}, ...]}` of the plugin `packages`
is 40 to 150 kB; in the client's document only `{"manager", "count"}` stays, and a digest by which an unchanged list
is recognised without reading the old one.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Iterator
from typing import Any, TypeGuard

from penguindome_server.compare import Change, same
from penguindome_server.store import Document

PLUGIN = "packages"

Groups = dict[str, list[Document]]


def is_list(output: Any) -> TypeGuard[Document]:
    """Whether this is a list of packages; other output ("unknown", a failure, nonsense) stays in the client's document
    as it is.
    """
    if not isinstance(output, dict) or not isinstance(output.get("packages"), list):
        return False
    return all(isinstance(package, dict) and isinstance(package.get("name"), str) for package in output["packages"])


def summary(output: Document) -> Document:
    """What stays in the client's document."""
    manager = output.get("manager")
    return {"manager": manager if isinstance(manager, str) else None, "count": len(output["packages"])}


def digest(output: Document) -> str:
    """Equal for equal lists. Lists that differ in order only may have different digests: the comparison then finds
    nothing.
    """
    try:
        data = marshal.dumps(output["packages"], 2)
    except ValueError:  # datetimes
        data = repr(output["packages"]).encode(errors="surrogatepass")
    return hashlib.sha256(data).hexdigest()[:32]


def delta(old: Document | None, output: Document) -> Document:
    """What to do to the stored document so that it holds the packages of `output`: `{"manager", "set": [package...],
    "unset": [key...]}`.
    """
    before, after = _groups(old["packages"] if old else ()), _groups(output["packages"])
    return {
        "manager": summary(output)["manager"],
        "set": [package for key, group in after.items() if not same(before.get(key), group) for package in group],
        "unset": [key for key in before if key not in after],
    }


def changes(old: Document, output: Document) -> Iterator[Change]:
    """Rows for the trail: `packages.NAME` (or `packages.NAME:ARCHITECTURE`) with the versions before and after."""
    before, after = _groups(old["packages"]), _groups(output["packages"])
    for key, group in before.items():
        if key not in after:
            yield Change(f"packages.{key}", "removed", old=_versions(group))
        elif _versions(group) != _versions(after[key]):
            yield Change(f"packages.{key}", "changed", _versions(group), _versions(after[key]))
    for key, group in after.items():
        if key not in before:
            yield Change(f"packages.{key}", "added", new=_versions(group))


def apply(stored: Document | None, difference: Document, client_id: str) -> Document:
    """The stored document after a delta; applying it twice gives the same."""
    groups = _groups(stored["packages"] if stored else ())
    replacing = _groups(difference["set"])
    gone = {*replacing, *difference["unset"]}
    kept = {key: group for key, group in groups.items() if key not in gone}
    merged = kept | replacing
    return {
        "_id": client_id,
        "manager": difference["manager"],
        "packages": [package for key in sorted(merged) for package in merged[key]],
    }


def _groups(packages: Any) -> Groups:
    """Packages by name and architecture: several architectures of a library, and several versions of a kernel, can be
    installed at once.
    """
    groups: Groups = {}
    for package in packages:
        architecture = package.get("architecture")
        key = f"{package['name']}:{architecture}" if isinstance(architecture, str) else package["name"]
        groups.setdefault(key, []).append(package)
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=lambda package: str(package.get("version")))
    return groups


def _versions(group: list[Document]) -> str:
    return ", ".join(str(package.get("version")) for package in group)
