"""The client's minute: what `run` does each time the timer starts it.

In this order: 1. ask for updates, and look after actions; 2. verify the installed files; 3. collect, if it is time or
something was updated; 4. submit what waits, oldest first; 5. report what one-time commands printed, and start those
that are due; 6. go on with the move to a new release. When reports wait already, the answer to them brings what the
poll would have brought. Each part goes on as well as it can when another fails.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from penguindome.client import apt_sources, backoff, enrolment, runlevel, updates
from penguindome.client.errors import NoSpace
from penguindome.errors import PenguinDomeError
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.client.installed import Installed

# A timer does not tick to the second: what is due within the half minute is due now.
SLACK = timedelta(seconds=30)

T = TypeVar("T")

log = get_logger(__name__)


class Minute:
    """One run. With `now`, intervals and back-off do not count: for a person who wants to see something happen."""

    def __init__(self, client: Client, *, now: bool = False) -> None:
        self.client = client
        self.now = now
        self.updated = False
        # Cleared once an exchange failed: the rest of this minute leaves the server alone.
        self.may_ask = False

    def run(self) -> None:
        """Do the minute's work. What fails is logged and remembered; raises NoSpace when the disk is full."""
        client = self.client
        if runlevel.level(client.paths.root) in runlevel.GOING_DOWN:
            log.info("this machine is going down: nothing is done")
            return
        self._adopt()
        self.may_ask = self._is_time_to_ask()
        if not client.spool.waiting() and self._enrolled():
            self._ask_for_updates()
        self._attend_to_actions()
        installed = self._verified()
        full = self._collect_if_due(installed)
        if self._deliver():
            self._attend_to_actions()
            installed = self._verified()
        if self._report_commands(installed):
            self._deliver()
        self._start_commands(installed)
        client.save()
        self._go_on_with_update()
        if client.state.enrolment == "enrolled":
            apt_sources.renew(client)
        if full is not None:
            raise full

    def _adopt(self) -> None:
        """Put the manifest in force that a newly installed package brought."""
        if (self.client.paths.client_code / "manifest.json").exists():
            from penguindome.client import adoption

            self.updated = adoption.adopt(self.client)

    def _go_on_with_update(self) -> None:
        if (self.client.paths.client_state / "update.json").exists():
            from penguindome.client import updating

            updating.go_on(self.client, now=self.now)

    def _is_time_to_ask(self) -> bool:
        client = self.client
        if self.now:
            return True
        if not backoff.is_over(client.state.not_before_at, client.clock()):
            log.debug("the server is left alone: {}", client.state.last_error or "the approval is awaited")
            return False
        interval = client.settings["schedule.submit_interval"]
        return interval <= timedelta(minutes=1) or _is_due(client.last_contact(), interval, client.clock())

    def _enrolled(self) -> bool:
        """Whether it is worth asking the server for more than enrolment, which is asked for if that is still open."""
        state = self.client.state
        if not self.may_ask:
            return False
        if state.enrolment != "enrolled" and self.client.identity.may_ask_for_enrolment:
            self._guarded(lambda: enrolment.ask(self.client))
            # A pending machine has had its answer for this minute.
            self.may_ask &= state.enrolment == "enrolled"
        return self.may_ask

    def _ask_for_updates(self) -> None:
        self.updated = bool(self._guarded(lambda: updates.ask(self.client))) or self.updated

    def _attend_to_actions(self) -> None:
        """Begin accepted actions, and tell the server what came of them: for most minutes, there is none."""
        if self.client.records.open_ids():
            from penguindome.client import pending

            self.may_ask = pending.attend(self.client, may_ask=self.may_ask)

    def _verified(self) -> Installed:
        installed = self.client.installed()
        if installed.overlay is None and installed.manifest is not None:
            self._forget_old_patches()
        for complaint in installed.complaints():
            log.warning("verification: {}", complaint)
        return installed

    def _forget_old_patches(self) -> None:
        """Those of another release count no more; a crash may have kept them from being taken away with it."""
        from penguindome.client import generations

        if generations.in_force(self.client.paths.client_state) is not None:
            from penguindome.client import overlay

            overlay.clear(self.client)

    def _collect_if_due(self, installed: Installed) -> NoSpace | None:
        """Collect and spool. A full disk is handed back, so that delivering, which makes room, still happens."""
        client = self.client
        state = client.state
        due = self.now or state.collect_requested or self.updated
        due = due or _is_due(state.collected_at, client.settings["schedule.collect_interval"], client.clock())
        if not due or (installed.manifest is None and state.enrolment != "enrolled"):
            return None
        try:
            collect(client, installed)
        except NoSpace as error:
            log.error("{}; nothing is collected until there is room", error.message)
            return error
        return None

    def _deliver(self) -> bool:
        """Submit what waits; says whether an answer brought an update, which is collected with at the next run."""
        client = self.client
        if not client.spool.waiting() or not self._enrolled():
            return False
        from penguindome.client import delivery

        result = self._guarded(lambda: delivery.deliver(client, patient=not self.now))
        if result is None:
            return False
        if result.delivered:
            log.info("{} report(s) delivered", result.delivered)
            return result.updated
        # A server that breaks down over what waits may still have the update that mends it.
        self._ask_for_updates()
        return self.updated

    def _report_commands(self, installed: Installed) -> bool:
        """Spool what one-time commands printed that have ended, together with fresh plugin outputs."""
        if not self.client.records.open_ids():
            return False
        from penguindome.client import onetime, reports

        ran = onetime.finished(self.client)
        if not ran:
            return False
        plugins = reports.collect(self.client, installed)
        reports.keep(self.client, plugins=plugins, commands={command.name: command.result for command in ran})
        onetime.conclude(self.client, ran)
        return True

    def _start_commands(self, installed: Installed) -> None:
        """Start the one-time commands that are due."""
        manifest = installed.effective
        if manifest is None or not any(name.startswith("commands/") for name in manifest.files):
            return
        from penguindome.client import onetime

        onetime.start(self.client, manifest)

    def _guarded(self, exchange: Callable[[], T]) -> T | None:
        try:
            return exchange()
        except NoSpace:
            raise
        except PenguinDomeError as error:
            # Logged and remembered where it was raised; what else there is to do this minute goes on.
            log.warning(error.message)
            self.may_ask = False
            return None


def collect(client: Client, installed: Installed) -> bool:
    """Run the plugins and spool what they report; False when the machine changed its run level meanwhile, and all was
    thrown away.

    Raises NoSpace when it cannot be kept.
    """
    from penguindome.client import reports

    before = runlevel.level(client.paths.root, thorough=True)
    plugins = {} if before in runlevel.GOING_DOWN else reports.collect(client, installed)
    after = runlevel.level(client.paths.root, thorough=True)
    if after != before or after in runlevel.GOING_DOWN:
        log.warning("the run level changed while collecting: what was collected is thrown away")
        return False
    entry = reports.keep(client, plugins=plugins, commands={})
    client.state.collected_at = client.clock()
    client.state.collect_requested = False
    client.save()
    log.info("report {} was collected", entry.sequence)
    return True


def _is_due(last: datetime | None, interval: timedelta, now: datetime) -> bool:
    """Whether `interval` has passed since `last`; a time in the future is of a clock that was wrong."""
    return last is None or last > now or now - last >= interval - SLACK
