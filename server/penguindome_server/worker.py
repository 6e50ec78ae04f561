"""The gunicorn worker: one loop gathers requests, threads answer those that are here whole.

gunicorn's own threaded worker gives a connection to a thread as soon as its first byte is here, and the thread then
waits for the rest: a dozen machines on bad lines, or one attacker who sends a byte a second, keep all threads busy.
Here a thread never waits for a client's bytes.

What one client can hold, and for how long, is bounded: a request has to arrive within `timeouts.request`, plus the time
that its bytes take on a very slow line; an idle connection is closed after `timeouts.keepalive`; all bytes that wait in
a worker share one budget, and the largest request goes when that is spent; when there are too many connections, the one
that has waited longest goes; how answers are sent, and end when they are not taken, is `sending`'s to say.
"""

from __future__ import annotations

import gc
import os
import queue
import selectors
import signal
import socket
import ssl
import sys
import threading
import time
from typing import Any

from gunicorn.workers.base import Worker as BaseWorker  # type: ignore[import-untyped]  # gunicorn carries no types
from gunicorn.workers.gthread import PollableMethodQueue  # type: ignore[import-untyped]  # gunicorn carries no types

from penguindome.logging import get_logger
from penguindome_server.answering import Answering
from penguindome_server.connections import Connection, refusal_answer
from penguindome_server.framing import CONTINUE, BadRequest
from penguindome_server.sending import Outgoing, Readers, hold_little

log = get_logger(__name__)

TICK_SECONDS = 0.5
BUFFER_BUDGET = 64 << 20
LINGER_SECONDS = 5.0
ACCEPT_AT_ONCE = 4
HALF_REQUEST_SECONDS = 3.0
GARBAGE_THRESHOLD = 20_000
PAUSE_SECONDS = 5
TOO_MANY_READERS = BadRequest(503, "overloaded", "too many downloads at once")


class Worker(BaseWorker):  # type: ignore[misc]  # as above
    """Serves until SIGTERM; then answers the requests that are here, and ends."""

    alive: bool

    def init_process(self) -> None:
        """Make what belongs to this process, and serve.

        When that fails although others could, end as any other worker ends, and not too soon: another one tries again.
        gunicorn would take the master and all workers along.
        """
        try:
            self._begin()
        except Exception:
            if self.booted or not self.app.has_served:
                raise
            log.exception("a worker could not begin; another one tries in {} s", PAUSE_SECONDS)
            for told_to_end in (signal.SIGTERM, signal.SIGQUIT):
                signal.signal(told_to_end, signal.SIG_DFL)
            time.sleep(PAUSE_SECONDS)
            sys.exit(1)

    def _begin(self) -> None:
        settings = self.app.configuration.settings
        self._request_seconds: float = settings["timeouts.request"].total_seconds()
        self._idle_seconds: float = settings["timeouts.keepalive"].total_seconds()
        # Form and multipart encoding add little to what the application accepts as a body.
        self._body_limit: int = settings["limits.body_bytes"]
        self._tls: dict[Any, ssl.SSLContext | None] = dict(zip(self.sockets, self.app.tls_contexts, strict=True))
        self._poller = selectors.DefaultSelector()
        self._calls = PollableMethodQueue()
        self._ready: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        # Connections that are in the poller, longest there first; the value is the deadline.
        self._waiting: dict[Connection, float] = {}
        self._answering: set[Connection] = set()
        self._readers = Readers(settings["timeouts.answer"].total_seconds())
        self._buffered = 0
        self._at_once = False
        self._next_tick = 0.0
        self._calls.init()
        super().init_process()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: stop accepting, finish what is here, end."""
        if self.alive:
            self.alive = False
            self._calls.defer(lambda: None)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT and SIGINT: end at once."""
        self._at_once = True
        self.handle_exit(sig, frame)

    # The loop.

    def run(self) -> None:
        """Serve until told to end."""
        # What is loaded now stays; and a report makes hundreds of objects that go again without a collector's help.
        gc.freeze()
        gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)
        self._answers = Answering(self.cfg, self.wsgi, self.log, stays=lambda: self.alive)
        for number in range(self.cfg.threads):
            threading.Thread(target=self._serve, name=f"request-{number}", daemon=True).start()
        self._poller.register(self._calls.fileno(), selectors.EVENT_READ, self._calls.run_callbacks)
        for listener in self.sockets:
            listener.setblocking(False)
            self._poller.register(listener, selectors.EVENT_READ, self._accept)
        while self.alive and self.ppid == os.getppid():
            self._turn()
        self._stop()

    def _turn(self) -> None:
        # Requests come first, however many answers can go on.
        writable: list[Connection] = []
        for key, _events in self._poller.select(TICK_SECONDS):
            if isinstance(key.data, Connection):
                # An event before this one may have closed it.
                if key.data in self._readers:
                    writable.append(key.data)
                elif key.data in self._waiting:
                    self._on_event(key.data)
            else:
                key.data(key.fileobj)
        for connection in writable:
            if connection in self._readers:
                self._on_writable(connection)
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self.notify()
            self._expire(now)

    def _stop(self) -> None:
        """Close what is idle, give requests that are half here or about to come a moment, and wait for those that are
        being answered.
        """
        for listener in self.sockets:
            self._poller.unregister(listener)
            listener.close()
        for connection in [one for one in self._waiting if not one.buffer and not one.fresh]:
            self._drop(connection)
        half_until = time.monotonic() + HALF_REQUEST_SECONDS
        until = time.monotonic() + self.cfg.graceful_timeout
        while (
            self._answering or self._readers or (self._waiting and time.monotonic() < half_until)
        ) and time.monotonic() < until:
            if self._at_once:
                break
            self._turn()
        for connection in [*self._waiting, *self._readers]:
            self._drop(connection)
        for _ in range(self.cfg.threads):
            self._ready.put(None)

    def _accept(self, listener: Any) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, peer = listener.accept()
            except OSError as error:
                if not isinstance(error, BlockingIOError | ConnectionAbortedError):
                    log.error("a connection could not be accepted: {}", error)
                    self._drop_oldest()
                return
            if len(self._answering) >= self.cfg.worker_connections:
                sock.close()
                return
            if len(self._waiting) + len(self._answering) + len(self._readers) >= self.cfg.worker_connections:
                self._drop_oldest()
            self._add(sock, peer, listener.getsockname(), self._tls[listener])

    def _add(self, sock: socket.socket, peer: Any, server: Any, tls: ssl.SSLContext | None) -> None:
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            return
        connection = Connection(sock, peer, server, limit=self._body_limit)
        self._wait_for(connection, time.monotonic() + self._request_seconds)
        if not connection.handshaking:
            # Most often the request came with the connection.
            self._on_readable(connection)

    def _wait_for(self, connection: Connection, deadline: float) -> None:
        self._poller.register(connection.sock, selectors.EVENT_READ, connection)
        self._waiting[connection] = deadline

    def _on_event(self, connection: Connection) -> None:
        if connection.handshaking:
            self._handshake(connection)
        else:
            self._on_readable(connection)

    def _handshake(self, connection: Connection) -> None:
        try:
            connection.sock.do_handshake()  # type: ignore[attr-defined]  # it is an SSLSocket while it is handshaking
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            # The few kilobytes of a handshake fit into an empty socket buffer; who has filled it is no client.
            self._drop(connection)
            return
        except OSError as error:
            log.debug("no TLS with {}: {}", connection.peer, error)
            self._drop(connection)
            return
        connection.handshaking = False
        self._on_readable(connection)

    def _on_readable(self, connection: Connection) -> None:
        try:
            alive = connection.receive()
        except OSError:
            alive = False
        if not alive and (connection.lingering or not connection.buffer):
            self._drop(connection)
        elif connection.buffer:
            if connection.started is None:
                connection.started = time.monotonic()
            self._advance(connection, alive=alive)

    def _advance(self, connection: Connection, *, alive: bool) -> None:
        """Hand a whole request on, refuse what cannot become one, or go on waiting."""
        try:
            whole = connection.take_request()
        except BadRequest as refusal:
            self._refuse(connection, refusal)
            return
        self._account(connection)
        if whole:
            self._remove(connection)
            self._answering.add(connection)
            self._ready.put(connection)
        elif not alive:
            self._drop(connection)
        else:
            if connection.framing.expects_continue:
                connection.framing.expects_continue = False
                connection.say(CONTINUE)
            self._waiting[connection] = connection.deadline(self._request_seconds)
            self._keep_within_budget()

    def _keep_within_budget(self) -> None:
        if self._buffered <= BUFFER_BUDGET:
            return
        largest = max((*self._waiting, *self._readers), key=lambda one: one.held_bytes)
        if largest in self._readers:
            self._drop(largest)
        else:
            self._refuse(largest, BadRequest(503, "overloaded", "too many large requests at once"))

    def _account(self, connection: Connection) -> None:
        self._buffered += connection.held_bytes - connection.accounted
        connection.accounted = connection.held_bytes

    # Ends of connections.

    def _expire(self, now: float) -> None:
        for connection in [one for one, deadline in self._waiting.items() if deadline <= now]:
            if connection.buffer and not connection.lingering:
                self._refuse(connection, BadRequest(408, "request-timeout", "the request did not arrive in time"))
            else:
                self._drop(connection)
        for connection in self._readers.too_slow(now):
            log.info("an answer to {} ends: it is not being taken", connection.peer[0] if connection.peer else "")
            self._drop(connection)

    def _refuse(self, connection: Connection, refusal: BadRequest) -> None:
        """Say why, and read on for a while without keeping anything: the answer would be lost if the connection were
        reset.
        """
        log.info(
            "refused a request from {}: {} ({})",
            connection.peer[0] if connection.peer else "",
            refusal.code,
            refusal.message,
        )
        connection.say(refusal_answer(refusal))
        self._linger(connection)

    def _linger(self, connection: Connection) -> None:
        connection.buffer.clear()
        self._account(connection)
        connection.lingering = True
        connection.end_writing()
        self._waiting[connection] = time.monotonic() + LINGER_SECONDS

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._waiting), None) or next(iter(self._readers), None)
        if oldest is not None:
            self._drop(oldest)

    def _drop(self, connection: Connection) -> None:
        self._remove(connection)
        self._let_go(connection)

    def _let_go(self, connection: Connection) -> None:
        self._buffered -= connection.accounted
        connection.close()

    def _remove(self, connection: Connection) -> None:
        if connection in self._readers:
            self._readers.remove(connection)
        else:
            del self._waiting[connection]
        self._poller.unregister(connection.sock)

    # The threads.

    def _serve(self) -> None:
        while (connection := self._ready.get()) is not None:
            try:
                self._answers.answer(connection)
            except BaseException:
                # Whatever it is, SystemExit too: without its thread, the worker would accept requests and answer none.
                log.exception("a request was not answered")
                self._calls.defer(self._not_answered, connection)
            else:
                self._calls.defer(self._answered, connection)

    def _not_answered(self, connection: Connection) -> None:
        """In the loop again, without an answer."""
        self._answering.discard(connection)
        self._let_go(connection)

    def _answered(self, connection: Connection) -> None:
        """In the loop again, with an answer: send what is left of it as its reader takes it."""
        self._answering.discard(connection)
        connection.pending = b""
        connection.fresh = False
        outgoing = connection.outgoing
        assert outgoing is not None
        if outgoing.is_large:
            if self._readers.is_full() and not self._make_place():
                outgoing.close()
                connection.outgoing = outgoing = Outgoing(refusal_answer(TOO_MANY_READERS), keep=False)
            outgoing.push(connection.sock)
        self._account(connection)
        if outgoing.broken:
            self._let_go(connection)
        elif outgoing.done:
            self._sent(connection, outgoing)
        else:
            hold_little(connection.sock)
            self._poller.register(connection.sock, selectors.EVENT_WRITE, connection)
            self._readers.add(connection, time.monotonic())
            self._keep_within_budget()

    def _on_writable(self, connection: Connection) -> None:
        outgoing = connection.outgoing
        assert outgoing is not None
        outgoing.push(connection.sock)
        self._account(connection)
        if outgoing.broken:
            self._drop(connection)
        elif outgoing.done:
            self._remove(connection)
            self._sent(connection, outgoing)

    def _make_place(self) -> bool:
        """Take the place of a slow reader for another; whether there was one."""
        slow = self._readers.who_gives_way(time.monotonic())
        if slow is None:
            return False
        log.info("a download by {} gives way to others: it was slow", slow.peer[0])
        self._drop(slow)
        return True

    def _sent(self, connection: Connection, outgoing: Outgoing) -> None:
        """The answer is with the kernel: wait for the next request, or end."""
        outgoing.close()
        connection.outgoing = None
        self._account(connection)
        now = time.monotonic()
        connection.started = now if connection.buffer else None
        try:
            self._wait_for(connection, now + self._idle_seconds)
        except (OSError, ValueError):
            self._let_go(connection)
            return
        if not outgoing.keep:
            self._linger(connection)
        elif connection.buffer:
            self._advance(connection, alive=True)
        elif not self.alive:
            self._drop(connection)
