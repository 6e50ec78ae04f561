"""Watches over the move to another release, from outside of both: it is run by a copy of the old code (see `old_code`),
in a unit of its own.

    ready --> installing --> proving --> done
                  |             |
                  +-> going-back <-+ --> failed

Each step is on the disk before it begins, and is begun again by the next watcher if this one is killed: installing and
going back do no harm when they are done twice. The minute, the boot and `resume` start a watcher for whatever is not
finished; one lock lets only one of them work.

A release that cannot be installed because of something else (a lock, a full disk, a package that is missing) is tried
again later and later; the old one is untouched then. One that leaves something half done, or does not work, goes back,
and is never tried again; where it cannot go back, what is installed stays, and that is told. The patches of the old
release are kept in the copy, for they come back with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from penguindome import json, logging, processes
from penguindome.client import (
    adoption,
    downloads,
    generations,
    installed,
    old_code,
    package_managers,
    update_record,
    updating,
)
from penguindome.client.context import Client
from penguindome.client.package_managers import Busy, PackageManager
from penguindome.client.proof import MINUTE_SECONDS, Proof, reach
from penguindome.client.settings import RELEASED
from penguindome.client.update_record import UpdateRecord
from penguindome.errors import InvalidData, PenguinDomeError, ProcessError
from penguindome.files import AlreadyRunning, patiently
from penguindome.paths import Paths

PROOF_SECONDS = MINUTE_SECONDS + 900.0
REPORT_SECONDS = 600.0
LOCK_SECONDS = 5.0
LONGEST_WAIT = 600.0
GO_BACK_ATTEMPTS = 20
"""After so many, in about three hours, going back is given up, for until then no minute runs."""
DEAF_AFTER = 5
"""So often, in turns with the old release, the new one fails to reach the server before it is taken to be the fault of
the new one: a connection that is lost now and then must not cost a good release. Then it counts like any other failure,
also for the server, which halts a release by them: that it cannot reach the server is what else would be found last."""
PATCHES = "overlay"

log = logging.get_logger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Watch; with the word `resume`, start a watcher as the minute does, or at once if need be, and end."""
    paths = Paths.from_environment()
    if "--test" in arguments:
        return 0
    # updater-N/code/penguindome/client/watcher.py
    here = Path(__file__).resolve().parents[3]
    client = Client(paths, of_release=here / RELEASED)
    logging.configure(client.settings, component="client", paths=paths)
    if "resume" in arguments:
        record = update_record.load(paths)
        if record is not None and record.phase in update_record.WATCHED:
            # What is installed may be unable to start a watcher when the time of its next attempt has come.
            updating.go_on(client, now=record.phase in update_record.INSTALLING or record.unreached > 0)
        return 0
    try:
        with patiently(lambda: update_record.lock(paths), LOCK_SECONDS):
            Watcher(paths, here).run()
    except AlreadyRunning as error:
        log.debug(error.message)
    except (PenguinDomeError, OSError) as error:
        log.error("the update does not go on: {}", error.message if isinstance(error, PenguinDomeError) else error)
        return 1
    return 0


class Watcher:
    """One attempt to bring an update to its end. `home` is the copy that this runs from."""

    def __init__(self, paths: Paths, home: Path) -> None:
        self.paths, self.home = paths, home
        self.record = update_record.load(self.paths) or UpdateRecord()
        self._interrupted = self.record.phase in update_record.INSTALLING
        # Whether what is installed may be unable to start another watcher.
        self._is_doubtful = False

    @property
    def client(self) -> Client:
        """The client as it is now: minutes write its state too, between our own looks at it."""
        return Client(self.paths, of_release=self.home / RELEASED)

    def run(self) -> None:
        """Go through the phases from the one that stands in the record, until it rests or is over."""
        steps: dict[str, Callable[[], None]] = {
            "ready": self._begin,
            "installing": self._install,
            "proving": self._prove,
            "going-back": self._go_back,
        }
        while (step := steps.get(self.record.phase)) is not None:
            attempts = self.record.attempts
            step()
            if self.record.attempts > attempts and not self._waited():
                return
        if self.record.phase in ("done", "failed"):
            self._report()
            self._clean_up()

    def _waited(self) -> bool:
        """Wait for the next attempt, if half a release may be all that is installed, or one that does not work: then no
        minute starts another watcher. Says whether that was so.
        """
        if self.record.phase not in update_record.INSTALLING and not self._is_doubtful:
            return False
        until = self.record.not_before_at
        clock = self.client.clock
        seconds = (until - clock()).total_seconds() if until is not None else 0.0
        time.sleep(min(max(seconds, 1.0), LONGEST_WAIT))
        self._interrupted = True
        return True

    def _begin(self) -> None:
        """Wait until nobody else installs, find the way back, and let the minutes stand still."""
        record = self.record
        if not downloads.is_whole(self.paths.client_cache / record.package, record.sha256):
            self._keep(replace(record, phase="offered", reason="its package was lost, and is fetched again"))
            return
        manager = self._manager()
        if busy := self._still_busy(manager):
            self._postpone(f"waits: {busy}")
            return
        try:
            way_back, digest = self._way_back(manager)
        except OSError as error:
            self._postpone(f"waits: the package of the release in force cannot be kept: {error.strerror or error}")
            return
        if not way_back:
            log.warning("no package of the release in force was kept: there is no way back from {}", record.release)
        with self._alone() as client:
            try:
                generations.copy(client.paths.client_state, self.home / PATCHES)
            except OSError as error:
                self._postpone(f"waits: the patches in force cannot be kept: {error.strerror or error}")
                return
            self._keep(
                replace(
                    record, phase="installing", reason="", way_back=way_back, way_back_sha256=digest,
                    from_version=manager.installed_version(),
                )
            )  # fmt: skip

    def _install(self) -> None:
        record, manager = self.record, self._manager()
        try:
            # What broke off, here or before, is begun once more: the second attempt mends what the first one left.
            reason = self._attempt(manager, interrupted=self._interrupted)
            if reason:
                reason = self._attempt(manager, interrupted=True)
        except Busy as error:
            self._keep(replace(record, phase=record.phase if self._interrupted else "ready"))
            self._postpone(f"waits: {error.message}")
            return
        if not reason:
            self._keep(replace(record, phase="proving", reason="", attempts=0, not_before_at=None, unreached=0))
        elif record.from_version and manager.installed_version() == record.from_version:
            # What is installed is as it was; it may be the disk, the network or another package.
            self._keep(replace(record, phase="ready"))
            self._postpone(reason)
        else:
            self._keep(replace(record, phase="going-back", reason=reason, attempts=0))

    def _attempt(self, manager: PackageManager, *, interrupted: bool) -> str:
        """Install; returns why that failed, "" when it did not. Raises Busy."""
        try:
            manager.install(self.paths.client_cache / self.record.package, interrupted=interrupted)
        except ProcessError as error:
            log.error("release {} could not be installed: {}", self.record.release, error.message)
            return f"could not be installed: {error.message}"
        return ""

    def _prove(self) -> None:
        self._interrupted = False
        record, proof = self.record, self._proof()
        self._is_doubtful = bool(proof.passing or record.unreached)
        if proof.passing and not proof.fault:
            self._postpone(f"waits: {proof.passing}")
        elif proof.fault or proof.release != record.release:
            fault = proof.fault or f"what is installed is release {proof.release}"
            self._keep(replace(record, phase="going-back", reason=f"does not work: {fault}", attempts=0))
        elif proof.reached:
            self._keep(self._finished("done", ""))
        elif unreached := reach(self.client):
            self._postpone(f"is installed, and the server cannot be reached to prove it: {unreached}")
        else:
            self._note_unreached(proof.unreached)

    def _note_unreached(self, why: str) -> None:
        """The new release could not reach the server, and the old one could: tried again, until it is no accident."""
        self._is_doubtful = True
        record = replace(self.record, unreached=self.record.unreached + 1)
        reason = f"it cannot reach the server ({why}), and the old one can"
        if record.unreached >= DEAF_AFTER:
            reason = f"does not work: {reason}, {record.unreached} times in turns"
            self._keep(replace(record, phase="going-back", reason=reason, attempts=0, unreached=0))
            return
        log.warning("release {} is tried again: {}", record.release, reason)
        pause = self.client.settings["update.reach_patience"] / (DEAF_AFTER - 1)
        again_at = self.client.clock() + pause
        self._keep(replace(record, reason=reason, attempts=record.attempts + 1, not_before_at=again_at))

    def _go_back(self) -> None:
        record = self.record
        if gone := self._gone():
            self._give_up(gone)
            return
        log.error("release {} {}; going back", record.release, record.reason)
        try:
            self._keep_minutes_away()
            self._manager().go_back(record.way_back, interrupted=True)
            with self._alone() as client:
                self._restore_manifest(client)
                generations.bring_back(client.paths.client_state, self.home / PATCHES)
        except (PenguinDomeError, OSError) as error:
            why = error.message if isinstance(error, PenguinDomeError) else str(error)
            if record.attempts + 1 >= GO_BACK_ATTEMPTS:
                self._give_up(f"going back failed {GO_BACK_ATTEMPTS} times: {why}")
                return
            log.error("going back is tried again: {}", why)
            self._keep(updating.postponed(self.client, self.record, record.reason))
            return
        self._keep(self._finished("failed", record.reason))

    def _gone(self) -> str:
        """Why there is nothing to go back to; "" when there is. What is not as it was kept is not installed."""
        record = self.record
        if not record.way_back:
            return "no package of the old release is here to go back to"
        if record.kind == "tar":
            is_whole = (self.paths.client_code.parent / record.way_back).is_dir()
        else:
            is_whole = downloads.is_whole(self.paths.client_cache / record.way_back, record.way_back_sha256)
        return "" if is_whole else f"{record.way_back}, to go back to, is gone or was changed"

    def _give_up(self, why: str) -> None:
        """Leave what is installed as it is, and let the minutes go on with it: what can still speak is not silenced."""
        record, proof, release = self.record, self._proof(), adoption.installed_release(self.paths)
        what = f"release {release} stays installed{', and does not run' if proof.fault else ''}"
        todo = f"install a package of the client by hand, or give it a release above {record.release}"
        log.error("release {} cannot be gone back from: {}; {}", record.release, why, what)
        went_back = release == record.from_release
        self._keep(self._finished("failed", f"{record.reason}; {why}; {what}: {todo}", went_back=went_back))

    def _keep_minutes_away(self) -> None:
        """Wait for a minute that began while the new release proved itself."""
        with self._alone():
            pass

    @contextmanager
    def _alone(self) -> Iterator[Client]:
        """The client, as nobody else changes it inside: the minute that is at work is waited for."""
        client = self.client
        with patiently(lambda: client.locked(while_installing=True), MINUTE_SECONDS):
            yield client

    def _restore_manifest(self, client: Client) -> None:
        """Put the manifest of the release that was gone back to in force again; the tree has it if we have not."""
        state, directory = client.state, self.paths.client_state
        kept = None
        try:
            kept = installed.load(self.home, client.identity.server_certificate, former_in=directory)
        except PenguinDomeError as error:
            log.error("the old manifest is damaged, and will be fetched again: {}", error.message)
        if kept is not None and kept.release == self.record.from_release:
            document = json.loads_plain((self.home / installed.NAME).read_bytes())
            installed.keep(directory, document["text"], document["signature"], document.get("described_by"))
        else:
            (directory / installed.NAME).unlink(missing_ok=True)
        state.went_back_to = self.record.from_release
        state.judged_manifest = ""
        state.collect_requested = True
        client.save()

    def _proof(self) -> Proof:
        """What the new client says about itself. One that says nothing that makes sense does not work."""
        words = [str(self.paths.client_code / "venv/bin/python"), "-I", "-m", "penguindome.client", "prove"]
        try:
            said = processes.run(words, timeout=PROOF_SECONDS, check=False)
        except ProcessError as error:
            return Proof(fault=error.message)
        try:
            return Proof.from_document(json.loads_plain(said.stdout))
        except InvalidData as error:
            last = (said.stderr.decode("utf-8", "replace").strip().splitlines() or [error.message])[-1]
            return Proof(fault=f"it ended with status {said.returncode}: {last[:300]}")

    def _finished(self, phase: str, reason: str, *, went_back: bool = True) -> UpdateRecord:
        record = replace(
            self.record, phase=phase, reason=reason, finished_at=self.client.clock(), attempts=0, not_before_at=None
        )
        if phase == "done":
            log.info("this machine moved to release {}", record.release)
            kept = (record.release, record.package, record.sha256)
        else:
            record.failed = {**record.failed, str(record.release): reason[:500]}
            kept = (record.from_release, record.way_back, record.way_back_sha256)
            if not went_back:
                kept = (record.release, record.package, record.sha256)
        record.kept_release, record.kept_package, record.kept_sha256 = kept
        return record

    def _report(self) -> None:
        """Collect and submit at once, with the client that works."""
        words = [str(self.paths.client_code / "venv/bin/python"), "-I", "-m", "penguindome.client", "run", "--now"]
        try:
            processes.run(words, timeout=REPORT_SECONDS)
        except ProcessError as error:
            from penguindome.client.minute import Minute

            log.warning("the old code reports in the place of the installed one: {}", error.message)
            with self._alone() as client:
                Minute(client, now=True).run()

    def _clean_up(self) -> None:
        downloads.prune(self.paths.client_cache, [self.record.kept_package])
        old_code.prune(self.paths)

    def _way_back(self, manager: PackageManager) -> tuple[str, str]:
        """The old package in our cache, and its SHA-256: the one we installed, else what the package manager kept."""
        record = self.record
        if record.kind == "tar":
            return manager.way_back(), ""
        ours = self.paths.client_cache / (record.kept_package or ".")
        if record.kept_release == record.from_release and downloads.is_whole(ours, record.kept_sha256):
            return record.kept_package, record.kept_sha256
        name = manager.way_back()
        return name, downloads.digest(self.paths.client_cache / name) if name else ""

    def _still_busy(self, manager: PackageManager) -> str:
        deadline = time.monotonic() + self.client.settings["update.lock_patience"].total_seconds()
        while busy := manager.busy():
            if self.record.reason != f"waits: {busy}":
                self._keep(replace(self.record, reason=f"waits: {busy}"))
            if time.monotonic() > deadline:
                return busy
            time.sleep(2)
        return ""

    def _manager(self) -> PackageManager:
        return package_managers.for_kind(self.record.kind, self.paths)

    def _postpone(self, reason: str) -> None:
        log.warning("release {} {}", self.record.release, reason)
        self._keep(updating.postponed(self.client, self.record, reason))

    def _keep(self, record: UpdateRecord) -> None:
        update_record.save(self.paths, record)
        self.record = record
