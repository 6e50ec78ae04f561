"""An answer as it goes out: status, body, headers. All answers but the metrics are JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from penguindome import json
from penguindome_server.refusals import Refusal
from penguindome_server.sending import FileRegion

JSON = "application/json"
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. A `region` of a file is sent in place of `body`."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    region: FileRegion | None = None

    @property
    def status_line(self) -> str:
        """The status as WSGI wants it."""
        return _STATUS_LINES[self.status]

    def header_list(self) -> list[tuple[str, str]]:
        """The headers as WSGI wants them."""
        if self.status == 304:  # it would be the length of what is not sent
            return list(self.headers)
        length = len(self.body) if self.region is None else self.region.length
        return [("Content-Type", self.content_type), ("Content-Length", str(length)), *self.headers]


def json_answer(document: Mapping[str, Any], status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """A document as an answer."""
    return Answer(status, json.dumps(document).encode("ascii"), JSON, headers)


def refusal_answer(refusal: Refusal, more: tuple[tuple[str, str], ...] = ()) -> Answer:
    """A refusal as an answer: its own status, its code, and what the client may do then."""
    headers = list(more)
    if refusal.retry_after is not None:
        headers.append(("Retry-After", str(refusal.retry_after)))
    if refusal.reason == "unauthorised":
        headers.append(("WWW-Authenticate", 'Basic realm="PenguinDome"'))
    return json_answer(refusal.body(), refusal.status, tuple(headers))
