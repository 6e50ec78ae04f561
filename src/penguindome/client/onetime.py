"""One-time commands: files below `commands/` that the manifest names run until they exit 0 once, and are deleted then.

What a command printed is in the spool before it is deleted, and that it ran is remembered by its contents: one that a
package lays down again does not run again. One that a crash comes between runs again: at least once, not at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penguindome import json
from penguindome.client import backoff, children, collector, outputs
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.logging import get_logger
from penguindome.processes import Completed

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.manifest import Manifest

DIRECTORY = "commands"
_TEXT_LIMIT = 64 << 10

log = get_logger(__name__)


@dataclass(frozen=True)
class Ran:
    """A command that ran: under which name its result is reported, and whether it exited 0."""

    name: str
    path: str
    sha256: str
    succeeded: bool
    result: dict[str, Any]


def due(client: Client, manifest: Manifest) -> dict[str, str]:
    """The commands that should run now: name of the result -> path."""
    state = client.state
    return {
        name: path
        for name, path in collector.program_names(manifest, DIRECTORY).items()
        if state.commands_done.get(path) != manifest.files[path].sha256
        and backoff.is_over(state.commands_failed.get(path, {}).get("not_before_at"), client.clock())
    }


def run(client: Client, manifest: Manifest) -> list[Ran]:
    """Run what is due, one after the other. `conclude` must follow once the results are on disk."""
    limits = collector.Limits(client.settings["commands.timeout"], client.settings["plugins.output_limit"])
    ran = []
    for name, path in due(client, manifest).items():
        log.info("running the one-time command {}", path)
        try:
            with children.adopted():
                completed = collector.run_program(client.paths.client_code, manifest, path, limits)
        except PenguinDomeError as error:
            log.error("{} did not run: {}", path, error.message)
            _note_failed(client, path)
            continue
        succeeded = outputs.unfinished(completed) is None
        ran.append(Ran(name, path, manifest.files[path].sha256, succeeded, _result(completed)))
    return ran


def conclude(client: Client, ran: list[Ran]) -> None:
    """Delete the commands that succeeded, and let those that failed wait before they run again."""
    for command in ran:
        if not command.succeeded:
            _note_failed(client, command.path)
            continue
        client.state.commands_done[command.path] = command.sha256
        client.state.commands_failed.pop(command.path, None)
        client.save()
        (client.paths.client_code / command.path).unlink(missing_ok=True)


def _note_failed(client: Client, path: str) -> None:
    failed = client.state.commands_failed
    failures = failed.get(path, {}).get("failures", 0) + 1
    not_before = client.clock() + backoff.delay(failures, f"{client.identity.client_id}:{path}")
    failed[path] = {"failures": failures, "not_before_at": not_before}
    client.save()


def _result(completed: Completed) -> dict[str, Any]:
    failure = outputs.unfinished(completed)
    return {
        "exit_status": completed.returncode if completed.returncode >= 0 else None,
        "reason": failure["reason"] if failure else None,
        "output": _output(completed.stdout),
        "error": _text(completed.stderr),
    }


def _output(printed: bytes) -> Any:
    """JSON as such, other text as text."""
    try:
        value = json.loads_plain(printed)
        outputs.check(value)
    except InvalidData:
        return _text(printed)
    return value


def _text(printed: bytes) -> str:
    return printed[:_TEXT_LIMIT].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
