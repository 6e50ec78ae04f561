"""What can go wrong on a client, beyond what the shared library raises."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from penguindome.errors import PenguinDomeError


class NotSetUp(PenguinDomeError):
    """This machine has no bundle yet, or lost what `setup` made of it."""

    code: ClassVar[str] = "not-set-up"


class NeedsRoot(PenguinDomeError):
    """The client's files belong to root, and we are somebody else."""

    code: ClassVar[str] = "needs-root"


class NotEnrolled(PenguinDomeError):
    """The server does not take reports of this machine (yet, or any more)."""

    code: ClassVar[str] = "not-enrolled"


class NoSpace(PenguinDomeError):
    """The disk, or a quota, is full: what is there is kept, and nothing new can be."""

    code: ClassVar[str] = "no-space"


class ServerError(PenguinDomeError):
    """An exchange with the server did not succeed; what was to be sent is kept."""

    code: ClassVar[str] = "server"


class Unreachable(ServerError):
    """No answer, or one that cannot come from a PenguinDome server: no network, a portal, a proxy, a crash.

    `status` is the HTTP status when there was an answer, `retry_after` the seconds that it asked us to wait.
    """

    code: ClassVar[str] = "unreachable"

    def __init__(
        self, message: str, *, hint: str | None = None, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after = retry_after


class Refused(ServerError):
    """The server answered with an error of ours: `reason` is its stable code, `status` the HTTP status."""

    code: ClassVar[str] = "refused"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        reason: str,
        retry_after: float | None = None,
        server_time: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.server_time = server_time
