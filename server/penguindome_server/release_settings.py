"""Settings of releases and their roll-out."""

from __future__ import annotations

from datetime import timedelta

from penguindome.settings import Setting

RELEASE_SETTINGS = (
    Setting(
        name="releases.valid_for",
        kind="duration",
        default=timedelta(days=30),
        minimum=timedelta(days=2),
        description="How long the indices of the repositories are valid; they are signed anew at half of it.",
    ),
    Setting(
        name="releases.halt_after_failures",
        kind=int,
        default=20,
        minimum=1,
        maximum=100,
        description="A release is halted when this share (percent) of the clients that tried it, two at least, failed.",
    ),
    Setting(
        name="audit.release_not_taken_after",
        kind="duration",
        default=timedelta(days=3),
        minimum=timedelta(hours=1),
        description="After how long a client that reports and has not taken the release offered to it has an issue.",
    ),
)
