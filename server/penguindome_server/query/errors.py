"""What is wrong with a query, and where in it."""

from __future__ import annotations

from typing import ClassVar

from penguindome.errors import PenguinDomeError

Location = tuple[str | int, ...]


def spell(location: Location) -> str:
    """A place in a query as a person would write it: `$or[1].plugins.sshd.ports.$size`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class QueryError(PenguinDomeError):
    """A query that MongoDB would refuse, or that we cannot answer as MongoDB would.

    `location` is the way from the top of the query to the part that is wrong: keys, and indexes of lists.
    """

    code: ClassVar[str] = "bad-query"
    exit_status: ClassVar[int] = 2

    def __init__(self, location: Location, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{spell(location)}: {reason}" if location else reason, hint=hint)
        self.location = location
        self.reason = reason
