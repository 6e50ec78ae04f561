"""What the minute does for an update: it downloads, and starts the watcher, also one that died. See `watcher`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from penguindome.client import backoff, update_record
from penguindome.client.update_record import UpdateRecord
from penguindome.errors import PenguinDomeError
from penguindome.files import AlreadyRunning, patiently
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.context import Client

log = get_logger(__name__)


def go_on(client: Client, *, now: bool = False) -> None:
    """Do the next thing for an update that is not finished, if it is time. What fails is remembered in the record.

    With `now`, neither the spread of downloads nor back-off counts.
    """
    if not (client.paths.client_state / update_record.NAME).exists():
        return
    record = update_record.load(client.paths)
    if record is None:
        return
    if record.phase not in update_record.UNFINISHED:
        _clean_up(client, record)
        return
    if not now and not backoff.is_over(record.not_before_at, client.clock()):
        return
    try:
        if record.phase == "offered" and (now or _is_its_turn(client, record)):
            with update_record.lock(client.paths):
                record = _download(client, record)
                update_record.save(client.paths, record)
        if record.phase in update_record.WATCHED and not update_record.is_locked(client.paths):
            start_watcher(client, record)
    except AlreadyRunning:
        log.debug("somebody else is at the update")
    except PenguinDomeError as error:
        log.error("the update to release {} does not go on: {}", record.release, error.message)


def _clean_up(client: Client, record: UpdateRecord) -> None:
    """Delete what a watcher that was killed at its end left."""
    from penguindome.client import downloads, old_code

    if next(client.paths.client_state.glob(f"{old_code.PREFIX}*"), None) and not update_record.is_locked(client.paths):
        downloads.prune(client.paths.client_cache, [record.kept_package])
        old_code.prune(client.paths)


def start_watcher(client: Client, record: UpdateRecord) -> None:
    """Start the copy of the old code, or what makes that copy. Raises ProcessError."""
    from penguindome.client import old_code, transient

    directory = old_code.place(client.paths, record.release)
    if old_code.is_usable(directory):
        _start_copy(client, directory, record)
    else:
        words = ["watch"]
        transient.start_verb(client.paths, "update", words, description="Copy penguindome-client, to watch its update")


def _start_copy(client: Client, directory: Path, record: UpdateRecord) -> None:
    from penguindome.client import old_code, transient

    transient.start(
        client.paths,
        "update",
        old_code.command(directory),
        description=f"Move of penguindome-client to release {record.release}",
        # Should it be killed while the new release is one that does not run, no minute would start it again.
        properties=("Restart=on-failure", "RestartSec=30"),
    )


def postponed(client: Client, record: UpdateRecord, reason: str) -> UpdateRecord:
    """The record of an update that does not go on for `reason`, to be tried again later and later."""
    attempts = record.attempts + 1
    waiting = backoff.delay(attempts, f"{client.identity.client_id}:update")
    return replace(record, reason=reason, attempts=attempts, not_before_at=client.clock() + waiting)


def _is_its_turn(client: Client, record: UpdateRecord) -> bool:
    """Whether this machine's own place in the spread of downloads has come."""
    window = client.settings["update.spread"].total_seconds()
    waits = timedelta(seconds=backoff.spread(f"{client.identity.client_id}:{record.release}", window))
    offered = record.offered_at or client.clock()
    # A clock that was set back would make it wait for ever.
    return not timedelta(0) <= client.clock() - offered < waits


def _download(client: Client, record: UpdateRecord) -> UpdateRecord:
    from penguindome.client import downloads

    try:
        whole = downloads.fetch(client, record)
    except PenguinDomeError as error:
        log.warning("the package of release {} could not be fetched: {}", record.release, error.message)
        hint = f" ({error.hint})" if error.hint else ""
        return postponed(client, record, f"{error.message}{hint}")
    if not whole:
        return replace(record, reason="", attempts=0, not_before_at=None)
    log.info("the package of release {} is here", record.release)
    return replace(record, phase="ready", reason="", attempts=0, not_before_at=None)


def hand_over(client: Client) -> None:
    """Copy the running code, and start the copy as the watcher. What fails is remembered in the record.

    Outside of the minute's sandbox, in which a copy would take its time.
    """
    from penguindome.client import old_code

    try:
        # Whoever only looks whether the lock is held holds it for an instant.
        with patiently(lambda: update_record.lock(client.paths), 5):
            record = update_record.load(client.paths)
            if record is None or record.phase not in update_record.WATCHED:
                return
            try:
                directory = old_code.make(client.paths, record.release)
            except (OSError, PenguinDomeError) as error:
                why = error.message if isinstance(error, PenguinDomeError) else str(error)
                log.error("the running code could not be copied, so the update waits: {}", why)
                update_record.save(client.paths, postponed(client, record, f"no copy of the running code: {why}"))
                return
        _start_copy(client, directory, record)
    except AlreadyRunning:
        log.debug("somebody else is at the update")
