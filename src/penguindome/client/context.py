"""What every verb is handed: settings, state, keys, spool and server, each made when it is first asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from penguindome.client.action_records import Records
from penguindome.client.errors import NeedsRoot, NotSetUp
from penguindome.client.identity import Identity
from penguindome.client.settings import load_client_settings
from penguindome.client.spool import Spool
from penguindome.client.state import ClientState, StateFile
from penguindome.errors import SettingsError
from penguindome.files import FileLock
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome.times import Clock, utc_now

if TYPE_CHECKING:
    from penguindome.client.exchange import Exchange
    from penguindome.client.installed import Installed
    from penguindome.client.transport import Transport

LEFT_OVER_SECONDS = 600.0
"""No write of a small file takes as long, but on a machine that slept meanwhile: it is then begun again."""
LOOPBACK = frozenset({"localhost", "::1"})
_LOOPBACK_V4 = re.compile(r"127(\.\d{1,3}){3}")


class Client:
    """This machine as a client. Whoever changes state or spool does so inside `locked()`.

    `of_release`: where the release's settings lie, if not in the installed tree.
    """

    def __init__(self, paths: Paths, *, clock: Clock = utc_now, of_release: Path | None = None) -> None:
        self.paths = paths
        self.clock = clock
        self._of_release = of_release
        self._state_file = StateFile(paths.client_state / "state.json")

    @property
    def release_tree(self) -> Path:
        """The tree in which `settings/` of the release lies."""
        return self.paths.client_code if self._of_release is None else self._of_release.parent

    @cached_property
    def settings(self) -> Settings:
        """The client's settings. Raises SettingsError with file and line."""
        return load_client_settings(self.paths, of_release=self._of_release)

    def reread_settings(self) -> None:
        """Read the settings again when they are asked for next: a patch may have changed them."""
        self.__dict__.pop("settings", None)

    @cached_property
    def identity(self) -> Identity:
        """The device key and the pinned certificates."""
        return Identity(self.paths, hostname=self.settings["hostname"])

    @cached_property
    def spool(self) -> Spool:
        """The reports that wait."""
        return Spool(
            self.paths.client_state / "spool",
            max_bytes=self.settings["spool.max_bytes"],
            max_age=self.settings["spool.max_age"],
        )

    @cached_property
    def records(self) -> Records:
        """What became of signed actions."""
        return Records(self.paths.client_state / "actions")

    @cached_property
    def state(self) -> ClientState:
        """What is remembered. No report number that the spool knows is ever used again, even if the state was lost."""
        state = self._state_file.load()
        state.sequence = max(state.sequence, self.spool.highest_sequence())
        if not self._state_file.path.exists() and not self.identity.may_ask_for_enrolment:
            self._recover(state)
        return state

    def save(self) -> None:
        """Write the state, if it changed. Raises NoSpace."""
        self._state_file.save(self.state)

    @property
    def last_report(self) -> Path:
        """Where the last report that was delivered is kept, for `show --last`."""
        return self.paths.client_state / "last-report.json"

    @cached_property
    def exchange(self) -> Exchange:
        """The way to the server. Raises SettingsError when its URL may not be used."""
        from penguindome.client.exchange import Exchange

        return Exchange(self.transport, self.state, hostname=self.identity.hostname, clock=self.clock)

    @cached_property
    def transport(self) -> Transport:
        """The connection to the server. Raises SettingsError when its URL may not be used."""
        from penguindome.client import authorities
        from penguindome.client.transport import Transport

        url = self.settings["server.url"]
        if not url:
            raise NotSetUp("no server is set", hint="run: sudo penguindome-client setup --bundle FILE")
        refuse_plain_http(url, allowed=self.settings["allow_plain_http"])
        return Transport(
            url,
            ca_file=authorities.own(self),
            more_authorities=authorities.released(self),
            connect_timeout=self.settings["server.connect_timeout"].total_seconds(),
            read_timeout=self.settings["server.read_timeout"].total_seconds(),
        )

    def installed(self) -> Installed:
        """Verify, now, the installed files against the signed manifest in force."""
        from penguindome.client import trust
        from penguindome.client.installed import inspect

        return inspect(
            self.paths.client_state,
            self.paths.client_code,
            self.identity.server_certificate,
            identity=self.identity,
            now=trust.later(self.clock(), self.state.newest_signed_at),
            done=self.state.commands_that_ran() | self.records.commands_that_ran(),
        )

    def require_setup(self) -> None:
        """Raise NotSetUp, or NeedsRoot, unless this machine has a key and a server."""
        if not os.access(self.paths.client_state, os.R_OK | os.X_OK) and self.paths.client_state.exists():
            raise NeedsRoot(f"{self.paths.client_state} belongs to root", hint="run this with sudo")
        if not self.settings["server.url"] or not (self.paths.client_state / "device.key").exists():
            raise NotSetUp(
                "this machine is not set up yet: it waits for the bundle of its server",
                hint="run: sudo penguindome-client setup --bundle FILE",
            )
        if self.identity.awaited_fingerprint is not None:
            raise NotSetUp(
                f"this machine waits for its server, {self.settings['server.url']}, which has not shown its key yet",
                hint="it tries every minute; is this machine connected to a network?",
            )

    @contextmanager
    def locked(self, *, while_installing: bool = False) -> Iterator[None]:
        """Be the only process that works for this client; not even one, unless asked for, while an update installs.

        Raises AlreadyRunning, NotSetUp or NeedsRoot.
        """
        self.require_setup()
        with FileLock(self.paths.client_state / "lock"):
            if not while_installing:
                self._refuse_while_installing()
            self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        """Delete what writes left that were killed. A young one may be of somebody who needs another lock than ours."""
        for leftover in self.paths.client_state.glob(".*.new"):
            with suppress(FileNotFoundError):
                if self.clock().timestamp() - leftover.lstat().st_mtime > LEFT_OVER_SECONDS:
                    leftover.unlink()

    def _refuse_while_installing(self) -> None:
        if not (self.paths.client_state / "update.json").exists():
            return
        from penguindome.client import update_record
        from penguindome.files import AlreadyRunning

        record = update_record.load(self.paths)
        if record is not None and record.phase in update_record.INSTALLING:
            raise AlreadyRunning(
                f"release {record.release} is being installed", hint="wait; penguindome-client status tells how it goes"
            )

    def note_contact(self) -> None:
        """Remember that the server answered just now, without the price of a durable write every minute."""
        path = self.paths.client_state / "last-contact"
        moment = self.clock().timestamp()
        try:
            os.utime(path, (moment, moment))
        except FileNotFoundError:
            path.touch(0o600)
            os.utime(path, (moment, moment))

    def last_contact(self) -> datetime | None:
        """When the server answered last; None: never."""
        from datetime import timezone

        try:
            stamp = (self.paths.client_state / "last-contact").stat().st_mtime
        except FileNotFoundError:
            return None
        return datetime.fromtimestamp(stamp, timezone.utc)

    def _recover(self, state: ClientState) -> None:
        """The state of an enrolled machine was lost: go on with what the copy of its last report tells."""
        from penguindome import json
        from penguindome.errors import InvalidData
        from penguindome.files import read_limited

        state.enrolment = "enrolled"
        try:
            document = json.loads_plain(read_limited(self.last_report, 64 << 20))
        except (OSError, InvalidData):
            return
        sequence, token = document.get("sequence"), document.get("next_exchange_token")
        if isinstance(sequence, int) and isinstance(token, str):
            state.sequence, state.exchange_token = max(state.sequence, sequence), token


class Onlooker(Client):
    """This machine as it looks to a process that works beside the minute: it reads the state, and never writes it."""

    @cached_property
    def state(self) -> ClientState:
        """What is remembered, as it lies there."""
        return self._state_file.peek()

    def save(self) -> None:
        """What an onlooker learns about the server is not kept: the next minute learns it too."""


def refuse_plain_http(url: str, *, allowed: bool) -> None:
    """Raise SettingsError for a URL without TLS that leaves this machine, unless the administrator allowed it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http" and not allowed and host not in LOOPBACK and not _LOOPBACK_V4.fullmatch(host):
        raise SettingsError(
            f"{url} is not encrypted: what this machine reports could be read on the way",
            hint="use https://, or set allow_plain_http: true in client.yml if you must",
        )
