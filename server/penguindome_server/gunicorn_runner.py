"""Runs the application under gunicorn: a master that reads settings and keeps workers alive, and workers that serve.

The master reads and checks everything that comes from files, certificates and their keys too; workers get it by the
fork, and open the store themselves: a file that is torn just now keeps no worker from beginning. On SIGHUP the master
reads it all again and replaces the workers one generation by the next; what cannot be read leaves the old in force.
Where it listens (`listen.*`, and which ports there are) is fixed for the life of the master.

A first start that fails ends at once and says why. Once a worker has served, the master outlives whatever keeps others
from beginning, and goes on trying.
"""

from __future__ import annotations

import mmap
import os
import resource
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # gunicorn carries no types
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]  # gunicorn carries no types
from gunicorn.errors import HaltServer  # type: ignore[import-untyped]  # gunicorn carries no types
from gunicorn.glogging import Logger as BaseLogger  # type: ignore[import-untyped]  # gunicorn carries no types

from penguindome import logging
from penguindome.errors import PenguinDomeError
from penguindome.files import ensure_directory
from penguindome.paths import Paths
from penguindome_server import running
from penguindome_server.deferred_store import DeferredStore
from penguindome_server.listening import BACKLOG, listen_all
from penguindome_server.metrics_directory import make_room, prepare_directory, worker_ended
from penguindome_server.ports import Port, ports_of
from penguindome_server.services import Configuration, Services, load_configuration
from penguindome_server.tls import port_context
from penguindome_server.worker import PAUSE_SECONDS

if TYPE_CHECKING:
    from penguindome_server.web import Web

log = logging.get_logger(__name__)

GRACEFUL_SECONDS = 20
HUNG_SECONDS = 60
CONNECTIONS = 1000
OPEN_FILES = 8192


def serve(paths: Paths, server: type[Server] | None = None) -> None:
    """Serve until SIGTERM. Raises SettingsError, or PenguinDomeError when a port cannot be had; does not return
    otherwise.
    """
    configuration = load_configuration(paths)
    settings = configuration.settings
    ports = ports_of(settings)
    contexts = _contexts(ports)
    listeners = listen_all(settings["listen.address"], [port.number for port in ports])
    logging.configure(settings, component="server", paths=paths)
    for port in ports:
        log.info("port {}: {}", port.number, _described(port))
    for warning in settings.warnings:
        log.warning("{}", warning)
    _close_stdin()
    _raise_file_limit()
    ensure_directory(paths.runtime, 0o755)
    running.hold(paths)
    prepare_directory(_metrics_directory(paths))
    Master((server or Server)(configuration, ports, contexts, listeners)).run()


def check(paths: Paths) -> None:
    """Read all that `serve` would, but private keys, which systemd hands to the service alone. Raises SettingsError."""
    load_configuration(paths)


class Server(BaseApplication):  # type: ignore[misc]  # as above
    """What gunicorn asks for its configuration, and each worker for its application."""

    def __init__(
        self,
        configuration: Configuration,
        ports: Sequence[Port],
        contexts: Sequence[ssl.SSLContext | None],
        listeners: Sequence[socket.socket],
    ) -> None:
        self.configuration = configuration
        self.tls_contexts = tuple(contexts)
        """In the order of the sockets; None for plain HTTP."""
        self._ports = tuple(ports)
        # Memory that the master and all workers share.
        self._has_served = mmap.mmap(-1, 1)
        self._descriptors = [listener.detach() for listener in listeners]
        self._web: Web | None = None
        super().__init__()

    def load_config(self) -> None:
        """Translate our settings into gunicorn's."""
        settings = self.configuration.settings
        options: dict[str, Any] = {
            "bind": [f"fd://{descriptor}" for descriptor in self._descriptors],
            "backlog": BACKLOG,
            "workers": settings["workers"],
            "threads": settings["threads"],
            "worker_class": "penguindome_server.worker.Worker",
            "worker_connections": CONNECTIONS,
            "keepalive": int(settings["timeouts.keepalive"].total_seconds()),
            "timeout": HUNG_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            # Where each worker shows that it lives: on no disk, or workers would be killed because that stalls.
            "worker_tmp_dir": str(self.configuration.paths.runtime),
            # gunicorn leaves this behind in the master when that file cannot be made.
            "umask": 0o077,
            "limit_request_line": 4094,
            "limit_request_fields": 64,
            "limit_request_field_size": 8190,
            # No peer may tell gunicorn what scheme or path its request has; whom to believe is for `addresses` to say.
            "forwarded_allow_ips": "",
            "control_socket_disable": True,
            "accesslog": "-" if settings["listen.access_log"] else None,
            "logger_class": Logger,
            "proc_name": "penguindome-server",
            "default_proc_name": "penguindome-server",
            "post_worker_init": _worker_begins,
            "worker_exit": _worker_ends,
            "child_exit": self._child_ended,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def reload(self) -> None:
        """SIGHUP: read everything again, or say why the old stays in force."""
        try:
            configuration = load_configuration(self.configuration.paths)
            now = {port.number: port for port in ports_of(configuration.settings)}
            ports = tuple(now.get(port.number, port) for port in self._ports)
            contexts = _contexts(ports)
        except PenguinDomeError as error:
            log.error("the settings were not read again: {}", f"{error}; {error.hint}" if error.hint else error)
            return
        self.configuration, self._ports, self.tls_contexts = configuration, ports, tuple(contexts)
        logging.configure(configuration.settings, component="server", paths=configuration.paths)
        for warning in configuration.settings.warnings:
            log.warning("{}", warning)
        if now.keys() != {port.number for port in ports}:
            log.warning("other ports are listened on only after a restart: systemctl restart penguindome-server")
        super().reload()

    def load(self) -> Any:
        """Make the application of a worker, with a store of its own. After the fork."""
        # Imported here, after the directory of the metrics is known; and the master does without Flask.
        from penguindome_server.application import create_application

        make_room(_metrics_directory(self.configuration.paths))
        store = DeferredStore(self.configuration.settings["database.uri"])
        application = create_application(Services.of(self.configuration, store))
        self._web = application.extensions["penguindome"]
        return application

    @property
    def has_served(self) -> bool:
        """Whether any worker of this master has ever begun to serve."""
        return self._has_served[0] != 0

    def worker_begins(self) -> None:
        """Start what runs beside the requests of a worker."""
        if self._web is not None:
            self._web.polls.start()
        self._has_served[0] = 1

    def worker_ends(self) -> None:
        """Write what is left in memory, and close the store."""
        if self._web is not None:
            self._web.polls.stop()
            store = self._web.services.store
            store.close()

    def _child_ended(self, _arbiter: Any, worker: Any) -> None:
        try:
            worker_ended(_metrics_directory(self.configuration.paths), worker.pid)
        except OSError as error:
            log.warning("the counts of a worker that ended stay as they are: {}", error)


class Master(Arbiter):  # type: ignore[misc]  # as above
    """gunicorn's master, which ends for no worker that it cannot start once others have served."""

    def __init__(self, server: Server) -> None:
        self._not_before = 0.0
        self._ends = False
        super().__init__(server)

    def reap_workers(self) -> None:
        """Look which workers have ended. The first that could not begin ends the master; while that waits for the
        others, one more is no news, and must not cut the end short.
        """
        while True:
            try:
                super().reap_workers()
                return
            except HaltServer:
                if not self._ends:
                    self._ends = True
                    raise

    def spawn_workers(self) -> None:
        """Start the workers that are missing, unless the last one could not be started a moment ago."""
        if time.monotonic() >= self._not_before:
            super().spawn_workers()

    def spawn_worker(self) -> int | None:
        """Start a worker, or say why there is none. In the worker, this does not return."""
        try:
            return super().spawn_worker()  # type: ignore[no-any-return]  # as above
        except Exception as error:
            if os.getpid() != self.pid:
                # A worker that fails even in saying why: what it must not do is to go on as another master.
                os._exit(1 if self.app.has_served else self.WORKER_BOOT_ERROR)
            if not self.app.has_served:
                raise
            log.error("a worker could not be started; those that run go on as they are: {}", error)
            self._not_before = time.monotonic() + PAUSE_SECONDS
            return None


class Logger(BaseLogger):  # type: ignore[misc]  # as above
    """Hands gunicorn's records to the standard library's root logger, which is redirected to ours."""

    def setup(self, cfg: Any) -> None:
        """Keep gunicorn from adding handlers of its own."""
        self.cfg = cfg
        self._access_log_enabled = bool(cfg.accesslog)
        self.loglevel = self.LOG_LEVELS["info"]
        for gunicorn_log in (self.error_log, self.access_log):
            gunicorn_log.handlers.clear()
            gunicorn_log.propagate = True
            gunicorn_log.setLevel(self.loglevel)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """All but where gunicorn listens: it knows one scheme for all sockets; `serve` names each with its own."""
        if not str(msg).startswith("Listening at"):
            super().info(msg, *args, **kwargs)

    def reopen_files(self) -> None:
        """Nothing is open here."""


def _worker_begins(worker: Any) -> None:
    worker.app.worker_begins()


def _worker_ends(_arbiter: Any, worker: Any) -> None:
    if worker.booted:
        worker.app.worker_ends()


def _contexts(ports: Sequence[Port]) -> list[ssl.SSLContext | None]:
    return [port_context(port) for port in ports]


def _metrics_directory(paths: Paths) -> Path:
    return paths.runtime / "metrics"


def _described(port: Port) -> str:
    text = "plain HTTP" if port.certificate is None else f"HTTPS with {port.certificate}"
    return f"{text}, deprecated" if port.deprecated else text


def _close_stdin() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.dup2(descriptor, sys.stdin.fileno() if sys.stdin is not None else 0)
    os.close(descriptor)


def _raise_file_limit() -> None:
    """A connection is an open file, and 1,024 is a common limit that is meant for programs with select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
