"""One keep-alive connection of a simulated device, cheap enough that the server and not the simulator is measured."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from penguindome import json
from penguindome.errors import InvalidData

PREFIX = "/penguindome/v1/"
BOUNDARY = "penguindome-fleet-simulator-boundary"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Answer:
    """Status and decoded JSON body of one answer."""

    status: int
    body: dict[str, Any]


def encode_form(**fields: bytes) -> bytes:
    """The multipart/form-data body (RFC 7578) of `fields`, with the boundary of `CONTENT_TYPE`."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in fields.items()
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Connection:
    """Posts bodies to one server over one connection, which is opened again when it broke."""

    def __init__(self, server_url: str, ca_certificate: str | None) -> None:
        address = urlsplit(server_url)
        self.base = address.path.rstrip("/") + PREFIX
        host, port = address.hostname or "localhost", address.port
        self._http: http.client.HTTPConnection
        if address.scheme == "https":
            context = ssl.create_default_context(cadata=ca_certificate)
            self._http = http.client.HTTPSConnection(host, port, context=context, timeout=60)
        else:
            self._http = http.client.HTTPConnection(host, port, timeout=60)

    def post(self, endpoint: str, body: bytes) -> Answer:
        """Send `body`, read the whole answer. Raises OSError or HTTPException when the connection fails."""
        try:
            self._http.request("POST", self.base + endpoint, body, {"Content-Type": CONTENT_TYPE})
            response = self._http.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._http.close()
            raise
        try:
            decoded = json.loads(text)
        except InvalidData:
            decoded = None
        return Answer(response.status, decoded if isinstance(decoded, dict) else {})

    def post_and_hang_up(self, endpoint: str, body: bytes, *, half: bool) -> None:
        """Send `body`, or half of it, and close without reading the answer, as a laptop does whose lid is shut."""
        self._http.close()
        try:
            self._http.putrequest("POST", self.base + endpoint)
            self._http.putheader("Content-Type", CONTENT_TYPE)
            self._http.putheader("Content-Length", str(len(body)))
            self._http.endheaders(body[: len(body) // 2] if half else body)
        finally:
            self._http.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()
