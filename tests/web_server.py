"""A real server for tests: `python -m penguindome_server` below a root of its own, and devices that talk to it.

The server key is made in the process here (gpg would cost seconds), which nothing behind the certificate can tell.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from urllib3.filepost import encode_multipart_formdata

from needs import require_program
from penguindome import json
from penguindome.openpgp import DeviceKey
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.times import utc_now
from penguindome_server.store import Store, open_store
from penguindome_tools.scratch_site import free_port

START_SECONDS = 60
PREFIX = "/penguindome/v1/"


def until(condition: Callable[[], Any], *, seconds: float = 60, what: str = "it") -> Any:
    """Poll until `condition` returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    openssl = require_program("openssl")
    crt, key = directory / f"{name}.crt", directory / f"{name}.key"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", crt, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return crt, key


class Server:
    """A server's root and, once started, its process."""

    def __init__(self, root: Path, uri: str) -> None:
        self.paths = Paths(root)
        self.uri = uri
        self.port = free_port()
        self.server_key = DeviceKey.generate("server")
        self.enrolment_key = DeviceKey.generate("enrolment")
        self.program: Sequence[str] = ("-m", "penguindome_server")
        self.process: subprocess.Popen[bytes] | None = None
        self._store: Store | None = None
        self.settings: dict[str, Any] = {
            "database.uri": uri,
            "server.url": self.url,
            "listen.address": "127.0.0.1",
            "listen.port": self.port,
        }
        for directory in (self.paths.releases, self.paths.settings, self.paths.server_state):
            directory.mkdir(parents=True, exist_ok=True)
        (self.paths.releases / "server.asc").write_text(self.server_key.certificate.text)
        (self.paths.releases / "enrolment.asc").write_text(self.enrolment_key.certificate.text)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        """What the process wrote to stderr and stdout."""
        return self.paths.root / "output.log"

    def log(self) -> str:
        """What was logged to stderr so far."""
        return self.output.read_text("utf-8", "replace")

    def write_settings(self, **values: Any) -> None:
        """Write `server.yml`; names with `__` for the dot."""
        self.settings.update({name.replace("__", "."): value for name, value in values.items()})
        (self.paths.settings / "server.yml").write_text(
            "".join(f"{name}: {json.dumps(value)}\n" for name, value in self.settings.items())
        )

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process, without waiting until it serves."""
        environment = {**os.environ, ROOT_VARIABLE: str(self.paths.root), "PYTHONUNBUFFERED": "1"}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.program],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True,
            )  # fmt: skip
        return self.process

    def start(self, **values: Any) -> Server:
        """Start with these settings, and wait until it answers."""
        self.write_settings(**values)
        process = self.spawn()
        until(lambda: process.poll() is not None or self.answers(), seconds=START_SECONDS, what="start of the server")
        assert process.poll() is None, self.log()
        return self

    def answers(self) -> bool:
        """Whether anything answers on the port."""
        try:
            return requests.get(f"{self.url}{PREFIX}healthz", timeout=5).status_code in (200, 503)
        except requests.RequestException:
            return False

    def workers(self) -> list[int]:
        """The processes below the master."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """End the process and all that it started, however it is."""
        if self._store is not None:
            self._store.close()
            self._store = None
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(timeout=10)

    @property
    def store(self) -> Store:
        """The server's store, opened beside it."""
        if self._store is None:
            self._store = open_store(self.uri)
        return self._store

    def client(self, client_id: str) -> dict[str, Any]:
        """A client's document, which must be there."""
        document = self.store.collection("clients").get(client_id)
        assert document is not None
        return document

    def device(self, hostname: str = "laptop", **values: Any) -> Device:
        """A new device, not enrolled."""
        return Device(self, hostname, **values)

    def enrolled(self, hostname: str = "laptop", **values: Any) -> Device:
        """A new device that was enrolled (the policy must be automatic)."""
        device = self.device(hostname, **values)
        answer = device.enroll()
        assert answer.json().get("status") == "enrolled", answer.text
        return device


@dataclass
class Device:
    """A machine with a key of its own, as the server sees it."""

    server: Server
    hostname: str
    key: DeviceKey = field(default_factory=lambda: DeviceKey.generate("device"))
    machine_id: str = field(default_factory=lambda: secrets.token_hex(16))
    token: str | None = None
    exchange_token: str | None = None
    sequence: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def client_id(self) -> str:
        """The identity that the server gives it."""
        return self.key.certificate.fingerprint

    def data(self, endpoint: str, **values: Any) -> dict[str, Any]:
        """What every request says, with `values` over it; a value of `...` is left out."""
        document = {"hostname": self.hostname, "request": endpoint, "sent_at": utc_now(), **values}
        return {key: value for key, value in document.items() if value is not ...}

    def enrolment(self, **values: Any) -> dict[str, Any]:
        """The data of `enroll`."""
        token = {} if self.token is None else {"token": self.token}
        own = {"machine_id": self.machine_id, "public_key": self.key.certificate.text, **token}
        return self.data("enroll", **{**own, **values})

    def poll(self, **values: Any) -> dict[str, Any]:
        """The data of `update`."""
        own = {"old_release": 0, "package_version": "1.0", "package_kind": "deb", "manifest_sha256": None}
        return self.data("update", **{**own, **values})

    def report(self, **values: Any) -> dict[str, Any]:
        """The data of `submit`: a new report each time."""
        self.sequence += 1
        own = {
            "report_id": secrets.token_hex(16),
            "sequence": self.sequence,
            "collected_at": utc_now() - timedelta(seconds=1),
            "plugins": {"os_info": {"distribution": "debian", "version": "12"}},
            "commands": {},
            "exchange_token": self.exchange_token,
        }
        return self.data("submit", **{**own, **values})

    def enroll(self, *, signer: DeviceKey | None = None, **values: Any) -> requests.Response:
        """Ask to be enrolled, and keep the exchange token."""
        body = json.dumps(self.enrolment(**values)).encode()
        signature = (signer or self.server.enrolment_key).sign(body)
        answer = self.post("enroll", {"data": body, "signature": signature, "device_signature": self.key.sign(body)})
        if answer.status_code == 200:
            self.exchange_token = answer.json().get("exchange_token", self.exchange_token)
        return answer

    def update(self, **values: Any) -> requests.Response:
        """Poll."""
        return self.send("update", self.poll(**values))

    def submit(self, **values: Any) -> requests.Response:
        """Report, and keep the next exchange token."""
        answer = self.send("submit", self.report(**values))
        if answer.status_code == 200:
            self.exchange_token = answer.json()["exchange_token"]
        return answer

    def send(
        self, endpoint: str, document: Mapping[str, Any] | bytes, *, key: DeviceKey | None = None
    ) -> requests.Response:
        """Send data, signed."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.post(endpoint, {"data": data, "signature": (key or self.key).sign(data)})

    def post(self, endpoint: str, fields: Mapping[str, bytes]) -> requests.Response:
        """Send form fields as they are."""
        body, content_type = encode_multipart_formdata(dict(fields))
        return self.raw(endpoint, body, {"Content-Type": content_type})

    def raw(self, endpoint: str, body: Any, headers: Mapping[str, str]) -> requests.Response:
        """Send a body as it is."""
        url = f"{self.server.url}{PREFIX}{endpoint}"
        return requests.post(url, data=body, headers={**self.headers, **headers}, timeout=30)


def refused(answer: requests.Response, status: int, code: str) -> None:
    """Assert that an answer is this refusal, in our own JSON."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
    error = json.loads(answer.content)["error"]
    assert error["code"] == code, error
    assert isinstance(error["message"], str)


def at(**ago: float) -> datetime:
    """So long ago."""
    return utc_now() - timedelta(**ago)
