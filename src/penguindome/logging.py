"""Logging: to stderr, syslog or a file as the settings say (by Logbook), and always to a local debug log.

A record is one line whatever it holds: control characters are escaped. Nothing here ever breaks the program that logs:
a full disk, a syslog host that is away or a directory that may not be written costs records and nothing else.

`get_logger(name)` is cheap and may be called while a module is imported. Its methods take a text with `{}` fields,
filled by `str.format`. Logbook itself is imported only when a record is for one of its handlers, so that a run that has
nothing to say does not pay for it; the local debug log is written directly. What other libraries log through the
standard library's `logging` is redirected to the same places.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from penguindome.files import LineFile
from penguindome.paths import Paths
from penguindome.settings import Setting, Settings
from penguindome.times import isoformat, utc_now

if TYPE_CHECKING:
    import logging as stdlib_logging
    import socket

LEVELS: Sequence[str] = ("debug", "info", "notice", "warning", "error", "critical")
FACILITIES: Sequence[str] = (
    *("auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "syslog", "user", "uucp"),
    *(f"local{number}" for number in range(8)),
)
_FILE_FORMAT = (
    "{record.time:%Y-%m-%dT%H:%M:%S.%f}Z [{record.process}] {record.level_name} {record.channel}: {record.message}"
)
_REDIRECT = "penguindome"
DEBUG_LOG_SIZE = 1024 * 1024
DEBUG_LOG_BACKUPS = 3
LONGEST_RECORD = 32 * 1024
LONGEST_SYSLOG_RECORD = 8 * 1024
SYSLOG_SOCKET = "/dev/log"
SYSLOG_TIMEOUT = 1.0
"""Seconds for which a syslog daemon that does not read may hold us up."""
RETRY_AFTER = 30.0
"""Seconds for which a handler that failed is left alone: looking up a host's name alone can take that long."""

LOGGING_SETTINGS: tuple[Setting, ...] = (
    Setting("logging.handler", str, "stderr", "Where log records go.", choices=("stderr", "syslog", "file", "none")),
    Setting("logging.level", str, "info", "The least level of a record that is logged there.", choices=tuple(LEVELS)),
    Setting("logging.syslog.facility", str, "daemon", "The syslog facility.", choices=tuple(FACILITIES)),
    Setting("logging.syslog.host", str, None, "A syslog host, reached by UDP. Not set: this machine's /dev/log."),
    Setting("logging.syslog.port", int, 514, "The UDP port of the syslog host.", minimum=1, maximum=65535),
    Setting(
        "logging.file.path", "path", None, "The file of the handler `file`. Not set: `penguindome.log` in our logs."
    ),
    Setting("logging.file.max_bytes", int, 10 * 1024 * 1024, "Size at which the file is rotated.", minimum=10_000),
    Setting("logging.file.backups", int, 5, "How many rotated files are kept.", minimum=1, maximum=1000),
)

Component = Literal["server", "admin", "client"]


class Logger:
    """Logs under one name. Made by `get_logger`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def debug(self, message: object, *args: object, **kwargs: object) -> None:
        """For whoever looks for a fault: goes to the local debug log, and elsewhere only if the settings ask for it."""
        _dispatch(self.name, 0, message, args, kwargs)

    def info(self, message: object, *args: object, **kwargs: object) -> None:
        """What happened, in the ordinary course of things."""
        _dispatch(self.name, 1, message, args, kwargs)

    def notice(self, message: object, *args: object, **kwargs: object) -> None:
        """Ordinary, but worth a look."""
        _dispatch(self.name, 2, message, args, kwargs)

    def warning(self, message: object, *args: object, **kwargs: object) -> None:
        """Something is not as it should be; work goes on."""
        _dispatch(self.name, 3, message, args, kwargs)

    warn = warning

    def error(self, message: object, *args: object, **kwargs: object) -> None:
        """Something could not be done."""
        _dispatch(self.name, 4, message, args, kwargs)

    def critical(self, message: object, *args: object, **kwargs: object) -> None:
        """The program cannot go on."""
        _dispatch(self.name, 5, message, args, kwargs)

    def exception(self, message: object, *args: object, **kwargs: object) -> None:
        """`error`, with the traceback of the exception that is being handled."""
        kwargs["exc_info"] = True
        _dispatch(self.name, 4, message, args, kwargs)


def get_logger(name: str) -> Logger:
    """The logger of this name."""
    return Logger(name)


def configure(settings: Settings, *, component: Component, paths: Paths, stderr_level: str | None = None) -> None:
    """Send records where `settings` say, and to the debug log of `component` below `paths.logs`; replaces what was
    configured.

    With `stderr_level`, records from that level on go to stderr, whatever the settings say (for commands at a
    terminal). Other records below `logging.level` reach the debug log only.
    """
    _state.close()
    _state.debug_log = LineFile(paths.logs / component / "debug.log", DEBUG_LOG_SIZE, DEBUG_LOG_BACKUPS)
    handler = settings["logging.handler"]
    if handler != "none":
        values = settings.section("logging")
        _state.routes.append(_Route(LEVELS.index(values["level"]), lambda: _handler(handler, values, component, paths)))
    if stderr_level is not None and handler != "stderr":
        _state.routes.append(_Route(LEVELS.index(stderr_level), _stderr_handler))
    elif stderr_level is not None:
        _state.routes[0].level = LEVELS.index(stderr_level)
    _state.configured = True
    if component != "client" or "logging" in sys.modules:
        redirect_standard_library()


def reset() -> None:
    """Forget the configuration and close its files: for tests, and before a fork."""
    _state.close()
    _state.configured = False
    if _state.redirected:
        import logging as stdlib_logging

        stdlib_logging.captureWarnings(False)
        for handler in list(stdlib_logging.root.handlers):
            if handler.get_name() == _REDIRECT:
                stdlib_logging.root.removeHandler(handler)
        _state.redirected = False


def redirect_standard_library() -> None:
    """Make the standard library's `logging` write to the same places.

    `configure` does it, for a client once something has imported `logging`.
    """
    import logging as stdlib_logging

    _state.redirected = True
    if any(handler.get_name() == _REDIRECT for handler in stdlib_logging.root.handlers):
        return

    class Redirect(stdlib_logging.Handler):
        def emit(self, record: stdlib_logging.LogRecord) -> None:
            try:
                message = record.getMessage()
                if record.exc_info and record.exc_info[1]:
                    message += "\n" + _traceback(record.exc_info[1])
            except Exception as error:
                message = f"{record.msg!r} (cannot be formatted: {error})"
            _write(record.name, _level_of(record.levelno), message)

    handler = Redirect()
    handler.set_name(_REDIRECT)
    stdlib_logging.root.addHandler(handler)
    # Libraries that log each byte at debug (urllib3, pymongo) would fill the debug log with what nobody reads.
    stdlib_logging.root.setLevel(stdlib_logging.INFO)
    stdlib_logging.captureWarnings(True)


def one_line(text: str) -> str:
    r"""The text with everything that could act on a terminal or end a line escaped: `\n`, `\x1b`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class _Route:
    """A place that records from `level` on go to; the Logbook handler behind it is made for the first of them."""

    def __init__(self, level: int, make: Callable[[], Any]) -> None:
        self.level = level
        self._make = make
        self._handler: Any = None
        self._rest_until = 0.0

    def send(self, name: str, level: int, message: str) -> None:
        """Hand a record to the handler; whatever happens there stays there."""
        if time.monotonic() < self._rest_until:
            return
        try:
            if self._handler is None:
                self._handler = self._make()
            logbook = _logbook()
            record = logbook.LogRecord(name, logbook.lookup_level(LEVELS[level].upper()), message)
            record.heavy_init()
            self._handler.emit(record)
        except Exception as error:
            self._rest_until = time.monotonic() + RETRY_AFTER
            self.close()
            if _state.debug_log is not None:
                _state.debug_log.write(_debug_line("penguindome.logging", 3, f"a log handler failed: {error!r}"))

    def close(self) -> None:
        """Close the handler; the next record makes another."""
        handler, self._handler = self._handler, None
        if handler is not None:
            with suppress(Exception):
                handler.close()


class _State:
    """What `configure` has set up."""

    def __init__(self) -> None:
        self.configured = False
        self.redirected = False
        self.debug_log: LineFile | None = None
        self.routes: list[_Route] = []

    def close(self) -> None:
        if self.debug_log is not None:
            self.debug_log.close()
            self.debug_log = None
        for route in self.routes:
            route.close()
        self.routes = []


_state = _State()


def _dispatch(name: str, level: int, message: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    if not _state.configured and level < 3:
        return
    exc_info = kwargs.pop("exc_info", None)
    text = str(message)
    if args or kwargs:
        try:
            text = text.format(*args, **kwargs)
        except Exception as error:
            text = f"{text} {args!r} {kwargs!r} (cannot be formatted: {error})"
    if exc_info:
        error_now = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        text += "\n" + _traceback(error_now) if error_now is not None else ""
    _write(name, level, text)


def _write(name: str, level: int, message: str) -> None:
    line = one_line(message if len(message) <= LONGEST_RECORD else message[:LONGEST_RECORD] + " [cut]")
    if not _state.configured:
        _to_stderr(f"{LEVELS[level]}: {name}: {line}")
        return
    if not _state.redirected and "logging" in sys.modules:
        redirect_standard_library()
    if _state.debug_log is not None:
        _state.debug_log.write(_debug_line(name, level, line))
    for route in _state.routes:
        if level >= route.level:
            route.send(name, level, line)


def _debug_line(name: str, level: int, text: str) -> str:
    return f"{isoformat(utc_now())} [{os.getpid()}] {LEVELS[level].upper()} {one_line(name)}: {one_line(text)}"


def _to_stderr(line: str) -> None:
    try:
        sys.stderr.write(line.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()


def _level_of(number: int) -> int:
    for least, level in ((50, 5), (40, 4), (30, 3), (20, 1)):
        if number >= least:
            return level
    return 0


def _handler(kind: str, values: dict[str, Any], component: str, paths: Paths) -> Any:
    if kind == "syslog":
        return _syslog_handler(values, component)
    if kind == "file":
        return _file_handler(values, component, paths)
    return _stderr_handler()


def _logbook() -> Any:
    import logbook  # type: ignore[import-untyped]  # carries no types

    return logbook


def _stderr_handler() -> Any:
    class StderrHandler(_logbook().StderrHandler):  # type: ignore[misc]  # a class of Any
        """Looks for `sys.stderr` at each record, and does not mind if it is closed."""

        def emit(self, record: Any) -> None:
            _to_stderr(self.format(record))

    return StderrHandler(format_string="{record.level_name}: {record.channel}: {record.message}")


def _file_handler(values: dict[str, Any], component: str, paths: Paths) -> Any:
    path = values["file.path"] or paths.logs / component / "penguindome.log"

    class FileHandler(_logbook().FileHandler):  # type: ignore[misc]  # a class of Any
        """Logbook's own rotation loses records when several processes write to one file."""

        def __init__(self) -> None:
            super().__init__(path, format_string=_FILE_FORMAT, delay=True)
            self.file = LineFile(path, values["file.max_bytes"], values["file.backups"])

        def emit(self, record: Any) -> None:
            self.file.write(self.format(record))

        def close(self) -> None:
            self.file.close()

    return FileHandler()


def _syslog_handler(values: dict[str, Any], component: str) -> Any:
    import socket

    address: Any = SYSLOG_SOCKET
    family = socket.AF_UNIX
    if values["syslog.host"]:
        # Looked up once: a name server that is away would otherwise hold up every record.
        found = socket.getaddrinfo(values["syslog.host"], values["syslog.port"], type=socket.SOCK_DGRAM)
        family, _, _, _, address = found[0]

    class SyslogHandler(_logbook().SyslogHandler):  # type: ignore[misc]  # a class of Any
        """Speaks IPv6 too, waits for no daemon that does not read, and closes what it no longer uses."""

        def _connect_netsocket(self) -> None:
            self.unixsocket = False
            self.socket = socket.socket(family, socket.SOCK_DGRAM)

        def _connect_unixsocket(self) -> None:
            self.unixsocket = True
            self.socket = _connected(address)

        def send_to_socket(self, data: bytes) -> None:
            data = data[:LONGEST_SYSLOG_RECORD]
            if not self.unixsocket:
                self.socket.sendto(data, address)
                return
            try:
                self.socket.send(data)
            except ConnectionError:
                self.socket.close()
                self._connect_unixsocket()
                self.socket.send(data)

    return SyslogHandler(
        f"penguindome-{component}",
        address,
        values["syslog.facility"],
        format_string="{record.channel}: {record.message}",
    )


def _connected(path: str) -> socket.socket:
    import socket

    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        connection = socket.socket(socket.AF_UNIX, kind)
        connection.settimeout(SYSLOG_TIMEOUT)
        try:
            connection.connect(path)
            return connection
        except OSError as error:
            connection.close()
            if error.errno != errno.EPROTOTYPE:
                raise
    raise ConnectionError(f"{path} is neither a datagram nor a stream socket")
