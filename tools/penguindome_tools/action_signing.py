"""Queueing an action: the one way from what an administrator confirmed to what is signed and stored.

Root makes the text, of nothing but the words of the command, files that they name, and the targets that were shown;
root signs it; the service user stores it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from penguindome import json
from penguindome.actions import LARGEST, LARGEST_CONTENTS, LONGEST_LIFE, Action, Target, build
from penguindome.errors import PenguinDomeError, UsageError
from penguindome.files import FileLock, read_with_mode
from penguindome.server_keyring import ServerKeyring
from penguindome.times import format_duration, parse_duration
from penguindome_server.action_queue import SignedAction, queue, sweep
from penguindome_tools.context import Context
from penguindome_tools.installation import recorded_fingerprint
from penguindome_tools.releases.records import on_disk

LOCK_SECONDS = 60.0
"""How long to wait for another command that is queueing: it takes seconds."""

TARGETS_AT_ONCE = 1000
"""Each client is given the whole text of an action: 100 KiB for so many."""


@dataclass(frozen=True)
class Order:
    """What an administrator wants done. `files` maps names to contents and permission bits; `title` is shown."""

    kind: str
    title: str
    lifetime: timedelta
    parameters: Mapping[str, Any]
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)


def lifetime_option(kind: str, default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --expires for actions of this kind, passed to a command as `lifetime`."""
    longest = LONGEST_LIFE[kind]

    def convert(_ctx: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
        try:
            lifetime = parse_duration(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        if not timedelta(0) < lifetime <= longest:
            raise click.BadParameter(f"a {kind} lives up to {format_duration(longest)}")
        return lifetime

    text = f"How long it may wait for a client, up to {longest.days}d."
    return click.option(
        "--expires", "lifetime", default=default, show_default=True, callback=convert, metavar="DURATION", help=text
    )


def read_file(context: Context, path: Path) -> tuple[bytes, int]:
    """Contents and permission bits of a file that an administrator named: a regular one, and no link, of at most 8 MiB.

    Raises PenguinDomeError.
    """
    try:
        with context.as_root():
            return read_with_mode(path, LARGEST_CONTENTS)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def rehearse(order: Order, targets: Sequence[Target], now: datetime) -> None:
    """Raise ActionRefused for what no client would take, before anybody is asked."""
    _built(_as_of(order, 0), targets[:1], now)


def place(context: Context, order: Order, targets: Sequence[Target]) -> str:
    """Sign the order for these targets and queue it; returns the id that names it.

    Raises ActionConflict, KeyMaterialError or StoreUnavailable; then nothing is queued.
    """
    store, paths, now = context.store, context.paths, context.clock()
    contents = {name: content for name, (content, _mode) in order.files.items()}
    with _alone(context):
        # Whatever else is half queued was left by a command that died.
        sweep(store, before=now)
        with context.as_root(), ServerKeyring(paths.keys / "gnupg") as keyring:
            fingerprint = _fingerprint(context)
            order = _as_of(order, max(on_disk(context.paths), default=0))
            actions = [_built(order, part, now) for part in _parts(order, targets, now)]
            batch = [SignedAction(action, keyring.sign(action.data, fingerprint)) for action in actions]
        try:
            return queue(store, batch, contents, title=order.title, who=context.who, now=now)
        except KeyboardInterrupt:
            _interrupted(context, batch[0].action)
            raise


def _interrupted(context: Context, action: Action) -> None:
    """Take back what is half queued; raise PenguinDomeError when all of it is queued already."""
    sweep(context.store, before=action.issued_at + timedelta(milliseconds=1))
    if context.store.collection("patches").get(action.id, fields=("state",)) is not None:
        raise PenguinDomeError(
            f"the {action.kind} was queued before it was interrupted",
            hint=f"to cancel it: penguindome {action.kind} cancel {action.id[:12]}",
        )


@contextmanager
def _alone(context: Context) -> Iterator[None]:
    """No other command queues meanwhile: the keys are on one machine, and with them this lock."""
    lock = FileLock(context.paths.keys / "actions.lock", wait=LOCK_SECONDS)
    try:
        with context.as_root():
            lock.acquire()
    except OSError as error:
        raise _no_keys(error) from error
    try:
        yield
    finally:
        lock.release()


def _fingerprint(context: Context) -> str:
    try:
        fingerprint = recorded_fingerprint(context.paths)
    except OSError as error:
        raise _no_keys(error) from error
    if fingerprint is None:
        raise UsageError("there is no server key yet", hint="run: penguindome setup")
    return fingerprint


def _no_keys(error: OSError) -> PenguinDomeError:
    if isinstance(error, FileNotFoundError):
        return UsageError("there is no server key here", hint="run: penguindome setup")
    return PenguinDomeError(f"the keys are out of reach: {error.strerror}", hint="run this as root")


def _as_of(order: Order, newest_release: int) -> Order:
    """A patch says for which releases it can have been meant; root knows the newest from its own disk."""
    if order.kind != "patch":
        return order
    return replace(order, parameters={**order.parameters, "newest_release": newest_release})


def _built(order: Order, targets: Sequence[Target], now: datetime) -> Action:
    data = build(
        kind=order.kind,
        action_id=secrets.token_hex(16),
        targets=targets,
        issued_at=now,
        expires_at=now + order.lifetime,
        files=order.files,
        parameters=order.parameters,
    )
    return Action.from_content(json.loads(data), data)


def _parts(order: Order, targets: Sequence[Target], now: datetime) -> Iterator[Sequence[Target]]:
    """The targets, in parts for which the text of an action has room."""
    room = LARGEST - len(_built(order, targets[:1], now).data)
    start, used = 0, 0
    for number, target in enumerate(targets):
        size = len(json.dumps({"client_id": target.client_id, "hostname": target.hostname})) + 1
        if number > start and (used + size > room or number - start == TARGETS_AT_ONCE):
            yield targets[start:number]
            start, used = number, 0
        used += size
    yield targets[start:]
