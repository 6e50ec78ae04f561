"""Wiping a machine that is lost: its people's processes, homes and accounts, and on demand the keys of its disks.

In this order, each step told to the server as it is done, and a failing one not keeping the others from being done:
1. accounts are locked, their jobs taken away, their processes killed: nobody is left who could move things about;
2. whatever shows what lies elsewhere (network, FUSE) is detached, so that nothing of it can be touched;
3. homes are emptied and deleted, across what is local inside of them, and mail with them;
4. accounts are deleted: last, so that an attempt that was cut off finds what was left;
5. with `luks`, the keys of this machine's disks. It is then switched off: its memory holds their last copies.
What is not deleted is named. Nothing is overwritten: on today's disks that would not reach what it should.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penguindome import processes, systemd
from penguindome.client import accounts, attempts, detaching, killing, luks, mounts
from penguindome.client.accounts import Account
from penguindome.client.acknowledgement import tell
from penguindome.client.erase import Erased, erase
from penguindome.client.errors import NoSpace
from penguindome.errors import PenguinDomeError, ProcessError
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.actions import Action
    from penguindome.client.action_records import Record
    from penguindome.client.context import Client

ETC = Path("/etc")
MAIL = ("/var/mail", "/var/spool/mail")
JOBS = ("/var/spool/cron/crontabs", "/var/spool/cron", "/var/lib/systemd/linger")
AT_JOBS = ("/var/spool/cron/atjobs", "/var/spool/at", "/var/spool/atjobs")
SILENCE = 60.0
MOST_ROUNDS = 5
LONGEST_DETAIL = 1000

log = get_logger(__name__)


def carry_out(client: Client, record: Record, action: Action) -> bool:
    """One attempt, whose steps and end go into the record; the caller saves and tells the end. Says whether the machine
    is to be switched off then: the keys of its disks are gone.
    """
    if client.paths.root != Path("/"):
        record.running = False
        record.conclude("failed", "this client works below another root: nothing was wiped", steps=[])
        return False
    wiping = Wiping(record.result, _Progress(client, record))
    log.warning("wiping this machine: {}", action.parameters["reason"])
    wiping.run(is_last=record.attempt >= attempts.WIPE_ATTEMPTS)
    erased = wiping.destroy_keys() if action.parameters["luks"] else False
    if erased:
        # No attempt can follow.
        record.attempt = max(record.attempt, attempts.WIPE_ATTEMPTS)
    failed = [step["name"] for step in wiping.steps if step["outcome"] == "failed"]
    reason = f"not done: {', '.join(failed)}"[:LONGEST_DETAIL] if failed else None
    os.sync()
    attempts.end(record, now=client.clock(), seed=client.identity.client_id, reason=reason, steps=wiping.steps)
    return erased


def switch_off() -> None:
    """Now: nobody is left here to be asked."""
    for words in (["systemctl", "--ignore-inhibitors", "poweroff"], ["poweroff"]):
        with suppress(ProcessError):
            processes.run(words, timeout=60)
            return


class _Progress:
    """Keeps and tells what was done so far. A server that cannot be reached does not keep us from going on."""

    def __init__(self, client: Client, record: Record) -> None:
        self._client = client
        self._record = record
        self._quiet_until = 0.0

    def __call__(self, steps: list[dict[str, str]]) -> None:
        record = self._record
        record.conclude("trying", "it is being wiped", attempt=record.attempt, steps=steps)
        if time.monotonic() < self._quiet_until:
            self._keep()
            return
        try:
            # It is kept as what was told.
            tell(self._client, record)
        except PenguinDomeError as error:
            self._keep()
            log.warning("the server cannot be told: {}", error.message)
            self._quiet_until = time.monotonic() + SILENCE

    def _keep(self) -> None:
        with suppress(NoSpace):
            # There will be room when this is done.
            self._client.records.save(self._record)


class Wiping:
    """One attempt. `steps` holds what was done, those of attempts before it included, as the server is told."""

    def __init__(self, before: dict[str, Any] | None, progress: Callable[[list[dict[str, str]]], None]) -> None:
        self._steps = {step["name"]: step for step in (before or {}).get("steps", ())}
        self._progress = progress
        self._begun: set[str] = set()
        # Before anything is detached: the files of loop devices may lie there.
        self._mounted = mounts.read()

    @property
    def steps(self) -> list[dict[str, str]]:
        """`name`, `outcome` (done, failed, begun) and `detail` of each step."""
        return list(self._steps.values())

    def run(self, *, is_last: bool) -> None:
        """Everything but the keys. On the last attempt, accounts go whatever is left of their homes."""
        everybody = accounts.read_accounts(ETC)
        humans = accounts.people(everybody, accounts.range_of_people(ETC))
        for account in humans:
            self._step(f"lock {account.name}", partial(_lock, account))
            self._step(f"jobs of {account.name}", partial(_remove_jobs, account))
        # Together: one could run what belongs to another.
        self._step("processes", lambda: _kill(humans))
        # Before anything is looked at: a share whose server is gone makes whoever looks wait for ever.
        self._step("network and FUSE mounts", lambda: _detach_all([]))
        homes = {account: os.path.realpath(account.home) for account in humans}
        refused = {account: accounts.refusal(account, homes[account], everybody, humans) for account in humans}
        erasable = sorted({homes[account] for account in humans if refused[account] is None})
        self._step("mounts in homes", lambda: _detach_all(erasable))
        for account in humans:
            self._delete(account, homes[account], refused[account], erasable, is_last=is_last)
        self._step("people", lambda: f"{len(humans)} accounts" if humans else None)

    def destroy_keys(self) -> bool:
        """The keys of all encrypted disks; says whether there were any that are gone now."""
        found, elsewhere = luks.devices(self._mounted)
        if elsewhere:
            self._step("network disks", lambda: f"left alone: {', '.join(elsewhere)}")
        if not found:
            self._step("encrypted disks", lambda: None)
        done = [self._step(f"keys of {device}", partial(luks.erase, device)) for device in found]
        return any(done)

    def _delete(self, account: Account, home: str, refused: str | None, homes: list[str], *, is_last: bool) -> None:
        name = f"home of {account.name}"
        if refused is None:
            is_ours = self._begin(name, home)
            emptied = self._step(name, lambda: self._erase_home(account, home, homes, is_ours=is_ours))
        else:
            emptied = self._step(name, lambda: _refuse(refused))
        self._step(f"mail of {account.name}", lambda: _erase_all(_mail(account), homes))
        if emptied or refused is not None or is_last:
            self._step(f"account {account.name}", lambda: _delete_account(account))
        else:
            self._step(f"account {account.name}", lambda: _refuse("it is locked, and stays until its home is empty"))

    def _begin(self, name: str, home: str) -> bool:
        """Keep that a home is being deleted, should this be cut off; says whether it is there, or was deleted by us."""
        is_ours = self._steps.get(name, {}).get("outcome") in ("done", "begun")
        if os.path.lexists(home):
            is_ours = True
            self._steps[name] = {"name": name, "outcome": "begun", "detail": "it is being deleted"}
            self._progress(self.steps)
        # People may share a home.
        is_ours = is_ours or any(mounts.is_below(home, other) for other in self._begun)
        if is_ours:
            self._begun.add(home)
        return is_ours

    def _erase_home(self, account: Account, home: str, homes: list[str], *, is_ours: bool) -> str | None:
        told = _erase_home(account, home, homes)
        if is_ours:
            return told
        around = mounts.holding(self._mounted, home)
        if around is not None and around.is_remote:
            return f"it lies on {around.point} ({around.kind}), and was not touched"
        raise _Left(f"{home} was not there, and it was not this wipe that deleted it")

    def _step(self, name: str, work: Callable[[], str | None]) -> bool:
        before = self._steps.pop(name, {})
        try:
            outcome, detail = "done", work()
        except (PenguinDomeError, OSError) as error:
            outcome, detail = "failed", str(error)
        if detail is None:
            # An attempt before this one did it.
            detail = before["detail"] if before.get("outcome") == "done" else "nothing to do"
        # The server takes no half characters, as names of files may have them.
        detail = detail.encode("utf-8", "backslashreplace").decode()
        log.warning("wipe: {}: {} {}", name, outcome, detail)
        self._steps[name] = {"name": name, "outcome": outcome, "detail": detail[:LONGEST_DETAIL]}
        self._progress(self.steps)
        return outcome == "done"


class _Left(PenguinDomeError):
    """Something is left that should be gone."""


def _refuse(why: str) -> str:
    raise _Left(why)


def _detach_all(homes: list[str]) -> str | None:
    """Detach until nothing is left to detach: a mount may have hidden another."""
    detached: list[str] = []
    for _ in range(MOST_ROUNDS):
        mounted = mounts.read()
        going = mounts.to_detach(mounted, homes, kept=accounts.SYSTEM_DIRECTORIES)
        if not going:
            return ", ".join(detached) or None
        for mount in mounts.highest(going, mounted):
            with suppress(OSError):
                detaching.detach(mount.point, mount.number)
                detached.append(f"{mount.point} ({mount.kind})")
    left = mounts.to_detach(mounts.read(), homes, kept=accounts.SYSTEM_DIRECTORIES)
    if left:
        raise _Left("still mounted: " + ", ".join(f"{mount.point} ({mount.kind})" for mount in left))
    return ", ".join(detached)


def _lock(account: Account) -> str:
    processes.run(["usermod", "--lock", "--expiredate", "1", account.name], timeout=60)
    return "locked"


def _remove_jobs(account: Account) -> str | None:
    removed = []
    for path in (Path(place, account.name) for place in JOBS):
        if path.is_file() and not path.is_symlink():
            path.unlink()
            removed.append(str(path))
    for place in AT_JOBS:
        for path in Path(place).iterdir() if Path(place).is_dir() else ():
            status = path.lstat()
            if status.st_uid == account.uid and path.is_file() and not path.is_symlink():
                path.unlink()
                removed.append(str(path))
    return ", ".join(removed) or None


def _kill(humans: Sequence[Account]) -> str | None:
    if systemd.RUNS.is_dir() and shutil.which("loginctl"):
        for account in humans:
            with suppress(ProcessError):
                processes.run(["loginctl", "terminate-user", account.name], timeout=30, check=False)
    others = [each for account in humans for each in accounts.subordinate_numbers(ETC, account.name)]
    killed, left = killing.kill([account.uid for account in humans], others)
    if left:
        raise _Left(f"{len(left)} processes cannot be killed: {', '.join(map(str, left[:20]))}")
    return f"{killed} killed" if killed else None


def _mail(account: Account) -> list[str]:
    return [f"{os.path.realpath(place)}/{account.name}" for place in MAIL]


def _erase_home(account: Account, home: str, homes: list[str]) -> str | None:
    # What ecryptfs keeps the contents of homes in, beside them.
    hidden = f"{Path(home).parent}/.ecryptfs/{account.name}"
    told = _erase_all((home, hidden), homes)
    if Path(account.home).is_symlink():
        Path(account.home).unlink()
    return told


def _erase_all(paths: Iterable[str], homes: list[str]) -> str | None:
    mounted = mounts.read()
    going = {mount.number for mount in mounts.to_detach(mounted, homes, kept=accounts.SYSTEM_DIRECTORIES)}
    local = {mount.number for mount in mounted if mount.is_local} - going
    total = Erased()
    for path in dict.fromkeys(paths):
        result = erase(path, may_enter=lambda number: number in local)
        total = Erased(total.gone + result.gone, total.left + result.left, total.shown + result.shown)
    if total.left:
        raise _Left(f"{total.gone} files and directories were deleted, {total.left} were not: {'; '.join(total.shown)}")
    return f"{total.gone} files and directories were deleted" if total.gone else None


def _delete_account(account: Account) -> str:
    try:
        processes.run(["userdel", account.name], timeout=120)
    except ProcessError:
        if any(each.name == account.name for each in accounts.read_accounts(ETC)):
            processes.run(["userdel", "--force", account.name], timeout=120)
    return "deleted"
