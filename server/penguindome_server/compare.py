"""What changed between two reports: pure, and strict about types.

- `True`, `1` and `1.0` are three values; `{}`, `[]`, `""` and `null` are four; a key that is missing differs from
  one that holds null.
- Dates (any key that ends in `_at`, unless it holds a list or an object) never count.
- The order of keys and of list elements never counts. Elements of a list of objects are told apart by an identity
  field (`IDENTITIES`: the first that every element of both lists has, with a value of its own); in other lists
  elements come and go as wholes.
- Paths read as `plugins.hd_encryption.volumes[/dev/mapper/root].encrypted`; an element without identity is
  `plugins.sshd.ports[]`.
- Output of a plugin that failed (`{"plugin_failed": true, ...}`) is stored as reported, so that nobody takes old
  data for new. The change from data to failure, and back, is one row for the whole plugin; two failures in a row
  that give the same reason are no change, whatever else they print.
- The packages' list is not compared here (see `packages.py`), and their number is no change of its own.
"""

from __future__ import annotations

import marshal
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Kind = Literal["added", "removed", "changed"]

IDENTITIES: tuple[tuple[str, ...], ...] = (
    ("id",),
    ("name",),
    ("name", "architecture"),
    ("device",),
    ("path",),
    ("mac",),
    ("interface", "address"),
    ("address",),
    ("user",),
    ("key",),
)

LABEL_LENGTH = 120


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: `old` is None when something was added, `new` when it was removed."""

    path: str
    kind: Kind
    old: Any = None
    new: Any = None


def same(old: Any, new: Any) -> bool:
    """Whether two values are equal in type and content, dates and order of lists included; the order of keys does not
    matter.
    """
    if old is new:
        return True
    if type(old) is not type(new) or old != new:
        return False
    if not isinstance(old, (dict, list)):
        return True
    # Equal by `==`, so that only types can differ (True, 1, 1.0). Version 2 of marshal writes types and no references.
    try:
        if marshal.dumps(old, 2) == marshal.dumps(new, 2):
            return True
    except ValueError:
        pass  # a datetime somewhere inside
    if isinstance(old, dict):
        return all(same(value, new[key]) for key, value in old.items())
    return all(map(same, old, new))


def compare_plugins(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Changes between the `plugins` of two reports. A plugin seen first, or no longer, is one change as a whole."""
    for name, before in old.items():
        path = f"plugins.{name}"
        if name not in new:
            yield Change(path, "removed", old=before)
        elif not same(before, new[name]):
            yield from _compare_plugin(before, new[name], path)
    for name, after in new.items():
        if name not in old:
            yield Change(f"plugins.{name}", "added", new=after)


def compare(old: Any, new: Any, path: str) -> Iterator[Change]:
    """Changes between two values of any type, with paths that begin with `path`."""
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _compare_objects(old, new, path)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _compare_lists(old, new, path)
    elif type(old) is not type(new) or old != new:
        yield Change(path, "changed", old, new)


def failed(output: Any) -> bool:
    """Whether this is what the client reports for a plugin that failed."""
    return isinstance(output, dict) and output.get("plugin_failed") is True


def _compare_plugin(old: Any, new: Any, path: str) -> Iterator[Change]:
    if failed(old) and failed(new):
        if not same(old.get("reason"), new.get("reason")):
            yield Change(path, "changed", old, new)
    elif failed(old) or failed(new):
        yield Change(path, "changed", old, new)
    else:
        yield from compare(old, new, path)


def _compare_objects(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Change]:
    for key, before in old.items():
        if key in new:
            after = new[key]
            if not same(before, after) and not _is_date(key, before, after):
                yield from compare(before, after, f"{path}.{key}")
        elif not _is_date(key, before):
            yield Change(f"{path}.{key}", "removed", old=before)
    for key, after in new.items():
        if key not in old and not _is_date(key, after):
            yield Change(f"{path}.{key}", "added", new=after)


def _is_date(key: str, *values: Any) -> bool:
    return key.endswith("_at") and not any(isinstance(value, (dict, list)) for value in values)


def _compare_lists(old: list[Any], new: list[Any], path: str) -> Iterator[Change]:
    keyed = _keyed(old, new)
    if keyed is None:
        yield from _compare_bags(old, new, path)
        return
    before, after = keyed
    equal = [(element, after[key]) for key, element in before.items() if key in after and element == after[key]]
    # Nearly all are equal by `==`: their types are compared all at once.
    strict = same([pair[0] for pair in equal], [pair[1] for pair in equal])
    for key, element in before.items():
        if key not in after:
            yield Change(f"{path}[{_label(key)}]", "removed", old=element)
        elif not (strict and element == after[key]) and not same(element, after[key]):
            yield from _compare_objects(element, after[key], f"{path}[{_label(key)}]")
    for key, element in after.items():
        if key not in before:
            yield Change(f"{path}[{_label(key)}]", "added", new=element)


def _compare_bags(old: list[Any], new: list[Any], path: str) -> Iterator[Change]:
    """Lists without identities: elements that are in one and not, or not as often, in the other."""
    before = Counter(map(_canonical, old))
    after = Counter(map(_canonical, new))
    yield from (Change(f"{path}[]", "removed", old=element) for element in _surplus(old, before - after))
    yield from (Change(f"{path}[]", "added", new=element) for element in _surplus(new, after - before))


def _surplus(elements: list[Any], surplus: Counter[Hashable]) -> Iterator[Any]:
    for element in elements if surplus else ():
        key = _canonical(element)
        if surplus[key] > 0:
            surplus[key] -= 1
            yield element


def _keyed(old: Sequence[Any], new: Sequence[Any]) -> tuple[dict[Hashable, Any], dict[Hashable, Any]] | None:
    """The elements of both lists by the first identity that tells them apart, if they are objects and there is one."""
    if {*map(type, old), *map(type, new)} != {dict}:
        return None
    for names in IDENTITIES:
        before = _by_identity(names, old)
        after = None if before is None else _by_identity(names, new)
        if before is not None and after is not None:
            return before, after
    return None


def _by_identity(names: tuple[str, ...], elements: Sequence[dict[str, Any]]) -> dict[Hashable, Any] | None:
    keys: list[Any] = []
    for name in names:
        try:
            column = [element[name] for element in elements]
        except KeyError:
            return None
        # Values of these two types only: as keys of a dict, True and 1.0 would pass for 1.
        if not {*map(type, column)} <= {str, int}:
            return None
        keys.append(column)
    found = dict(zip(keys[0] if len(keys) == 1 else zip(*keys, strict=True), elements, strict=True))
    return found if len(found) == len(elements) else None


def _label(key: Hashable) -> str:
    text = " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…"


def _canonical(value: Any) -> Hashable:
    """A hashable that is equal for values that are equal but for dates and order."""
    if isinstance(value, dict):
        return "object", frozenset((key, _canonical(item)) for key, item in value.items() if not _is_date(key, item))
    if isinstance(value, list):
        return "list", frozenset(Counter(map(_canonical, value)).items())
    if isinstance(value, datetime):
        return "date"
    return type(value).__name__, value
