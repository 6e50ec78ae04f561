"""What differs between two releases, by their manifests: for people who are about to publish one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from penguindome.manifest import FileEntry

WHAT = {"plugins": "plugin", "commands": "command", "settings": "settings", "code": "code"}
OTHERS = {"requirements.txt": "libraries", "pkg-setup": "setup"}
ONE_BY_ONE = ("plugin", "command", "settings")


@dataclass(frozen=True)
class Change:
    """One difference: `what` (plugin, settings, command, code, libraries, setup, version), its name, what happened."""

    what: str
    name: str
    change: str


def changes(
    before: Mapping[str, FileEntry] | None, after: Mapping[str, FileEntry], versions: tuple[str | None, str]
) -> list[Change]:
    """Plugins, commands and settings one by one, all others counted; `before` None: there was no release."""
    found = list(_versions(*versions))
    old = before or {}
    single: list[Change] = []
    counts: dict[tuple[str, str], int] = {}
    for name in sorted({*old, *after}):
        if old.get(name) == after.get(name):
            continue
        change = "added" if name not in old else "removed" if name not in after else "changed"
        first, _, rest = name.partition("/")
        what = WHAT[first] if rest else OTHERS.get(name, "other")
        if what in ONE_BY_ONE:
            single.append(Change(what, rest, change))
        else:
            counts[what, change] = counts.get((what, change), 0) + 1
    found += sorted(single, key=lambda one: (ONE_BY_ONE.index(one.what), one.name))
    return [*found, *_counted(counts.items())]


def _versions(before: str | None, after: str) -> Iterator[Change]:
    if before != after:
        yield Change("version", after, "new" if before is None else f"was {before}")


def _counted(counts: Iterable[tuple[tuple[str, str], int]]) -> Iterator[Change]:
    for (what, change), count in sorted(counts):
        yield Change(what, "1 file" if count == 1 else f"{count} files", change)
