"""Packages that were made before the server's key was rotated: what is in them is signed by a key of before, and the
description of the release, which the rotation signs anew, vouches for it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from client_peer import Peer
from client_releases import Release, ReleasedMachine
from penguindome.client import installed
from penguindome.openpgp import DeviceKey
from penguindome.paths import Paths

NO_MODULE = {"client/minute.py": "import nothing_of_this_name\n"}


@pytest.fixture
def laptop(paths: Paths, peer: Peer, tmp_path: Path) -> ReleasedMachine:
    """A machine of release 1 that reports."""
    return ReleasedMachine(paths, peer, tmp_path / "releases")


def twice(peer: Peer) -> DeviceKey:
    """Rotate twice; returns the key between, which no client ever knew."""
    peer.rotate()
    return peer.rotate()


def install(laptop: ReleasedMachine, made: Release) -> None:
    """As a person does."""
    words = [laptop.directory / f"release-{made.number}/setup", "--release-only"]
    subprocess.run(words, env=laptop.environment(), check=True)


def assert_has(laptop: ReleasedMachine, number: int) -> None:
    laptop.ok("verify")
    laptop.ok("run", "--now")
    report = laptop.peer.reports[-1]["plugins"]
    own = report["penguindome"]
    assert (report["hello"], own["release"]) == ({"release": number}, number)
    assert (own["manifest"], own["verification"]) == ("ok", [])
    assert own["server_key"] == laptop.peer.server_key.certificate.fingerprint


def test_a_release_that_was_made_between_two_rotations_is_taken_by_who_slept_through_both(
    laptop: ReleasedMachine, peer: Peer
) -> None:
    laptop.offer(Release(2), maker=twice(peer))
    laptop.ok("run")
    laptop.settle("done")
    assert_has(laptop, 2)
    peer.offered = None
    peer.rotate()
    laptop.ok("run")
    assert_has(laptop, 2)


def test_one_that_does_not_work_goes_back_to_a_release_that_was_vouched_for_by_a_description(
    laptop: ReleasedMachine, peer: Peer
) -> None:
    laptop.offer(Release(2), maker=twice(peer))
    laptop.ok("run")
    laptop.settle("done")
    peer.rotate()
    laptop.offer(Release(3, code=NO_MODULE))
    laptop.ok("run")
    laptop.settle("failed")
    assert_has(laptop, 2)


def test_one_that_does_not_work_goes_back_to_a_release_of_a_key_before(laptop: ReleasedMachine, peer: Peer) -> None:
    peer.rotate()
    laptop.offer(Release(2, code=NO_MODULE))
    laptop.ok("run")
    laptop.settle("failed")
    assert_has(laptop, 1)


@pytest.mark.parametrize("automatic", ["true", "false"])
def test_one_that_a_person_installed_is_adopted_as_soon_as_the_server_describes_it(
    laptop: ReleasedMachine, peer: Peer, automatic: str
) -> None:
    (laptop.paths.settings / "client.yml").write_text(f"update.spread: 0s\nupdate.automatic: {automatic}\n")
    laptop.offer(Release(2), maker=twice(peer))
    install(laptop, Release(2))
    laptop.ok("run")
    peer.offered = None
    laptop.ok("run")
    assert_has(laptop, 2)
    assert peer.ranges == []
    assert "failed" not in laptop.ok("status")


def test_a_machine_that_is_set_up_anew_with_an_older_package_begins_with_the_release_that_it_has(
    laptop: ReleasedMachine, peer: Peer
) -> None:
    laptop.offer(Release(2), maker=twice(peer))
    install(laptop, Release(2))
    shutil.rmtree(laptop.paths.client_state)
    laptop.set_up()
    laptop.ok("run")
    peer.offered = None
    laptop.ok("run")
    assert_has(laptop, 2)
    assert peer.ranges == []


def test_a_description_vouches_for_the_manifest_that_it_names_alone(laptop: ReleasedMachine, peer: Peer) -> None:
    laptop.offer(Release(2), maker=twice(peer), manifest_sha256="0" * 64)
    laptop.ok("run")
    laptop.settle("failed")
    assert_has(laptop, 1)


def test_a_description_that_was_changed_vouches_for_nothing(laptop: ReleasedMachine, peer: Peer) -> None:
    laptop.offer(Release(2), maker=twice(peer))
    laptop.ok("run")
    laptop.settle("done")
    path = laptop.paths.client_state / installed.NAME
    assert '\\"release\\":2' in path.read_text()
    path.write_text(path.read_text().replace('\\"release\\":2', '\\"release\\":3'))
    found = laptop.client().installed()
    assert (found.manifest, found.condition) == (None, "invalid")
