"""The settings of a client that have to do with releases: how it moves to a new one, and how apt finds them."""

from __future__ import annotations

from datetime import timedelta

from penguindome.settings import Setting

UPDATE_SETTINGS = (
    Setting(
        name="update.automatic",
        kind=bool,
        default=True,
        description="Move to the release that the server offers. false: only `apt install` and the like by hand do.",
    ),
    Setting(
        name="update.spread",
        kind="duration",
        default=timedelta(minutes=5),
        minimum=timedelta(0),
        maximum=timedelta(hours=6),
        description="Over how long a time the machines of a fleet spread their downloads of a new release.",
    ),
    Setting(
        name="update.lock_patience",
        kind="duration",
        default=timedelta(minutes=10),
        description="How long an update waits for another program that installs packages before it tries again later.",
    ),
    Setting(
        name="update.reach_patience",
        kind="duration",
        default=timedelta(minutes=15),
        minimum=timedelta(0),
        maximum=timedelta(hours=6),
        description="Over how long a time a new release must fail to reach the server, each time that the old one can,"
        " before the old one is put back.",
    ),
    Setting(
        name="repository.manage",
        kind=bool,
        default=True,
        description="Tell apt of the site's repository, once this machine is enrolled.",
    ),
)
"""Declared here, and a part of `penguindome.client.settings.CLIENT_SETTINGS`."""
