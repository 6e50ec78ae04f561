"""What is left to do about accepted actions, looked at every minute: begin them, notice that they ended without a word,
and tell the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penguindome.actions import ActionWaits, require_for
from penguindome.client import attempts, children, held_back, transient
from penguindome.client.acknowledgement import tell
from penguindome.client.action_records import RELEASE_COMMAND
from penguindome.client.errors import NoSpace, Refused, ServerError
from penguindome.client.overlay import load_accepted
from penguindome.errors import PenguinDomeError
from penguindome.files import AlreadyRunning
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.action_records import Record
    from penguindome.client.context import Client

log = get_logger(__name__)


def attend(client: Client, *, may_ask: bool) -> bool:
    """Look at every open action, for the holder of the client's lock; says whether the server may still be asked.

    One that a runner is at is left to it, and one that cannot be dealt with now does not keep the others from it.
    """
    for action_id in client.records.open_ids():
        may_ask = _attend_one(client, action_id, may_ask=may_ask)
    return may_ask


def _attend_one(client: Client, action_id: str, *, may_ask: bool) -> bool:
    begin = False
    try:
        with client.records.lock(action_id):
            record = _look_at(client, action_id)
            begin = record is not None and attempts.is_due(record, client.clock()) and _may_begin(client, record)
            if record is not None and record.result is not None and not record.acknowledged and may_ask:
                may_ask = _tell(client, record)
    except AlreadyRunning:
        return may_ask
    except (NoSpace, OSError) as error:
        log.error("the action {} waits: {}", action_id, error)
        return may_ask
    # The runner takes the lock itself.
    if record is not None and begin:
        _start(client, record)
    return may_ask


def _look_at(client: Client, action_id: str) -> Record | None:
    records, now = client.records, client.clock()
    records.remove_leftovers(action_id)
    record = records.load(action_id)
    if record is None or record.kind == RELEASE_COMMAND or not records.is_open(action_id):
        return None
    if record.running:
        log.warning("{} {}: {}", record.kind, action_id, attempts.INTERRUPTED)
        children.kill_marked(action_id)
        attempts.note_interrupted(record, now=now, seed=client.identity.client_id)
        records.save(record)
    if not record.is_final and attempts.has_expired(record, client.state.newest_signed_at):
        attempts.expire(record, now)
        records.save(record)
    return record


def _may_begin(client: Client, record: Record) -> bool:
    """Whether the clock and the host name let it be begun now. What else may be wrong with it is for the runner."""
    identity, state = client.identity, client.state
    try:
        require_for(
            load_accepted(record.text, record.signature, identity.accepted_by), client_id=identity.client_id,
            hostname=identity.hostname, now=client.clock(), newest_signed_at=state.newest_signed_at,
        )  # fmt: skip
    except ActionWaits as error:
        held_back.hold(client, record.id, error.message)
        return False
    except PenguinDomeError:
        pass
    held_back.keep_only(client, state.actions_held_back.keys() - {record.id})
    return True


def _tell(client: Client, record: Record) -> bool:
    from penguindome.client.enrolment import note_refusal
    from penguindome.client.exchange import note_failure

    try:
        tell(client, record)
    except ServerError as error:
        log.warning("the result of {} {} could not be told: {}", record.kind, record.id, error.message)
        note_failure(client.state, error, now=client.clock(), seed=client.identity.client_id)
        if isinstance(error, Refused):
            note_refusal(client.state, error)
        client.save()
        return False
    return True


def _start(client: Client, record: Record) -> None:
    log.info("starting the {} {}", record.kind, record.id)
    description = f"PenguinDome {record.kind}: {record.title}"
    try:
        transient.start_verb(client.paths, record.kind, ["act", record.id], description=description)
    except PenguinDomeError as error:
        # It is due still, and tried again in a minute.
        log.error("the {} {} cannot be started: {}", record.kind, record.id, error.message)
        client.records.note_refusal(record.id, f"it cannot be started: {error.message}", client.clock())
