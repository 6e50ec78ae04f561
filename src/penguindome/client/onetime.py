"""One-time commands of the release: files below `commands/` that the effective manifest names run until they exit 0
once, and are deleted then.

They run outside of the minute and its sandbox, one after the other (`runner`); what they printed lies in their records
until a minute reports it. That a command ran is remembered by its contents: one that a package lays down again does not
run again, be it that of an older release. One that a crash comes between runs again: at least once, not at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from penguindome import json
from penguindome.client import backoff, children, collector, outputs, transient
from penguindome.client.action_records import RELEASE_COMMAND, Record
from penguindome.client.attempts import INTERRUPTED
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import AlreadyRunning
from penguindome.logging import get_logger
from penguindome.processes import Completed

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.client.installed import Installed
    from penguindome.manifest import Manifest

DIRECTORY = "commands"
REMEMBERED = 50
"""How many contents of one path are remembered to have run."""
_TEXT_LIMIT = 64 << 10

log = get_logger(__name__)


@dataclass(frozen=True)
class Ran:
    """A command that ran: under which name its result is reported, and whether it exited 0."""

    record: Record
    name: str
    succeeded: bool
    result: dict[str, Any]


def due(client: Client, manifest: Manifest) -> dict[str, str]:
    """The commands that should run now: name of the result -> path."""
    state, ran = client.state, client.state.commands_that_ran()
    return {
        name: path
        for name, path in collector.program_names(manifest, DIRECTORY).items()
        if (path, manifest.files[path].sha256) not in ran
        and backoff.is_over(state.commands_failed.get(path, {}).get("not_before_at"), client.clock())
    }


def finished(client: Client) -> list[Ran]:
    """The commands whose end is still to be reported. `conclude` must follow once it is on disk."""
    ran = []
    for record in _records(client):
        if record.running and record.result is None and _nobody_runs(client):
            record = client.records.load(record.id) or record
            children.kill_marked(record.id)
            record.result = record.result or _no_result(INTERRUPTED)
        if record.result is not None:
            ran.append(Ran(record, record.title, record.result["reason"] is None, record.result))
    return ran


def conclude(client: Client, ran: list[Ran]) -> None:
    """What was reported is over: those that succeeded never run again, those that failed wait before they do."""
    state = client.state
    for command in ran:
        path = command.record.path
        if command.succeeded:
            before = [digest for digest in state.commands_done.get(path, ()) if digest != command.record.sha256]
            state.commands_done[path] = [*before, command.record.sha256][-REMEMBERED:]
            state.commands_failed.pop(path, None)
        else:
            failures = state.commands_failed.get(path, {}).get("failures", 0) + 1
            not_before = client.clock() + backoff.delay(failures, f"{client.identity.client_id}:{path}")
            state.commands_failed[path] = {"failures": failures, "not_before_at": not_before}
    client.save()
    for command in ran:
        client.records.forget(command.record)


def start(client: Client, manifest: Manifest) -> None:
    """Let what is due be run. Raises NoSpace."""
    waiting = {record.path: record for record in _records(client)}
    for name, path in due(client, manifest).items():
        if path not in waiting:
            digest = manifest.files[path].sha256
            action_id = sha256(f"{path}\0{digest}".encode()).hexdigest()[:32]
            waiting[path] = Record(
                action_id, RELEASE_COMMAND, client.clock(), path=path, sha256=digest, title=name
            )  # fmt: skip
            client.records.save(waiting[path])
    if not any(record.result is None and not record.running for record in waiting.values()) or not _nobody_runs(client):
        return
    log.info("starting the one-time commands of the release")
    try:
        transient.start_verb(client.paths, "commands", ["act", "commands"], description="PenguinDome one-time commands")
    except PenguinDomeError as error:
        log.error("the one-time commands cannot be started: {}", error.message)


def carry_out(client: Client, record: Record) -> None:
    """Run one, for `runner`, and delete it once its success is on disk."""
    limits = collector.Limits(client.settings["commands.timeout"], client.settings["plugins.output_limit"])
    installed, path = client.installed(), record.path
    log.info("running the one-time command {}", path)
    try:
        with children.adopted():
            completed = _run(installed, record, limits)
    except PenguinDomeError as error:
        log.error("{} did not run: {}", path, error.message)
        record.result = _no_result(f"did not run: {error.message}")
    else:
        record.result = _result(completed)
    record.running = False
    client.records.save(record)
    if record.result["reason"] is None:
        (installed.place(path) / path).unlink(missing_ok=True)


def _run(installed: Installed, record: Record, limits: collector.Limits) -> Completed:
    manifest = installed.effective
    named = manifest.files.get(record.path) if manifest is not None else None
    if manifest is None or named is None or named.sha256 != record.sha256:
        raise PenguinDomeError("the manifest in force does not name it any more")
    mark = {children.MARK: record.id}
    return collector.run_program(installed.place(record.path), manifest, record.path, limits, more=mark)


def _records(client: Client) -> list[Record]:
    return [record for record in client.records.open() if record.kind == RELEASE_COMMAND]


def _nobody_runs(client: Client) -> bool:
    try:
        with client.records.lock(RELEASE_COMMAND):
            return True
    except AlreadyRunning:
        return False


def _no_result(reason: str) -> dict[str, Any]:
    return {"exit_status": None, "reason": reason, "output": "", "error": ""}


def _result(completed: Completed) -> dict[str, Any]:
    failure = outputs.unfinished(completed)
    return {
        "exit_status": completed.returncode if completed.returncode >= 0 else None,
        "reason": failure["reason"] if failure else None,
        "output": _output(completed.stdout),
        "error": outputs.text(completed.stderr, _TEXT_LIMIT),
    }


def _output(printed: bytes) -> Any:
    """JSON as such, other text as text."""
    try:
        value = json.loads_plain(printed)
        outputs.check(value)
    except InvalidData:
        return outputs.text(printed, _TEXT_LIMIT)
    return value
