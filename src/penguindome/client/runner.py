"""What `penguindome-client act` does, outside of the minute and its sandbox: run one accepted action, or the one-time
commands of the release, and tell the server.

It works beside the minute. Of an action it holds the lock from the beginning to the end, so that there is one runner at
the most; the client's state it only reads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from penguindome import processes
from penguindome.actions import COMMAND_FILE, LARGEST_CONTENTS, Action, ActionWaits, require_contents, require_for
from penguindome.client import attempts, children, collector, outputs
from penguindome.client.acknowledgement import tell
from penguindome.client.action_records import RELEASE_COMMAND
from penguindome.client.errors import NoSpace
from penguindome.client.overlay import load_accepted
from penguindome.errors import PenguinDomeError, ProcessError
from penguindome.files import read_limited
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from pathlib import Path

    from penguindome.client.action_records import Record
    from penguindome.client.context import Client
    from penguindome.processes import Completed

# Together they fit into a request, whatever JSON makes of their characters.
OUTPUT_LIMIT = 96 << 10
ERROR_LIMIT = 32 << 10

log = get_logger(__name__)


def act(client: Client, action_id: str) -> None:
    """Make one attempt at an accepted action, if it is due. Raises AlreadyRunning, when another process is at it."""
    records = client.records
    with records.lock(action_id):
        record = records.load(action_id)
        if record is None or record.kind == RELEASE_COMMAND or not records.is_open(action_id):
            return
        if record.running:
            children.kill_marked(action_id)
            attempts.note_interrupted(record, now=client.clock(), seed=client.identity.client_id)
        elif record.is_final:
            return
        switch_off = False
        if attempts.is_due(record, client.clock()):
            attempts.begin(record)
            _keep_beginning(client, record)
            switch_off = _attempt(client, record)
        records.save(record)
        if record.result is not None and not record.acknowledged:
            _tell(client, record)
    if switch_off:
        from penguindome.client import wipe

        wipe.switch_off()


def act_for_release(client: Client) -> None:
    """Run the one-time commands of the release that wait, one after the other. Raises AlreadyRunning."""
    from penguindome.client import onetime

    with client.records.lock(RELEASE_COMMAND):
        for record in sorted(client.records.open(), key=lambda record: record.path):
            if record.kind == RELEASE_COMMAND and record.result is None and not record.running:
                attempts.begin(record)
                client.records.save(record)
                onetime.carry_out(client, record)


def _keep_beginning(client: Client, record: Record) -> None:
    try:
        client.records.save(record)
    except NoSpace:
        # A wipe makes room, and may be begun twice.
        if record.kind != "wipe":
            raise


def _attempt(client: Client, record: Record) -> bool:
    """Says whether the machine is to be switched off once the server was told."""
    try:
        action = _verified(client, record)
    except ActionWaits as error:
        # The clock or the name changed since the minute looked, which will look again.
        log.warning("it waits: {}", error.message)
        record.running = False
        record.attempt -= 1
        return False
    except (PenguinDomeError, OSError) as error:
        record.running = False
        record.conclude("failed", f"it was not run: {error}", attempt=record.attempt, finished_at=client.clock())
        return False
    if action.kind == "wipe":
        from penguindome.client import wipe

        return wipe.carry_out(client, record, action)
    _command(client, record, client.records.program(record.id))
    return False


def _verified(client: Client, record: Record) -> Action:
    """The action as it was signed, looked at again, and its file with it: what lay on the disk may have changed."""
    action = load_accepted(record.text, record.signature, client.identity.accepted_by)
    require_for(
        action, client_id=client.identity.client_id, hostname=client.identity.hostname,
        now=client.clock(), newest_signed_at=client.state.newest_signed_at,
    )  # fmt: skip
    if action.kind == "command":
        contents = read_limited(client.records.program(record.id), LARGEST_CONTENTS)
        require_contents(action, {COMMAND_FILE: contents})
    return action


def _command(client: Client, record: Record, path: Path) -> None:
    now, seed = client.clock, client.identity.client_id
    nothing: dict[str, Any] = {"exit_status": None, "output": "", "error": "", "truncated": False}
    log.info("running the command {} ({})", record.title, record.id)
    try:
        with children.adopted():
            completed = processes.run(
                _words(path),
                timeout=client.settings["commands.timeout"].total_seconds(),
                env={**collector.environment(os.environ), children.MARK: record.id},
                cwd="/",
                check=False,
                output_limit=client.settings["plugins.output_limit"],
            )
    except ProcessError as error:
        attempts.end(record, now=now(), seed=seed, reason=f"it cannot be run: {error.message}", **nothing)
        return
    failure = outputs.unfinished(completed)
    reason = failure["reason"] if failure else None
    attempts.end(record, now=now(), seed=seed, reason=reason, **_details(completed))


def _words(path: Path) -> list[str]:
    """A file that is neither a program nor says what runs it is a script of the shell, as for people who type it."""
    with path.open("rb") as file:
        start = file.read(4)
    return [str(path)] if start.startswith((b"#!", b"\x7fELF")) else ["/bin/sh", str(path)]


def _details(completed: Completed) -> dict[str, Any]:
    too_long = len(completed.stdout) > OUTPUT_LIMIT or len(completed.stderr) > ERROR_LIMIT
    return {
        "exit_status": completed.returncode if completed.returncode >= 0 else None,
        "output": outputs.text(completed.stdout, OUTPUT_LIMIT),
        "error": outputs.text(completed.stderr, ERROR_LIMIT),
        "truncated": completed.truncated or too_long,
    }


def _tell(client: Client, record: Record) -> None:
    try:
        tell(client, record)
    except PenguinDomeError as error:
        log.warning("the result of {} {} is told later: {}", record.kind, record.id, error.message)
