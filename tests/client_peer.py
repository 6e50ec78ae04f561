"""What the client's tests talk to: a small, real HTTP server that speaks the protocol, and misbehaves when it is told
to.

It checks signatures as a server does, and keeps what it was sent. `Machine` is a client's root with a server that is
such a peer.
"""

from __future__ import annotations

import base64
import ctypes
import email
import email.policy
import gzip
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from penguindome import actions, json, manifest, rotation
from penguindome.bundle import Bundle
from penguindome.client import minute
from penguindome.client.context import Client
from penguindome.client.installation import set_up
from penguindome.errors import SignatureError
from penguindome.files import AlreadyRunning
from penguindome.openpgp import Certificate, ClockSkew, DeviceKey
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.times import Clock, utc_now

FRESHNESS = timedelta(minutes=10)
PYTHON_PLUGIN = "#!/usr/bin/env python3\n"


def soon(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Poll until `condition` holds, or the time is over; says whether it does."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@dataclass
class Fault:
    """What to do instead of answering: `body` with `status` and `headers`; or hang, or break off."""

    status: int = 500
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    # The request is handled, and only its answer is lost.
    after: bool = False


def error(status: int, code: str, **more: Any) -> Fault:
    """A refusal in PenguinDome's own words."""
    headers = {"Retry-After": str(more.pop("retry_after"))} if "retry_after" in more else {}
    body = json.dumps({"error": {"code": code, "message": f"this is {code}", **more}}).encode()
    return Fault(status, body, {"Content-Type": "application/json", **headers})


PORTAL = Fault(200, b"<html><body>Welcome to the hotel</body></html>", {"Content-Type": "text/html"})


class Peer:
    """The other end. `faults` are used up one a request, oldest first; `always` is for every request.

    With `namespace` (of ip-netns(8)) it serves on the loopback of that network, with this process as it is.
    """

    def __init__(self, namespace: str = "") -> None:
        self.server_key = DeviceKey.generate("server")
        self.enrolment_key = DeviceKey.generate("enrolment")
        self.enrolment: dict[str, Any] | Fault = {"status": "enrolled"}
        self.credentials: dict[str, Any] = {"password": "secret"}
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.reports: list[dict[str, Any]] = []
        self.clients: dict[str, Certificate] = {}
        self.tokens: dict[str, str] = {}
        self.patches: list[Any] = []
        self.results: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        # The release that is offered (number, text, signature), and the files of releases: (number, kind) -> contents.
        self.offered: tuple[int, str, str] | None = None
        self.packages: dict[tuple[int, str], bytes] = {}
        # After how many bytes downloads break off, one a download; and the ranges that were asked for.
        self.break_after: deque[int] = deque()
        self.ranges: list[str | None] = []
        self.signed_manifest: tuple[str, str] | None = None
        self.newest_release = 0
        self.shown_certificate: str | None = None
        self.server_key_hint: str | None = None
        self.statements: list[Any] = []
        self.looked_up: list[str] = []
        self.clock: Clock = utc_now
        self.on_request: Callable[[str], None] = lambda endpoint: None
        self.released = threading.Event()
        self._count = 0
        handler = type("Handler", (_Handler,), {"peer": self})
        self._server = _inside(namespace, lambda: _Server(("127.0.0.1", 0), handler))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def endpoints(self) -> list[str]:
        return [endpoint for endpoint, _ in self.requests]

    def delivered(self) -> list[int]:
        return [report["sequence"] for report in self.reports]

    def bundle(self, **changes: Any) -> Bundle:
        values: dict[str, Any] = {
            "server_url": self.url, "server_certificate": self.server_key.certificate.text, "ca_certificate": None,
            "enrolment_key": self.enrolment_key.text, "token": None, "created_at": utc_now(), **changes,
        }  # fmt: skip
        return Bundle(**values)

    def publish(
        self, tree: Path, *, release: int = 0, issued_at: datetime | None = None, expires_at: datetime | None = None,
        signer: DeviceKey | None = None, kind: str = "release",
    ) -> None:  # fmt: skip
        """Sign the manifest of everything below `tree`, to be handed out with the next answer."""
        issued_at = issued_at or self.clock()
        self.newest_release = max(self.newest_release, release)
        names = [
            str(path.relative_to(tree))
            for path in tree.rglob("*")
            if path.is_file()
            and not path.is_symlink()
            and "__pycache__" not in path.parts
            and path.name not in ("manifest.json", "manifest.json.asc")
        ]
        text = manifest.build(
            tree, names, kind=kind, release=release, issued_at=issued_at,
            expires_at=expires_at or issued_at + timedelta(days=90),
        )  # fmt: skip
        self.signed_manifest = (text.decode(), (signer or self.server_key).sign(text).decode())

    def lay(self, tree: Path, *, release: int, issued_at: datetime | None = None) -> None:
        """Let `tree` be that of a release, with its manifest in it, as a package of the release brings it."""
        self.publish(tree, release=release, issued_at=issued_at)
        assert self.signed_manifest is not None
        for name, text in zip(("manifest.json", "manifest.json.asc"), self.signed_manifest, strict=True):
            (tree / name).write_text(text)

    def rotate(self, *, signer: DeviceKey | None = None) -> DeviceKey:
        """Take a new server key, as `penguindome keys rotate server` does; returns the old one."""
        old, self.server_key = self.server_key, DeviceKey.generate("server")
        text = rotation.build(old.certificate, self.server_key.certificate, issued_at=self.clock())
        self.statements.append({"text": text.decode(), "signature": (signer or old).sign(text).decode()})
        self.server_key_hint = self.server_key.certificate.fingerprint
        if self.signed_manifest is not None:
            manifest_text = self.signed_manifest[0]
            self.signed_manifest = (manifest_text, self.server_key.sign(manifest_text.encode()).decode())
        return old

    def action(
        self, target: actions.Target, *, kind: str = "patch", files: Mapping[str, tuple[bytes, int]] | None = None,
        issued_at: datetime | None = None, life: timedelta = timedelta(days=7), signer: DeviceKey | None = None,
        also_for: Sequence[actions.Target] = (), **parameters: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """A signed action as an answer holds it: `id`, `text`, `signature`, `contents`."""
        known: dict[str, dict[str, Any]] = {
            "patch": {"remove": [], "newest_release": self.newest_release},
            "command": {"name": "test", "attempts": None},
            "wipe": {"reason": "a test", "luks": False},
        }
        issued_at, files = issued_at or self.clock(), files or {}
        action_id = uuid.uuid4().hex
        text = actions.build(
            kind=kind, action_id=action_id, targets=[*also_for, target], issued_at=issued_at,
            expires_at=issued_at + life, files=files, parameters={**known[kind], **parameters},
        )  # fmt: skip
        contents = {name: base64.b64encode(data).decode() for name, (data, _) in files.items()}
        signature = (signer or self.server_key).sign(text).decode()
        return {"id": action_id, "text": text.decode(), "signature": signature, "contents": contents}

    def offer(self, target: actions.Target, **action: Any) -> str:
        """Hand an action out with every answer until its end is told; returns its id."""
        made = self.action(target, **action)
        self.patches.append(made)
        return str(made["id"])

    def answer(self, endpoint: str, fields: Mapping[str, bytes]) -> tuple[int, dict[str, Any]]:
        """What a server that works answers."""
        document = json.loads(fields["data"])
        self.requests.append((endpoint, document))
        try:
            client_id = self._authenticate(endpoint, document, fields)
        except ClockSkew:
            return self._clock_skew()
        except (SignatureError, KeyError):
            return 401, {"error": {"code": "bad-signature", "message": "the signature does not fit"}}
        if document["request"] != endpoint:
            return 403, {"error": {"code": "not-allowed", "message": "for another endpoint"}}
        if abs(self.clock() - document["sent_at"]) > FRESHNESS:
            return self._clock_skew()
        return getattr(self, f"_{endpoint}")(client_id, document)  # type: ignore[no-any-return]  # one of those below

    def _clock_skew(self) -> tuple[int, dict[str, Any]]:
        return 409, {"error": {"code": "clock-skew", "message": "look at your clock", "server_time_at": self.clock()}}

    def _authenticate(self, endpoint: str, document: dict[str, Any], fields: Mapping[str, bytes]) -> str:
        if endpoint == "enroll":
            certificate = Certificate.from_text(document["public_key"])
            certificate.verify(fields["data"], fields["device_signature"])
            voucher = certificate if document.get("token") else self.enrolment_key.certificate
            voucher.verify(fields["data"], fields["signature"])
            self.clients[certificate.fingerprint] = certificate
            return certificate.fingerprint
        for client_id, certificate in self.clients.items():
            try:
                certificate.verify(fields["data"], fields["signature"])
            except ClockSkew:
                raise
            except SignatureError:
                continue
            return client_id
        raise KeyError("unknown")

    def _enroll(self, client_id: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if isinstance(self.enrolment, Fault):
            return self.enrolment.status, json.loads(self.enrolment.body)
        answer = {"client_id": client_id, **self.enrolment}
        if answer["status"] == "enrolled":
            credentials = json.dumps({"user": client_id, **self.credentials}).encode()
            answer["exchange_token"] = self._token()
            answer["repository_credentials"] = self.clients[client_id].encrypt(credentials).decode()
        return 200, answer

    def _update(self, client_id: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, self._news(document["manifest_sha256"], document["old_release"])

    def _submit(self, client_id: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if document["report_id"] not in {report["report_id"] for report in self.reports}:
            self.reports.append(document)
            self.tokens[document["report_id"]] = self._token()
        token = self.tokens[document["report_id"]]
        return 200, {"status": "ok", "exchange_token": token, "update": self._news(None, document["old_release"])}

    def _acknowledge_patch(self, client_id: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.results[document["id"]].append(document["result"])
        if document["result"]["status"] in ("done", "failed"):
            over = document["id"]
            self.patches = [each for each in self.patches if not isinstance(each, dict) or each.get("id") != over]
        return 200, {"status": "ok"}

    def _news(self, held: str | None, release: int) -> dict[str, Any]:
        news: dict[str, Any] = {"status": "current", "current_release": 0, "release": None, "patches": self.patches}
        if self.server_key_hint is not None:
            news["server_key"] = self.server_key_hint
        if self.offered is not None and self.offered[0] > release:
            number, text, signature = self.offered
            news["release"] = {"number": number, "text": text, "signature": signature}
        if self.signed_manifest is not None:
            text, signature = self.signed_manifest
            news["manifest"] = {"text": text, "signature": signature}
        return news

    def _token(self) -> str:
        self._count += 1
        return f"token-{self._count}"


T = TypeVar("T")


def _inside(namespace: str, make: Callable[[], T]) -> T:
    """What is made by a thread that has entered a network namespace: a socket belongs to where it was made."""
    if not namespace:
        return make()
    made = []

    def enter() -> None:
        with Path("/run/netns", namespace).open() as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) == 0  # CLONE_NEWNET
        made.append(make())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return made[0]


class _Server(ThreadingHTTPServer):
    """Is quiet about clients that break off."""

    def handle_error(self, *arguments: object) -> None:
        return


class _Handler(BaseHTTPRequestHandler):
    """Takes a request apart and hands it to the peer."""

    peer: Peer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        endpoint = self.path.rpartition("/")[2]
        self.peer.on_request(endpoint)
        fault = self.peer.always or (self.peer.faults.popleft() if self.peer.faults else None)
        if fault is not None:
            self._misbehave(fault)
            return
        if endpoint.startswith("download_release?"):
            self._send_package(dict(parse_qsl(endpoint.partition("?")[2])))
            return
        self.peer.looked_up.append(endpoint)
        shown = self.peer.shown_certificate or self.peer.server_key.certificate.text
        answer = {"server_certificate": shown, "statements": self.peer.statements}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        endpoint = self.path.rpartition("/")[2]
        self.peer.on_request(endpoint)
        fault = self.peer.always or (self.peer.faults.popleft() if self.peer.faults else None)
        if fault is not None and not fault.after:
            self.peer.requests.append((endpoint, {}))
        else:
            status, answer = self.peer.answer(endpoint, self._fields(body))
            if fault is None:
                self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})
                return
        self._misbehave(fault)

    def _send_package(self, query: Mapping[str, str]) -> None:
        """A file with ranges (RFC 9110, 14), to those who are enrolled."""
        users = {f"{client_id}:secret" for client_id in self.peer.clients}
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        contents = self.peer.packages.get((int(query["release"]), query["format"]))
        self.peer.ranges.append(self.headers.get("Range"))
        if base64.b64decode(given).decode() not in users or contents is None:
            refusal = error(404 if given else 401, "not-allowed")
            self._send(refusal.status, refusal.body, refusal.headers)
            return
        etag = f'"{hashlib.sha256(contents).hexdigest()[:16]}"'
        headers = {"Content-Type": "application/octet-stream", "ETag": etag, "Accept-Ranges": "bytes"}
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(contents) - 1}/{len(contents)}"
        if not self.peer.break_after:
            self._send(206 if start else 200, contents[start:], headers)
            return
        self.send_response(206 if start else 200)
        for name, value in {**headers, "Content-Length": str(len(contents) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(contents[start : start + self.peer.break_after.popleft()])
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _fields(self, body: bytes) -> dict[str, bytes]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        fields = {}
        for part in parts.iter_parts():  # type: ignore[attr-defined]  # the policy makes EmailMessages
            fields[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True)
        return fields

    def _misbehave(self, fault: Fault) -> None:
        if fault.hang:
            self.peer.released.wait(30)
            self.close_connection = True
        elif fault.drop:
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"status"')
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self._send(fault.status, fault.body, fault.headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        return


class Machine:
    """A client in a root of its own. `clock` is moved by the tests; each use of `client()` is a new process as far as
    state goes.
    """

    def __init__(self, paths: Paths, peer: Peer) -> None:
        self.paths = paths
        self.peer = peer
        self.offset = timedelta(0)
        (paths.client_code / "plugins").mkdir(parents=True)

    def clock(self) -> datetime:
        return utc_now() + self.offset

    def client(self) -> Client:
        return Client(self.paths, clock=self.clock)

    def set_up(self, **changes: Any) -> None:
        set_up(self.client(), self.peer.bundle(**changes), force=False)

    @property
    def target(self) -> actions.Target:
        """What names this machine in an action."""
        identity = self.client().identity
        return actions.Target(identity.client_id, identity.hostname)

    def patch(self, files: Mapping[str, str], *, mode: int = 0o755, remove: Sequence[str] = (), **more: Any) -> str:
        """Offer this machine a patch."""
        contents = {name: (text.encode(), mode) for name, text in files.items()}
        return self.peer.offer(self.target, files=contents, remove=list(remove), **more)

    def command(self, script: str, **more: Any) -> str:
        """Offer this machine a command."""
        return self.peer.offer(self.target, kind="command", files={"command": (script.encode(), 0o700)}, **more)

    def told(self, action_id: str, number: int = 0) -> dict[str, Any]:
        """What the server is told about an action, by whatever process: the first result, or a later one."""
        assert soon(lambda: len(self.peer.results[action_id]) > number), f"nothing more was told of {action_id}"
        assert soon(lambda: not self.is_busy(action_id))
        return self.peer.results[action_id][number]

    def is_busy(self, action_id: str) -> bool:
        """Whether a process works on an action."""
        try:
            with self.client().records.lock(action_id):
                return False
        except AlreadyRunning:
            return True

    def plugin(self, name: str, text: str, *, directory: str = "plugins", mode: int = 0o755) -> Path:
        path = self.paths.client_code / directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def minute(self, *, now: bool = False) -> Client:
        """One `run`, in this process."""
        client = self.client()
        with client.locked():
            minute.Minute(client, now=now).run()
        return self.client()

    def later(self, **duration: float) -> None:
        """Let time pass."""
        self.offset += timedelta(**duration)

    def collect(self, count: int = 1) -> None:
        """Let so many reports wait, without the server."""
        for _ in range(count):
            client = self.client()
            with client.locked():
                minute.collect(client, client.installed())

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, ROOT_VARIABLE: str(self.paths.root), **more}

    def run(self, *words: str, stdin: bytes | None = None, **more: str) -> subprocess.CompletedProcess[bytes]:
        """A real `penguindome-client` process, to its end."""
        return subprocess.run(
            [*self.program(), *words], env=self.environment(**more), capture_output=True,
            timeout=60, check=False, input=stdin,
        )  # fmt: skip

    def program(self) -> list[str]:
        """The words that start this machine's client."""
        return [sys.executable, "-m", "penguindome.client"]

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A real `penguindome-client` process, running."""
        return subprocess.Popen(
            [*self.program(), *words], env=self.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
