"""Publishing: a new tree of the site's repositories beside the old one, signed, verified, and put in force at once.

    repo/current -> publications/7
    repo/publications/7/apt/...   repo/publications/7/arch/...

What a publication offers is given by `releases`, newest first: the indices name the packages of the first of them; the
packages of the others can still be fetched by who has an index of yesterday. None at all makes empty repositories, in
which `apt update` finds nothing wrong. Packages are hard links to those in `releases/N/`.

A crash at any instant leaves the old publication or the new one in force; what it left behind goes at the next run. A
lock keeps two from publishing at once: the second waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from penguindome.openpgp import ServerKeyring
from penguindome.paths import Paths
from penguindome_tools.releases.staged import StagedRelease

VALID_FOR = timedelta(days=30)


def publish_release(
    paths: Paths,
    keyring: ServerKeyring,
    fingerprint: str,
    staged: StagedRelease,
    *,
    releases: Sequence[int],
    now: datetime,
    valid_for: timedelta = VALID_FOR,
) -> Path:
    """Verify a staged release, move it to `releases/N`, and publish; returns the directory of the publication.

    `releases` is what shall be offered afterwards (see `publish`): it begins with `staged.number` unless only canaries
    are to have it. Raises PenguinDomeError before anything was moved when the staged files are not what was signed or
    there is a release of this number; a failure after the move leaves the old publication in force, and `publish` can
    be tried again.
    """
    raise NotImplementedError


def publish(
    paths: Paths,
    keyring: ServerKeyring,
    fingerprint: str,
    *,
    releases: Sequence[int],
    now: datetime,
    valid_for: timedelta = VALID_FOR,
) -> Path:
    """Make the repositories anew, signed until `now + valid_for`, and put them in force; returns their directory.

    `releases`: the numbers of the releases that are offered, newest first (see above); `rollout.offered(store)` tells
    them. Raises PenguinDomeError (ReleaseProblem, KeyMaterialError, AlreadyRunning), or OSError; the old publication is
    then still in force.
    """
    raise NotImplementedError
