"""Moving to a release that the server offers: what is taken, what is refused, and what comes of it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import penguindome
from client_packages import DEAF, NO_MODULE
from client_peer import Fault, Peer, soon
from client_releases import Release, ReleasedMachine
from needs import require
from penguindome import json
from penguindome.client import proof, update_record
from penguindome.client.update_record import UpdateRecord
from penguindome.errors import InvalidData
from penguindome.files import FileLock, patiently
from penguindome.openpgp import DeviceKey
from penguindome.paths import Paths
from penguindome.release import PackageFile
from penguindome.times import utc_now

SOURCES = Path(penguindome.__file__).parent


@pytest.fixture
def laptop(paths: Paths, peer: Peer, tmp_path: Path) -> ReleasedMachine:
    """A machine of release 1 that reports."""
    return ReleasedMachine(paths, peer, tmp_path / "releases")


def assert_still_works(laptop: ReleasedMachine, number: int) -> None:
    """The release is whole, in force, and reports."""
    assert laptop.installed_release() == number
    laptop.ok("verify")
    laptop.ok("run", "--now")
    report = laptop.peer.reports[-1]["plugins"]
    assert report["hello"] == {"release": number}
    assert report["penguindome"]["manifest"] == "ok"
    assert report["penguindome"]["verification"] == []
    assert report["penguindome"]["release"] == number


def test_a_machine_moves_to_the_release_that_is_offered_and_reports_it(laptop: ReleasedMachine, peer: Peer) -> None:
    laptop.offer(Release(2))
    laptop.ok("run")
    laptop.settle("done")
    assert peer.reports[-1]["plugins"]["hello"] == {"release": 2}
    reported = laptop.reported()
    assert (reported["release"], reported["status"], reported["reason"]) == (2, "done", None)
    assert laptop.client().state.highest_release == 2
    assert list(laptop.paths.client_state.glob("updater-*")) == []
    assert_still_works(laptop, 2)


def test_two_releases_after_one_another_leave_the_one_before_to_go_back_to(laptop: ReleasedMachine) -> None:
    for number in (2, 3):
        laptop.offer(Release(number))
        laptop.ok("run")
        laptop.settle("done")
    there = {path.name for path in (laptop.paths.client_code.parent / "releases").iterdir()}
    assert there == {"client-2", "client-3"}
    assert [path.name for path in laptop.paths.client_cache.iterdir()] == ["penguindome-client-3+0.1.0.tar"]
    assert_still_works(laptop, 3)


def refused_offers() -> dict[str, dict[str, Any]]:
    now = utc_now()
    ours = PackageFile("a.deb", "0" * 64, 1)
    return {
        "by another key": {"signer": DeviceKey.generate("server")},
        "not above the one in force": {"release": 1},
        "expired": {"issued_at": now - timedelta(days=9), "expires_at": now - timedelta(days=1)},
        "for another machine": {"machine": "pdp11"},
        "without our kind of package": {"packages": {"deb": ours}},
    }


@pytest.mark.parametrize("how", sorted(refused_offers()))
def test_a_release_that_may_not_be_taken_is_refused_and_said_to_be(
    laptop: ReleasedMachine, peer: Peer, how: str
) -> None:
    laptop.offer(Release(2), **refused_offers()[how])
    laptop.ok("run")
    laptop.ok("run")
    assert peer.ranges == []
    reported = laptop.reported()
    assert (reported["release"], reported["status"]) == (2, "failed")
    assert reported["reason"].startswith("refused: ")
    assert "refused: " in laptop.ok("status")
    laptop.offer(Release(2))
    laptop.ok("run")
    laptop.settle("done")
    assert_still_works(laptop, 2)


def test_a_release_below_the_highest_that_was_ever_in_force_is_refused(laptop: ReleasedMachine) -> None:
    laptop.offer(Release(3))
    laptop.ok("run")
    laptop.settle("done")
    laptop.offer(Release(2))
    laptop.peer.offered = (9, *(laptop.peer.offered or (0, "", ""))[1:])
    laptop.ok("run")
    assert "release 2 was offered after release 3" in laptop.record.refused_reason
    assert_still_works(laptop, 3)


def resume(laptop: ReleasedMachine) -> None:
    """What the boot does."""
    (program,) = laptop.paths.client_state.glob("updater-*/resume")
    subprocess.run([program], env=laptop.environment(), check=True)


BROKEN = {
    "a module is missing": (Release(2, code=NO_MODULE), "nothing_of_this_name"),
    "a file is not as signed": (Release(2, spoilt={"plugins/hello.sh": "#!/bin/sh\n"}), "plugins/hello.sh: changed"),
    "its code is not as signed": (
        Release(2, spoilt={"code/penguindome/times.py": (SOURCES / "times.py").read_text() + "#\n"}),
        "code/penguindome/times.py: changed",
    ),
    "its settings do not fit": (Release(2, files={"settings/site.yml": "update.spread: many\n"}), "update.spread"),
    "no plugin runs": (Release(2, files={"plugins/hello.sh": "#!/bin/sh\nexit 3\n"}), "plugins runs"),
    "it cannot reach the server": (Release(2, code=DEAF), "(deaf), and the old one can, 5 times in turns"),
}


@pytest.mark.parametrize("how", sorted(BROKEN))
def test_a_release_that_does_not_work_goes_back_and_is_reported(laptop: ReleasedMachine, how: str) -> None:
    made, reason = BROKEN[how]
    laptop.offer(made)
    laptop.ok("run")
    laptop.settle("failed")
    reported = laptop.reported()
    assert (reported["release"], reported["status"]) == (2, "failed")
    assert reason in reported["reason"]
    assert reason in laptop.ok("status")
    assert_still_works(laptop, 1)
    # It is never tried again; the next one is.
    laptop.ok("run")
    assert laptop.record.phase == "failed"
    laptop.offer(Release(3))
    laptop.ok("run")
    laptop.settle("done")
    assert_still_works(laptop, 3)


def test_the_patches_of_before_come_back_with_the_release_that_they_were_laid_over(
    laptop: ReleasedMachine, peer: Peer
) -> None:
    laptop.patch({"plugins/new.sh": "#!/bin/sh\necho '\"patched\"'\n"})
    laptop.ok("run")
    laptop.offer(BROKEN["it cannot reach the server"][0])
    laptop.ok("run")
    laptop.settle("failed")
    assert_still_works(laptop, 1)
    assert peer.reports[-1]["plugins"]["new"] == "patched"
    assert peer.reports[-1]["plugins"]["penguindome"]["patches"] == ["plugins/new.sh"]
    laptop.offer(Release(3))
    laptop.ok("run")
    laptop.settle("done")
    assert_still_works(laptop, 3)
    assert peer.reports[-1]["plugins"]["penguindome"]["patches"] == []


def begin_a_proof_that_waits(laptop: ReleasedMachine) -> Path:
    """Offer release 2, and return once it is being tried: it waits for the returned file to go."""
    hold = laptop.paths.root / "hold-proof"
    hold.touch()
    waits = f"#!/bin/sh\nwhile [ -e {hold} ]; do sleep 0.02; done\necho '{{\"release\": 2}}'\n"
    laptop.offer(Release(2, files={"plugins/hello.sh": waits}))
    laptop.ok("run")
    laptop.reach("proving")
    return hold


def test_a_machine_without_a_network_keeps_what_it_installed_and_proves_it_later(
    laptop: ReleasedMachine, peer: Peer
) -> None:
    hold = begin_a_proof_that_waits(laptop)
    peer.always = Fault(drop=True)
    hold.unlink()
    laptop.settle("proving", because="cannot be reached")
    assert laptop.installed_release() == 2
    laptop.ok("run", "--now")
    laptop.settle("proving", attempts=2)
    assert "cannot be reached" in laptop.ok("status")
    peer.always = None
    laptop.ok("run", "--now")
    laptop.settle("done")
    assert_still_works(laptop, 2)


@pytest.mark.parametrize("lost", [1, 2])
def test_connections_that_are_lost_now_and_then_condemn_no_release(
    laptop: ReleasedMachine, peer: Peer, lost: int
) -> None:
    hold = begin_a_proof_that_waits(laptop)
    asked = len(peer.requests)

    def lose(_endpoint: str) -> None:
        # The new release asks first, and the old one right after it.
        before = len(peer.requests) - asked
        peer.always = Fault(drop=True) if before in range(0, 2 * lost, 2) else None

    peer.on_request = lose
    hold.unlink()
    laptop.settle("done")
    assert_still_works(laptop, 2)


BUSY = {
    "client/proof.py": (SOURCES / "client/proof.py").read_text()
    + """
_prove = prove


def prove(client: Client) -> Proof:
    if (client.paths.root / "busy").exists():
        return Proof(passing="another run holds the lock")
    return _prove(client)
"""
}


def test_what_keeps_a_release_from_being_tried_is_waited_for_and_condemns_nothing(laptop: ReleasedMachine) -> None:
    busy = laptop.paths.root / "busy"
    busy.touch()
    laptop.offer(Release(2, code=BUSY))
    laptop.ok("run")
    assert soon(lambda: laptop.record.attempts == 1, 60), laptop.record
    assert (laptop.record.phase, laptop.record.reason) == ("proving", "waits: another run holds the lock")
    assert "it waits: another run holds the lock" in laptop.ok("status")
    # The watcher waits itself, for a release that keeps its own minutes from working could not start another.
    assert laptop.is_watched_by_copy()
    laptop.kill_watcher()
    busy.unlink()
    laptop.ok("run", "--now")
    laptop.settle("done")
    assert_still_works(laptop, 2)


def test_a_full_disk_is_not_the_fault_of_the_release_that_is_tried(laptop: ReleasedMachine) -> None:
    by_hand(laptop, Release(2))
    with small(laptop.paths.client_state, "4m") as state:
        with suppress(OSError), (state / "filling").open("wb", buffering=0) as filling:
            while True:
                filling.write(b"x" * 4096)
        said = json.loads(laptop.run("prove").stdout)
        assert said["fault"] == ""
        assert "no space" in said["passing"].lower()


def test_a_minute_that_is_at_work_is_not_the_fault_of_the_release_that_is_tried(laptop: ReleasedMachine) -> None:
    with laptop.client().locked():
        tried = proof.prove(laptop.client(), patience=0)
    assert tried.fault == ""
    assert "another run" in tried.passing


def test_what_another_release_says_of_itself_may_have_other_fields() -> None:
    said = proof.Proof(release=2, reached=True).to_document()
    del said["passing"]
    assert proof.Proof.from_document({**said, "new": [1]}) == proof.Proof(release=2, reached=True)
    with pytest.raises(InvalidData):
        proof.Proof.from_document({**said, "reached": 1})


def without_plugins(laptop: ReleasedMachine) -> Release:
    """A release of which no plugin runs, and which is otherwise whole. While it proves that, `hold-proof` holds it."""
    held = f"#!/bin/sh\nwhile [ -e {laptop.paths.root}/hold-proof ]; do sleep 0.02; done\nexit 3\n"
    return Release(2, files={"plugins/hello.sh": held})


def test_what_cannot_be_gone_back_from_stays_and_goes_on_with_its_minutes(laptop: ReleasedMachine) -> None:
    (laptop.paths.root / "hold-proof").touch()
    laptop.offer(without_plugins(laptop))
    laptop.ok("run")
    laptop.reach("proving")
    shutil.rmtree(laptop.paths.client_code.parent / "releases/client-1")
    (laptop.paths.root / "hold-proof").unlink()
    laptop.settle("failed", because="releases/client-1, to go back to, is gone or was changed")
    assert "release 2 stays installed, and does not run: install a package" in laptop.reported()["reason"]
    said = laptop.ok("status")
    assert "This machine stays with release 2" in said
    assert "release 1 is in force" not in said
    reports = len(laptop.peer.reports)
    laptop.ok("run", "--now")
    assert len(laptop.peer.reports) > reports
    laptop.offer(Release(3))
    laptop.ok("run")
    laptop.settle("done")
    assert_still_works(laptop, 3)


def test_going_back_is_tried_often_and_not_for_ever(laptop: ReleasedMachine) -> None:
    (laptop.paths.root / "hold-proof").touch()
    laptop.offer(without_plugins(laptop))
    laptop.ok("run")
    laptop.reach("proving")
    # What the link is made with cannot be removed.
    (laptop.paths.client_code.with_name("client.new") / "x").mkdir(parents=True)
    (laptop.paths.root / "hold-proof").unlink()
    assert soon(lambda: laptop.record.phase == "going-back" and laptop.record.attempts == 1, 60), laptop.record
    laptop.kill_watcher()
    later = utc_now() + timedelta(minutes=50)
    update_record.save(laptop.paths, replace(laptop.record, attempts=19, not_before_at=later))
    # The boot does not wait for the next attempt: nobody else might start a watcher then.
    resume(laptop)
    laptop.settle("failed", because="going back failed 20 times")
    laptop.ok("run", "--now")


def test_patches_that_cannot_come_back_at_once_come_back_later(laptop: ReleasedMachine, peer: Peer) -> None:
    require(os.geteuid() == 0, "root alone mounts")
    laptop.patch({"plugins/new.sh": "#!/bin/sh\necho '\"patched\"'\n"})
    laptop.ok("run")
    (laptop.paths.root / "hold-proof").touch()
    laptop.offer(without_plugins(laptop))
    laptop.ok("run")
    assert soon(lambda: laptop.client().state.highest_release == 2, 60), laptop.record
    generations = str(laptop.paths.client_state / "generations")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "test", generations], check=True)
    try:
        (laptop.paths.root / "hold-proof").unlink()
        assert soon(lambda: laptop.record.phase == "going-back" and laptop.record.attempts == 1, 60), laptop.record
        laptop.kill_watcher()
    finally:
        subprocess.run(["umount", "--lazy", generations], check=True)
    resume(laptop)
    laptop.settle("failed", because="plugins runs")
    assert_still_works(laptop, 1)
    assert peer.reports[-1]["plugins"]["new"] == "patched"


def test_a_package_that_was_changed_is_not_gone_back_to(laptop: ReleasedMachine) -> None:
    laptop.paths.client_cache.mkdir(parents=True)
    (laptop.paths.client_cache / "old.deb").write_bytes(b"changed")
    kept = {"kind": "deb", "way_back": "old.deb", "way_back_sha256": sha256(b"kept").hexdigest(), "from_release": 0}
    update_record.save(laptop.paths, UpdateRecord(phase="going-back", release=1, reason="does not work: why", **kept))
    laptop.ok("watch")
    laptop.settle(
        "failed", because="old.deb, to go back to, is gone or was changed; release 1 stays installed: install"
    )
    assert_still_works(laptop, 1)


def test_a_download_that_broke_off_goes_on_where_it_stopped(laptop: ReleasedMachine, peer: Peer) -> None:
    laptop.offer(Release(2))
    peer.break_after.append(200_000)
    laptop.ok("run")
    assert laptop.record.phase == "offered"
    assert "cannot be reached" in laptop.record.reason
    size = len(peer.packages[2, "tar"])
    assert f"downloaded ({200_000 * 100 // size} %)" in laptop.ok("status")
    laptop.ok("run", "--now")
    laptop.settle("done")
    assert peer.ranges == [None, "bytes=200000-"]
    assert_still_works(laptop, 2)


def test_a_download_begins_anew_when_the_file_at_the_server_changed(laptop: ReleasedMachine, peer: Peer) -> None:
    laptop.offer(Release(2))
    right = peer.packages[2, "tar"]
    peer.packages[2, "tar"] = right[::-1]
    peer.break_after.append(200_000)
    laptop.ok("run")
    peer.packages[2, "tar"] = right
    laptop.ok("run", "--now")
    laptop.settle("done")
    assert_still_works(laptop, 2)


@pytest.mark.parametrize("contents", [b"x", b"x" * 50_000_000], ids=["another", "longer"])
def test_what_is_not_the_signed_package_is_deleted_and_told(
    laptop: ReleasedMachine, peer: Peer, contents: bytes
) -> None:
    laptop.offer(Release(2))
    right = peer.packages[2, "tar"]
    peer.packages[2, "tar"] = contents.ljust(len(right), b"x")
    laptop.ok("run")
    assert list(laptop.paths.client_cache.iterdir()) == []
    laptop.ok("run", "--now")
    assert laptop.reported()["status"] == "pending"
    assert "server sent" in laptop.reported()["reason"]
    peer.packages[2, "tar"] = right
    laptop.ok("run", "--now")
    laptop.settle("done")
    assert_still_works(laptop, 2)


@contextmanager
def small(directory: Path, size: str) -> Iterator[Path]:
    """A file system of that size in the place of a directory, with what lies there."""
    require(os.geteuid() == 0, "root alone mounts")
    aside = directory.with_name(f"{directory.name}.aside")
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copytree(directory, aside)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0700,size={size}", "test", str(directory)], check=True)
    try:
        shutil.copytree(aside, directory, dirs_exist_ok=True)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_full_disk_keeps_a_release_from_being_downloaded_and_harms_nothing(laptop: ReleasedMachine) -> None:
    laptop.offer(Release(2))
    with small(laptop.paths.client_cache, "20m") as cache:
        laptop.ok("run")
        assert list(cache.iterdir()) == []
        assert "MB are free" in laptop.record.reason
        assert "MB are free" in laptop.ok("status")
        assert_still_works(laptop, 1)
        subprocess.run(["mount", "-o", "remount,size=200m", str(cache)], check=True)
        laptop.ok("run", "--now")
        laptop.settle("done")
    assert_still_works(laptop, 2)


def test_a_disk_too_full_for_the_copy_of_the_old_code_lets_the_update_wait(laptop: ReleasedMachine) -> None:
    laptop.offer(Release(2))
    with small(laptop.paths.client_state, "1m") as state:
        laptop.ok("run")
        laptop.settle("ready", because="No space left")
        assert list(state.glob("updater-*")) == []
        assert_still_works(laptop, 1)
        subprocess.run(["mount", "-o", "remount,size=200m", str(state)], check=True)
        laptop.ok("run", "--now")
        laptop.settle("done")
        assert_still_works(laptop, 2)


def test_an_installation_that_fails_and_changes_nothing_is_tried_again(laptop: ReleasedMachine) -> None:
    laptop.offer(Release(2))
    (laptop.paths.root / "fail-install").write_text("the disk is full")
    laptop.ok("run")
    laptop.settle("ready", because="the disk is full")
    laptop.ok("run")
    assert laptop.record.attempts == 1
    assert_still_works(laptop, 1)
    (laptop.paths.root / "fail-install").unlink()
    laptop.ok("run", "--now")
    laptop.settle("done")
    assert_still_works(laptop, 2)


def test_a_release_that_is_withdrawn_before_it_was_installed_is_left_alone(laptop: ReleasedMachine) -> None:
    (laptop.paths.settings / "client.yml").write_text("update.spread: 6h\n")
    laptop.offer(Release(2))
    laptop.ok("run")
    assert laptop.record.phase == "offered"
    assert laptop.peer.ranges == []
    laptop.peer.offered = None
    laptop.ok("run", "--now")
    assert laptop.record.phase == "done"
    assert laptop.record.release == 0
    assert_still_works(laptop, 1)


def test_a_machine_that_shall_not_move_by_itself_does_not(laptop: ReleasedMachine) -> None:
    (laptop.paths.settings / "client.yml").write_text("update.automatic: false\n")
    laptop.offer(Release(2))
    laptop.ok("run", "--now")
    assert laptop.peer.ranges == []
    assert_still_works(laptop, 1)


@pytest.mark.parametrize(("kind", "how"), [("deb", "sudo apt install"), ("pacman", "sudo pacman"), ("tar", "./setup")])
def test_where_people_install_releases_they_are_told_which_one_waits_and_how(
    laptop: ReleasedMachine, kind: str, how: str
) -> None:
    (laptop.paths.settings / "client.yml").write_text("update.automatic: false\n")
    (laptop.paths.client_code / "package-kind").write_text(f"{kind}\n")
    assert laptop.ok("update") == "There is nothing new.\n"
    package = PackageFile("a.package", "0" * 64, 1)
    laptop.offer(Release(2), packages={kind: package})
    for said in (laptop.ok("update"), laptop.ok("status")):
        assert "Release 2 waits" in said
        assert how in said
        assert "nothing new" not in said
        assert "All is well" not in said
    laptop.peer.offered = None
    assert laptop.ok("update") == "There is nothing new.\n"
    assert "Release 2" not in laptop.ok("status")


def test_a_release_that_was_installed_by_hand_waits_no_more(laptop: ReleasedMachine, peer: Peer) -> None:
    (laptop.paths.settings / "client.yml").write_text("update.automatic: false\n")
    laptop.offer(Release(2))
    assert "Release 2 waits" in laptop.ok("update")
    by_hand(laptop, Release(2))
    peer.always = Fault(drop=True)
    laptop.ok("run", "--now")
    assert "waits" not in laptop.ok("status")


def test_while_a_release_is_installed_the_minute_and_a_person_wait(laptop: ReleasedMachine, peer: Peer) -> None:
    (laptop.paths.root / "hold-install").touch()
    laptop.offer(Release(2))
    laptop.ok("run")
    laptop.reach("installing")
    before = len(peer.requests)
    laptop.ok("run", "--now")
    refused = laptop.run("collect")
    assert refused.returncode == 1
    assert b"release 2 is being installed" in refused.stderr
    assert len(peer.requests) == before
    assert "is being installed" in laptop.ok("status")
    (laptop.paths.root / "hold-install").unlink()
    laptop.settle("done")


def test_settings_that_a_release_brings_are_in_force_below_those_of_the_machine(laptop: ReleasedMachine) -> None:
    brought = {"settings/10-site.yml": "plugins.disabled: [other]\nschedule.collect_interval: 20m\n"}
    other = {"plugins/other.sh": "#!/bin/sh\necho 1\n"}
    laptop.offer(Release(2, files={**brought, **other}))
    with (laptop.paths.settings / "client.yml").open("a") as own:
        own.write("schedule.collect_interval: 10m\n")
    laptop.ok("run")
    laptop.settle("done")
    assert set(laptop.peer.reports[-1]["plugins"]) == {"hello", "penguindome"}
    assert laptop.client().settings["schedule.collect_interval"] == timedelta(minutes=10)


def by_hand(laptop: ReleasedMachine, made: Release) -> None:
    """Install as a person does, past the client."""
    made.make(laptop.directory, laptop.peer.server_key)
    setup = laptop.directory / f"release-{made.number}/setup"
    subprocess.run([setup, "--release-only"], env=laptop.environment(), check=True)


def test_a_release_that_a_person_installed_is_adopted_with_its_manifest(laptop: ReleasedMachine) -> None:
    by_hand(laptop, Release(2))
    laptop.ok("run")
    assert laptop.client().state.highest_release == 2
    assert_still_works(laptop, 2)


def test_an_older_release_that_a_person_installed_is_not_adopted(laptop: ReleasedMachine) -> None:
    by_hand(laptop, Release(2, files={"plugins/new.sh": "#!/bin/sh\necho 1\n"}))
    laptop.ok("run")
    by_hand(laptop, Release(1))
    laptop.ok("run", "--now")
    report = laptop.peer.reports[-1]["plugins"]["penguindome"]
    assert report["release"] == 2
    assert {"path": "plugins/new.sh", "reason": "missing"} in report["verification"]


def test_a_tree_with_a_manifest_of_another_key_is_not_adopted(laptop: ReleasedMachine) -> None:
    Release(2).make(laptop.directory, DeviceKey.generate("other"))
    subprocess.run(
        [laptop.directory / "release-2/setup", "--release-only"], env=laptop.environment(), check=True
    )  # fmt: skip
    laptop.ok("run", "--now")
    assert laptop.client().state.highest_release == 1


@pytest.mark.parametrize("phase", ["ready", "installing", "proving", "going-back"])
def test_a_watcher_that_is_killed_is_followed_by_another(laptop: ReleasedMachine, phase: str) -> None:
    root, broken = laptop.paths.root, phase == "going-back"
    held = root / ("hold-proof" if phase == "proving" else "hold-install")
    waits = f"#!/bin/sh\nwhile [ -e {root}/hold-proof ]; do sleep 0.02; done\necho '{{\"release\": 2}}'\n"
    laptop.offer(Release(2, files={"plugins/hello.sh": waits}, code=NO_MODULE if broken else {}))
    held.touch()
    laptop.ok("run")
    if phase in ("ready", "going-back"):
        if broken:
            laptop.reach("installing")
        # It waits for whoever has the client's lock, and is killed then.
        with patiently(lambda: FileLock(laptop.paths.client_state / "lock"), 30):
            held.unlink()
            assert soon(lambda: laptop.record.phase == phase and laptop.is_watched_by_copy())
            laptop.kill_watcher()
    else:
        laptop.reach(phase)
        laptop.kill_watcher()
        held.unlink()
    assert laptop.record.phase == phase
    if broken:
        # What is installed does not run: the copy of the old code is started as the boot does.
        resume(laptop)
        laptop.settle("failed")
    else:
        laptop.ok("run")
        laptop.settle("done")
    assert_still_works(laptop, 1 if broken else 2)


def test_of_several_watchers_one_works(laptop: ReleasedMachine) -> None:
    (laptop.paths.root / "hold-install").touch()
    laptop.offer(Release(2))
    laptop.ok("run")
    laptop.reach("installing")
    first = laptop.watcher()
    for started in [laptop.start("watch") for _ in range(3)]:
        started.communicate(timeout=60)
    assert laptop.watcher() == first
    (laptop.paths.root / "hold-install").unlink()
    laptop.settle("done")
    assert_still_works(laptop, 2)


def test_the_package_is_looked_at_again_before_it_is_installed(laptop: ReleasedMachine, peer: Peer) -> None:
    laptop.offer(Release(2))
    (laptop.paths.root / "fail-install").write_text("not now")
    laptop.ok("run")
    laptop.settle("ready", because="not now")
    (laptop.paths.root / "fail-install").unlink()
    (package,) = laptop.paths.client_cache.iterdir()
    package.write_bytes(b"something else")
    laptop.ok("run", "--now")
    laptop.settle("offered")
    laptop.ok("run", "--now")
    laptop.settle("done")
    assert sha256(package.read_bytes()).hexdigest() == sha256(peer.packages[2, "tar"]).hexdigest()
    assert_still_works(laptop, 2)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("broken", [False, True], ids=["works", "broken"])
def test_whenever_the_watcher_is_killed_one_release_ends_up_whole(laptop: ReleasedMachine, broken: bool) -> None:
    laptop.offer(Release(2, code=NO_MODULE if broken else {}))
    chance = random.Random(20261130)
    for _ in range(50):
        laptop.run("run", "--now")
        for resume in laptop.paths.client_state.glob("updater-*/resume"):
            subprocess.run([resume], env=laptop.environment(), check=False)
        soon(lambda: laptop.watcher() > 0, 5)
        soon(lambda: False, chance.uniform(0, 2.5))
        if laptop.record.phase in ("done", "failed"):
            break
        laptop.kill_watcher()
        assert laptop.installed_release() in (1, 2)
    for _ in range(5):
        laptop.run("run", "--now")
        for resume in laptop.paths.client_state.glob("updater-*/resume"):
            subprocess.run([resume], env=laptop.environment(), check=False)
        if soon(lambda: laptop.record.phase in ("done", "failed") and not laptop.watcher(), 20):
            break
    assert laptop.record.phase == ("failed" if broken else "done")
    assert_still_works(laptop, 1 if broken else 2)
