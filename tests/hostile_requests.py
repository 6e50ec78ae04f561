"""Hostile requests to a real server, and what has to be true after each: a refusal of ours, nothing stored, no
traceback in the log, and the next good request served.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
from urllib3.filepost import encode_multipart_formdata

from needs import testing_all
from penguindome import json
from penguindome.openpgp import DeviceKey
from penguindome_server.store.schema import SCHEMA
from web_server import PREFIX, Device, Server

EXAMPLES = 600 if testing_all() else 15
"""Of each property."""

REPLY_SECONDS = 20
WRITTEN_BY_POLLS = ("last_seen_at", "address", "package_version", "package_kind", "release", "_version")


@dataclass(frozen=True)
class Reply:
    """An answer, as it came."""

    status: int
    content_type: str
    body: bytes

    @classmethod
    def of(cls, answer: requests.Response) -> Reply:
        """The same of an answer to `requests`."""
        return cls(answer.status_code, answer.headers.get("Content-Type", ""), answer.content)

    @property
    def code(self) -> str:
        """The code of a refusal, which must be of our form."""
        assert self.content_type == "application/json", self
        answer = json.loads(self.body)
        assert answer.keys() == {"error"}, self
        error = answer["error"]
        assert error.keys() >= {"code", "message"}, self
        assert isinstance(error["message"], str), self
        return str(error["code"])


Send = Callable[[], Reply]


@dataclass
class Target:
    """A server under attack, and an enrolled device whose requests are good."""

    server: Server
    device: Device

    def stored(self) -> dict[str, list[dict[str, Any]]]:
        """The whole store, but for what a poll may change at any time."""
        everything = {}
        for name in SCHEMA:
            documents = sorted(self.server.store.collection(name).find(), key=lambda document: document["_id"])
            left_out = WRITTEN_BY_POLLS if name == "clients" else ("_version",)
            everything[name] = [
                {key: value for key, value in document.items() if key not in left_out} for document in documents
            ]
        return everything

    def refuses(self, send: Send) -> Reply:
        """Send, and assert that it is refused with a 4xx of ours and leaves nothing; then that good ones are served."""
        before = self.stored()
        reply = self.survives(send)
        assert 400 <= reply.status < 500, reply
        assert reply.code
        assert self.stored() == before
        return reply

    def survives(self, send: Send) -> Reply:
        """Send, and assert that whatever was answered was foreseen. The next good request is served."""
        logged = self.server.output.stat().st_size
        reply = send()
        assert reply.status < 500, reply
        assert "Traceback" not in self._log_since(logged)
        assert self.device.update().status_code == 200
        return reply

    def _log_since(self, size: int) -> str:
        with self.server.output.open("rb") as log:
            log.seek(size)
            return log.read().decode("utf-8", "replace")

    # Ways to send.

    def signed(self, endpoint: str, data: bytes, *, key: DeviceKey | None = None) -> Reply:
        """Data with a right signature, by the good device if none is given."""
        return Reply.of(self.device.send(endpoint, data, key=key))

    def form(self, endpoint: str, **fields: bytes) -> Reply:
        """Fields as they are."""
        return Reply.of(self.device.post(endpoint, fields))

    def body(self, endpoint: str, body: bytes, **headers: str) -> Reply:
        """A body as it is; headers with `_` for the dash."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply.of(self.device.raw(endpoint, body, named))

    def enroll(self, data: bytes, applicant: DeviceKey, **fields: bytes) -> Reply:
        """A request to `enroll` with both signatures right, but for what `fields` replaces."""
        right = {
            "data": data,
            "signature": self.server.enrolment_key.sign(data),
            "device_signature": applicant.sign(data),
        }
        return self.form("enroll", **{**right, **fields})

    def wire(self, request: bytes) -> Reply:
        """Bytes on a connection; there must be one answer and no more."""
        replies = self.replies(request)
        assert len(replies) == 1, replies
        return replies[0]

    def replies(self, request: bytes) -> list[Reply]:
        """Every answer to these bytes, until the server closes; after them no more will be sent."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=REPLY_SECONDS) as connection:
            pieces = []
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    pieces.append(piece)
            except (ConnectionResetError, BrokenPipeError):
                pass
        return replies_of(b"".join(pieces))


def replies_of(answer: bytes) -> list[Reply]:
    """The answers in what a server sent."""
    found = []
    while answer:
        head, separator, rest = answer.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        assert status, answer
        assert separator, answer
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        length = int(headers.get(b"content-length", b"0"))
        if status[1] != b"100":
            found.append(Reply(int(status[1]), headers.get(b"content-type", b"").decode(), rest[:length]))
        answer = rest[length:]
    return found


def head(endpoint: str, *lines: str, method: str = "POST", prefix: str = PREFIX) -> bytes:
    """A request line and headers."""
    return "\r\n".join([f"{method} {prefix}{endpoint} HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1")


def good_poll(device: Device) -> tuple[bytes, str]:
    """The body and Content-Type of a good request to `update`."""
    data = json.dumps(device.poll()).encode()
    body, content_type = encode_multipart_formdata({"data": data, "signature": device.key.sign(data)})
    return bytes(body), content_type
