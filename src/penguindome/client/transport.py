"""HTTPS to the server: the one place that knows urllib3, and turns what it raises into errors of ours.

urllib3 and not requests (which is built on it): an idle minute then costs a third less, and nothing of the environment
but the proxies counts. No redirect is followed, an answer has a limit in bytes, an exchange as a whole one in time, and
whatever is not an answer of a PenguinDome server (a portal, a proxy, half an answer) is `Unreachable`.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.filepost import encode_multipart_formdata

from penguindome import json
from penguindome.client.errors import Refused, Unreachable
from penguindome.errors import InvalidData, KeyMaterialError

ANSWER_LIMIT = 16 << 20
EXCHANGE_SECONDS = 300.0
"""From the look-up of the server's name to the last byte of its answer; of a download, until its reader has enough."""
COMPRESS_FROM = 1000
PREFIX = "/penguindome/v1/"
WATCH = "watch over an exchange"


@dataclass(frozen=True)
class Download:
    """A file on its way: its pieces begin at byte `start`; `etag` names this version of it ("" when nothing does).

    Taking the next of `pieces` raises Unreachable when the connection breaks.
    """

    start: int
    etag: str
    pieces: Iterator[bytes]


class Transport:
    """Requests to one server, one after the other, over one kept connection. `more_authorities` (PEM) are trusted
    beside those of `ca_file` (None: those of the system).
    """

    def __init__(
        self, url: str, *, ca_file: Path | None, connect_timeout: float, read_timeout: float, more_authorities: str = ""
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=read_timeout)
        self._pool = _pool(self.url, ca_file, more_authorities)
        self._connection: Any = None
        self._line: Any = None
        self._is_late = False

    def _keep_connection_in_sight(self) -> None:
        """While urllib3 waits for the head of an answer, it hands out nothing that could be shut down."""
        if self._connection is not None:
            return
        pool, transport = self._pool.connection_from_url(self.url), self

        class Connection(pool.ConnectionCls):  # type: ignore[name-defined, misc]  # with TLS or without
            def connect(self) -> None:
                transport._connection = self
                super().connect()
                # Where the server closes after its answer, the connection forgets it before the body is read.
                transport._line = self.sock

        pool.ConnectionCls = Connection

    def post(self, endpoint: str, fields: Mapping[str, bytes]) -> dict[str, Any]:
        """Send form fields and return the JSON object of a successful answer.

        Raises Refused when the server says no in our own words, and Unreachable for everything else.
        """
        body, content_type = encode_multipart_formdata(dict(fields))
        headers = {"Content-Type": content_type, "Accept": "application/json", "User-Agent": "penguindome-client"}
        if len(body) > COMPRESS_FROM:
            body = _gzip(body)
            headers["Content-Encoding"] = "gzip"
        return self._ask("POST", endpoint, headers, body)

    def get(self, endpoint: str) -> dict[str, Any]:
        """Ask for what anybody may have, and return the JSON object of a successful answer. Raises as `post`."""
        return self._ask("GET", endpoint, {"Accept": "application/json", "User-Agent": "penguindome-client"}, None)

    @contextmanager
    def download(
        self, endpoint: str, *, credentials: tuple[str, str] | None, start: int = 0, etag: str = ""
    ) -> Iterator[Download]:
        """Open a file at the server, to be read inside the `with`: from byte `start` on if it is still the version
        `etag`, else from its beginning. `credentials` are name and password. Raises as `post`.
        """
        headers = {"User-Agent": "penguindome-client", "Accept-Encoding": "identity"}
        if credentials is not None:
            headers.update(urllib3.make_headers(basic_auth=":".join(credentials)))
        if start and etag:
            headers.update({"Range": f"bytes={start}-", "If-Range": etag})
        with self._watched():
            response = self._request("GET", endpoint, headers, None)
            try:
                begins = self._begins_at(response, start if etag else 0)
                yield Download(begins, response.headers.get("ETag") or "", self._pieces(response))
            finally:
                # What is not read to its end cannot be asked anything else.
                response.close()

    def _ask(self, method: str, endpoint: str, headers: Mapping[str, str], body: bytes | None) -> dict[str, Any]:
        with self._watched():
            response = self._request(method, endpoint, headers, body)
            try:
                return _answer(response.status, response.headers, self._read(response))
            finally:
                response.close() if response.length_remaining else response.release_conn()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Hang up on a server that takes too long, however busy it seems: the time-out of a socket begins anew with
        each byte that comes or goes.
        """
        over = threading.Event()

        def watch(deadline: float) -> None:
            while not over.wait(max(0.0, deadline - time.monotonic())):
                self._is_late = True
                self._hang_up()
                # There may have been no connection yet.
                deadline = time.monotonic() + 1

        self._is_late = False
        thread = threading.Thread(
            target=watch, name=WATCH, args=(time.monotonic() + EXCHANGE_SECONDS,), daemon=True
        )  # fmt: skip
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _hang_up(self) -> None:
        for line in (getattr(self._connection, "sock", None), self._line):
            # TLS within the TLS of a proxy has no descriptor of its own.
            line = getattr(line, "socket", line)
            if line is not None:
                with suppress(OSError):
                    # Not the method of an SSLSocket, which would let the rest be read as if it had not been encrypted.
                    socket.socket.shutdown(line, socket.SHUT_RDWR)

    def _request(
        self, method: str, endpoint: str, headers: Mapping[str, str], body: bytes | None
    ) -> urllib3.BaseHTTPResponse:
        try:
            self._keep_connection_in_sight()
            return self._pool.request(
                method, self.url + PREFIX + endpoint, body=body, headers=headers, timeout=self._timeout,
                retries=False, redirect=False, preload_content=False, decode_content=False,
            )  # fmt: skip
        except (HTTPError, OSError) as error:
            raise self._failure(error) from error

    def _pieces(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """The body as it comes, in pieces of any size: whoever reads it can look at his watch."""
        try:
            while piece := response.read1(65536, decode_content=False):
                yield piece
        except (HTTPError, OSError) as error:
            raise self._failure(error) from error
        # The end may be ours, and looks like the server's.
        if self._is_late:
            raise _late(self.url)

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        contents = bytearray()
        for piece in self._pieces(response):
            contents += piece
            if len(contents) > ANSWER_LIMIT:
                raise Unreachable(f"an answer of more than {ANSWER_LIMIT} bytes came back", status=response.status)
        return bytes(contents)

    def _begins_at(self, response: urllib3.BaseHTTPResponse, asked: int) -> int:
        """Where what comes begins; raises as `_answer` for what is no file, or not the part that was asked for."""
        content_type = response.headers.get("Content-Type") or ""
        if response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {asked}-"):
            return asked
        if response.status == 200 and content_type.partition(";")[0].strip() not in ("text/html", "application/json"):
            return 0
        _answer(response.status, response.headers, self._read(response))
        raise Unreachable("an answer came in the place of a package", status=response.status)

    def _failure(self, error: Exception) -> Unreachable:
        return _late(self.url) if self._is_late else _unreachable(self.url, error)


def _pool(url: str, ca_file: Path | None, more_authorities: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": 1}
    if url.startswith("https:"):
        try:
            context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
            if more_authorities:
                context.load_verify_locations(cadata=more_authorities)
            options["ssl_context"] = context
        except (OSError, ssl.SSLError) as error:
            raise KeyMaterialError(
                f"{ca_file or 'the release'} holds no certificate to trust for TLS ({error})",
                hint="run setup again with a new bundle",
            ) from error
    proxy = proxy_for(url)
    if proxy is None:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy)
    credentials = f"{parts.username}:{parts.password or ''}" if parts.username else None
    return urllib3.ProxyManager(proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=credentials), **options)


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (`https_proxy`, `no_proxy`, ...) names for a URL, or None."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


def _answer(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    retry_after = _retry_after(headers.get("Retry-After"))
    try:
        document = json.loads(body)
    except InvalidData:
        document = None
    if isinstance(document, dict):
        error = document.get("error")
        if status == 200 and error is None:
            return document
        if status >= 400 and isinstance(error, dict) and isinstance(error.get("code"), str):
            time_of_server = error.get("server_time_at")
            raise Refused(
                _printable(error.get("message")) or "no reason was given",
                status=status,
                reason=_printable(error["code"]),
                retry_after=retry_after,
                server_time=time_of_server if isinstance(time_of_server, datetime) else None,
            )
    kind = _printable(headers.get("Content-Type")) or "an unknown kind"
    raise Unreachable(
        f"what answered is not a PenguinDome server (status {status}, {kind})",
        hint="is there a portal to log in to, a proxy, or a wrong server.url?",
        status=status,
        retry_after=retry_after,
    )


def _retry_after(text: str | None) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3); None when there is none or it is senseless."""
    if not text:
        return None
    if text.strip().isdecimal() and len(text) < 10:
        return float(text)
    from email.utils import parsedate_to_datetime

    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _printable(value: object) -> str:
    """Text of the other end, safe to show in one line."""
    return "".join(c if c.isprintable() else " " for c in value[:300]).strip() if isinstance(value, str) else ""


def _late(url: str) -> Unreachable:
    return Unreachable(f"{urlsplit(url).netloc} took longer than {EXCHANGE_SECONDS:.0f} s")


def _unreachable(url: str, error: Exception) -> Unreachable:
    host = urlsplit(url).netloc
    cause: BaseException = error
    if isinstance(error, ProxyError):
        return Unreachable(f"the proxy for {host} does not work ({error.original_error})", hint="look at https_proxy")
    if isinstance(error, SSLError):
        return Unreachable(
            f"{host} cannot prove who it is: {_printable(str(cause))}",
            hint="if the network is trusted, ask the administrator for a new bundle; and check this machine's clock",
        )
    if isinstance(error, NameResolutionError):
        return Unreachable(f"the name of {host} is not known here", hint="is this machine connected to a network?")
    if isinstance(error, ConnectTimeoutError):
        return Unreachable(
            f"{host} cannot be reached: no connection in time", hint="is this machine connected to a network?"
        )
    if isinstance(error, ReadTimeoutError):
        return Unreachable(f"{host} took the request and did not answer in time")
    return Unreachable(
        f"{host} cannot be reached: {_printable(str(cause))}", hint="is this machine connected to a network?"
    )
