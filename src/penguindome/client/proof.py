"""What a newly installed client does to show that it works; see `watcher`, which judges what it says.

It puts its own manifest in force, so that all that follows is as in a real minute: every module of ours is imported,
every file is compared with the manifest, the plugins run, and the server is asked. Nothing is submitted.
"""

from __future__ import annotations

import errno
import importlib
import pkgutil
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import penguindome
from penguindome.client.errors import NoSpace, Refused
from penguindome.client.state import NO_SPACE
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import AlreadyRunning, patiently

if TYPE_CHECKING:
    from penguindome.client.context import Client

MINUTE_SECONDS = 2400.0
"""How long a minute may be at work before it is taken to hang."""
_OF_THE_DISK = NO_SPACE | {errno.EIO, errno.EROFS}


@dataclass
class Proof:
    """What came of it. `fault` says why this client must not stay ("" when it may); `passing`, what kept it from being
    tried, and is not its fault; `reached`, whether the server answered, and if not, `unreached` says why.
    """

    release: int = -1
    fault: str = ""
    reached: bool = False
    unreached: str = ""
    passing: str = ""

    def to_document(self) -> dict[str, Any]:
        """For the watcher, as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Any) -> Proof:
        """What another release's client said, which may know more fields, or fewer. Raises InvalidData."""
        if not isinstance(document, dict):
            raise InvalidData("it is no object")
        defaults = asdict(cls())
        values: dict[str, Any] = {name: document.get(name, default) for name, default in defaults.items()}
        if not all(type(values[name]) is type(default) for name, default in defaults.items()):
            raise InvalidData("a field is of the wrong type")
        return cls(**values)


def prove(client: Client, *, patience: float = MINUTE_SECONDS) -> Proof:
    """Try everything that a minute does. What fails is in what is returned. A minute that is at work is waited for, for
    `patience` seconds.
    """
    proof = Proof()
    try:
        _import_everything()
        with patiently(lambda: client.locked(while_installing=True), patience):
            _run_through(client, proof)
    except (AlreadyRunning, NoSpace) as error:
        proof.passing = error.message
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            proof.passing = _in_words(error)
        else:
            proof.fault = _in_words(error)
    return proof


def reach(client: Client) -> str:
    """Ask the server what `update` asks, and take nothing of the answer; returns why that failed, "" when it did not.

    A refusal is an answer too.
    """
    from penguindome.client import updates

    held = updates.holdings(client)

    def body(_: datetime) -> dict[str, Any]:
        return updates.question(client, held)

    try:
        client.exchange.ask("update", body, client.identity.device_key.sign)
    except Refused:
        return ""
    except PenguinDomeError as error:
        return error.message
    return ""


def _import_everything() -> None:
    for module in pkgutil.walk_packages(penguindome.__path__, "penguindome."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _run_through(client: Client, proof: Proof) -> None:
    from penguindome.client import adoption, collector, reports

    adoption.adopt(client)
    installed = client.installed()
    proof.release = installed.manifest.release if installed.manifest is not None else -1
    # What lies there unsigned does not run, and is not this release's fault.
    wrong = [problem for problem in installed.problems if problem.reason != "unsigned"]
    if installed.manifest is None or wrong:
        complaints = installed.complaints() if installed.manifest is None else [str(problem) for problem in wrong]
        proof.fault = f"its files are not as signed: {'; '.join(complaints[:5])}"
        return
    plugins = {name: said for name, said in reports.collect(client, installed).items() if name != collector.OWN_NAME}
    failed = {name: said for name, said in plugins.items() if isinstance(said, dict) and "plugin_failed" in said}
    if plugins and len(failed) == len(plugins):
        proof.fault = f"none of its {len(plugins)} plugins runs: {next(iter(failed.values()))}"[:500]
        return
    try:
        proof.unreached = reach(client)
    except Exception as error:
        # Whatever it is: the old code may fare better, and then this is a fault.
        proof.unreached = _in_words(error)
    proof.reached = not proof.unreached


def _in_words(error: Exception) -> str:
    return error.message if isinstance(error, PenguinDomeError) else f"{type(error).__name__}: {error}"[:500]
