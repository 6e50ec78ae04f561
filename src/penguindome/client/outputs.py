"""What a plugin's output may look like. One plugin that prints too much or too deep must not make a whole report
unacceptable.

The limits lie within those that the server sets by default. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penguindome import json
from penguindome.errors import InvalidData
from penguindome.processes import Completed

MAXIMUM_DEPTH = 24
MAXIMUM_VALUES = 20_000
MAXIMUM_VALUES_OF_ALL = 45_000
MAXIMUM_KEY = 200
_LONG = 1 << 63


def failed(reason: str, exit_status: int | None = None) -> dict[str, Any]:
    """The output that stands for a plugin that gave none."""
    return {"plugin_failed": True, "reason": reason, "exit_status": exit_status}


def outcome(completed: Completed) -> Any:
    """What a plugin reported, or `failed(...)` with what went wrong."""
    complaint = unfinished(completed)
    if complaint is not None:
        return complaint
    if not completed.stdout.strip():
        return failed("printed nothing", 0)
    try:
        value = json.loads_plain(completed.stdout)
        check(value)
    except InvalidData as error:
        return failed(error.message, 0)
    return value


def unfinished(completed: Completed) -> dict[str, Any] | None:
    """`failed(...)` for a program that did not end by itself with status 0, else None."""
    if completed.timed_out:
        return failed("timed out")
    if completed.truncated:
        return failed("printed too much")
    if completed.returncode < 0:
        return failed(f"killed by signal {-completed.returncode}")
    if completed.returncode > 0:
        return failed(f"exit status {completed.returncode}", completed.returncode)
    return None


def text(printed: bytes, limit: int) -> str:
    """The first `limit` bytes of what a program printed, as the server takes it."""
    return printed[:limit].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def check(value: Any) -> int:
    """Count the values in a value. Raises InvalidData for what the server would not take: too deep, too many values,
    long keys, numbers beyond 64 bits, texts with NUL or half of a surrogate pair.
    """
    pending, count = [(value, 1)], 0
    while pending:
        item, depth = pending.pop()
        count += 1
        if count > MAXIMUM_VALUES:
            raise InvalidData(f"more than {MAXIMUM_VALUES} values")
        if isinstance(item, (dict, list)):
            if depth > MAXIMUM_DEPTH:
                raise InvalidData(f"nested deeper than {MAXIMUM_DEPTH} levels")
            if isinstance(item, dict):
                _check_keys(item)
            pending.extend((child, depth + 1) for child in (item.values() if isinstance(item, dict) else item))
        elif isinstance(item, str):
            _check_text(item)
        elif isinstance(item, int) and not -_LONG <= item < _LONG:
            raise InvalidData("a number beyond 64 bits")
    return count


def _check_keys(item: Mapping[str, Any]) -> None:
    for key in item:
        _check_text(key)
        if len(key) > MAXIMUM_KEY:
            raise InvalidData(f"a key longer than {MAXIMUM_KEY} characters")
    # The server maps these characters, which its stores cannot hold in keys.
    if len({key.replace(".", "\uff0e").replace("$", "\uff04") for key in item}) < len(item):
        raise InvalidData("two keys that the server cannot tell apart")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise InvalidData("a text with NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidData("a text with half of a surrogate pair") from error


def fit(outputs: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """The outputs, the largest replaced by `failed(...)` until all together have at most `limit` bytes of JSON, and no
    more values than a report may hold.
    """
    sizes = {name: (len(json.dumps(output)) + len(name) + 4, _count(output)) for name, output in outputs.items()}
    fitting = dict(outputs)
    size, values = (sum(pair[index] for pair in sizes.values()) for index in (0, 1))
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if size <= limit and values <= MAXIMUM_VALUES_OF_ALL:
            break
        fitting[name] = failed("too large for a report", 0)
        size -= sizes[name][0]
        values -= sizes[name][1]
    return fitting


def _count(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, children))
