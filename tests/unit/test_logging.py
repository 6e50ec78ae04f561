"""Logging: one record, one line, where the settings say, and never the end of the program."""

from __future__ import annotations

import logging as standard_logging
import re
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penguindome import logging
from penguindome.logging import LOGGING_SETTINGS, get_logger
from penguindome.paths import Paths
from penguindome.settings import Schema, Settings

SCHEMA = Schema(LOGGING_SETTINGS)
HOSTILE = "a\nb\r\x1b[31mc\x00\x7f\x9b\u2028\u202e\ud800é"
ESCAPED = r"a\nb\r\x1b[31mc\x00\x7f\x9b\u2028\u202e\ud800é"


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    logging.reset()


def configure(paths: Paths, stderr_level: str | None = None, **values: Any) -> None:
    given = {f"logging.{name.replace('__', '.')}": value for name, value in values.items()}
    logging.configure(Settings.of(SCHEMA, given), component="client", paths=paths, stderr_level=stderr_level)


def debug_log(paths: Paths) -> str:
    return (paths.logs / "client/debug.log").read_text(encoding="utf-8")


def receive(server: socket.socket) -> str:
    server.settimeout(5)
    return server.recv(65536).decode()


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    """A syslog server on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        yield server


@pytest.mark.parametrize("handler", ["stderr", "syslog", "file", "none"])
def test_everything_is_in_the_local_debug_log(paths: Paths, handler: str) -> None:
    configure(paths, handler=handler, level="critical")
    get_logger("some.name").debug("a {} of {word}", 1, word="two")
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[\d+\] DEBUG some\.name: a 1 of two\n"
    assert re.fullmatch(line, debug_log(paths))


def test_the_level_of_the_settings_decides_what_goes_to_the_handler(
    paths: Paths, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(paths, level="warning")
    log = get_logger("name")
    for level in logging.LEVELS:
        getattr(log, level)("text")
    assert capfd.readouterr().err == "WARNING: name: text\nERROR: name: text\nCRITICAL: name: text\n"
    assert debug_log(paths).count("\n") == 6


def test_a_command_may_ask_for_more_on_stderr(paths: Paths, capfd: pytest.CaptureFixture[str]) -> None:
    configure(paths, handler="file", level="error", stderr_level="info")
    get_logger("name").info("for the terminal")
    assert "for the terminal" in capfd.readouterr().err
    configure(paths, handler="stderr", level="error", stderr_level="info")
    get_logger("name").info("once")
    assert capfd.readouterr().err.count("once") == 1


def test_a_record_is_one_line_whatever_it_holds(paths: Paths, capfd: pytest.CaptureFixture[str]) -> None:
    configure(paths)
    get_logger("name").info(HOSTILE)
    get_logger("name").info("{}", HOSTILE)
    standard_logging.getLogger("other").warning("%s", HOSTILE)
    assert capfd.readouterr().err.splitlines() == [
        f"INFO: name: {ESCAPED}",
        f"INFO: name: {ESCAPED}",
        f"WARNING: other: {ESCAPED}",
    ]
    assert [line.split(": ", 1)[1] for line in debug_log(paths).splitlines()] == [ESCAPED] * 3


def test_a_huge_record_is_cut(paths: Paths) -> None:
    configure(paths, handler="none")
    get_logger("name").info("x" * 1_000_000)
    assert len(debug_log(paths)) < 50_000


def test_braces_in_a_text_without_arguments_are_text(paths: Paths) -> None:
    configure(paths, handler="none")
    get_logger("name").info('{"a": 1}')
    assert debug_log(paths).endswith('name: {"a": 1}\n')


def test_a_text_that_cannot_be_filled_is_logged_as_it_is(paths: Paths) -> None:
    class Broken:
        """Cannot be shown."""

        def __format__(self, specification: str) -> str:
            raise RuntimeError("broken")

        def __repr__(self) -> str:
            return "Broken()"

    configure(paths, handler="none")
    get_logger("name").info("a {} and {}", 1)
    get_logger("name").info("a {}", Broken())
    logging.redirect_standard_library()
    ours = next(handler for handler in standard_logging.root.handlers if handler.name == "penguindome")
    ours.handle(standard_logging.LogRecord("other", standard_logging.WARNING, "file", 1, "%d", ("x",), None))
    first, second, third = debug_log(paths).splitlines()
    assert "a {} and {} (1,)" in first
    assert "Broken()" in second
    assert "cannot be formatted" in third


def test_an_exception_is_logged_with_its_traceback(paths: Paths) -> None:
    configure(paths, handler="none")
    try:
        raise ValueError("what happened")
    except ValueError:
        get_logger("name").exception("while working")
        standard_logging.getLogger("other").exception("while working")
    for line in debug_log(paths).splitlines():
        assert "ERROR" in line
        assert r"while working\nTraceback" in line
        assert line.endswith("ValueError: what happened")


def test_records_go_to_a_syslog_host(paths: Paths, udp: socket.socket) -> None:
    configure(
        paths, handler="syslog", syslog__facility="local3", syslog__host="127.0.0.1", syslog__port=udp.getsockname()[1]
    )
    get_logger("some.name").error(HOSTILE.replace("\ud800", ""))
    priority = 19 * 8 + 3
    expected = ESCAPED.replace(r"\ud800", "")
    message = receive(udp)
    assert message.startswith(f"<{priority}>1 20")
    assert re.search(r" penguindome-client \d+ - - some\.name: ", message)
    assert message.endswith(f"{expected}\n")


def test_records_go_to_a_syslog_host_by_ipv6(paths: Paths) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::1", 0))
        configure(paths, handler="syslog", syslog__host="::1", syslog__port=server.getsockname()[1])
        get_logger("name").error("hello")
        assert "hello" in receive(server)


def test_records_go_to_the_syslog_of_this_machine(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "SYSLOG_SOCKET", str(tmp_path / "log"))
    monkeypatch.setattr(logging, "RETRY_AFTER", 0)
    configure(paths, handler="syslog")
    log = get_logger("name")
    log.warning("nobody hears this")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        log.warning("hello")
        assert receive(server).rstrip("\0") == f"<{3 * 8 + 4}>penguindome-client:name: hello"
    (tmp_path / "log").unlink()
    log.warning("the daemon is restarting")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        log.warning("hello again")
        assert "hello again" in receive(server)


@pytest.mark.timeout(30)
def test_a_syslog_daemon_that_does_not_read_holds_nobody_up(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "SYSLOG_SOCKET", str(tmp_path / "log"))
    monkeypatch.setattr(logging, "SYSLOG_TIMEOUT", 0.05)
    configure(paths, handler="syslog")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        started = time.monotonic()
        for number in range(200):
            get_logger("name").warning("{} {}", number, "x" * 1000)
        assert time.monotonic() - started < 20
    assert debug_log(paths).count("a log handler failed") == 1


def test_a_syslog_host_that_cannot_be_found_is_asked_for_once_in_a_while(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def unknown(*arguments: object, **keywords: object) -> list[object]:
        asked.append(arguments)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    configure(paths, handler="syslog", syslog__host="log.example.org")
    for _ in range(10):
        get_logger("name").warning("lost")
    assert len(asked) == 1
    assert debug_log(paths).count("Temporary failure") == 1


def test_records_go_to_a_file_that_is_rotated(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "logs/ours.log"
    configure(paths, handler="file", file__path=str(file), file__max_bytes=10_000, file__backups=2)
    for number in range(500):
        get_logger("name").info("record {}", number)
    assert sorted(path.name for path in file.parent.iterdir()) == ["ours.log", "ours.log.1", "ours.log.2"]
    last = file.read_text().splitlines()[-1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \[\d+\] INFO name: record 499", last)


def test_the_file_lies_in_our_logs_unless_said_otherwise(paths: Paths) -> None:
    configure(paths, handler="file")
    get_logger("name").info("hello")
    assert "hello" in (paths.logs / "client/penguindome.log").read_text()


def test_the_debug_log_is_bounded(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "DEBUG_LOG_SIZE", 10_000)
    configure(paths, handler="none")
    for number in range(1000):
        get_logger("name").debug("record {} {}", number, "x" * 50)
    sizes = [path.stat().st_size for path in (paths.logs / "client").iterdir()]
    assert len(sizes) == 1 + logging.DEBUG_LOG_BACKUPS
    assert max(sizes) <= 10_000


def test_a_full_disk_ends_nothing(paths: Paths, capfd: pytest.CaptureFixture[str]) -> None:
    configure(paths, handler="file", file__path="/dev/full")
    get_logger("name").error("lost")
    configure(paths, handler="stderr")
    (paths.logs / "client/debug.log").unlink(missing_ok=True)
    (paths.logs / "client").rmdir()
    (paths.logs / "client").touch()
    get_logger("name").error("heard")
    assert "heard" in capfd.readouterr().err


def test_a_closed_stderr_ends_nothing(paths: Paths) -> None:
    script = (
        "import sys; from pathlib import Path; from penguindome import logging; from penguindome.paths import Paths\n"
        "from penguindome.settings import Schema, Settings\n"
        "logging.get_logger('x').error('early')\n"
        "settings = Settings.of(Schema(logging.LOGGING_SETTINGS))\n"
        "logging.configure(settings, component='client', paths=Paths(Path(sys.argv[1])))\n"
        "logging.get_logger('x').error('late')\n"
        "print('alive')\n"
    )
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", script, str(paths.root)]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"alive\n"
    command[2] = 'exec "$@" 2>/dev/full'
    assert subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout == b"alive\n"


def test_what_libraries_log_flows_in(paths: Paths) -> None:
    configure(paths, handler="none")
    logging.redirect_standard_library()
    standard_logging.getLogger("urllib3.connectionpool").debug("every byte")
    standard_logging.getLogger("pymongo").info("connected to %s", "mongod")
    standard_logging.getLogger("gunicorn.error").critical("bad")
    assert [line.split("] ", 1)[1] for line in debug_log(paths).splitlines()] == [
        "INFO pymongo: connected to mongod",
        "CRITICAL gunicorn.error: bad",
    ]


def test_warnings_flow_in(paths: Paths) -> None:
    configure(paths, handler="none")
    logging.redirect_standard_library()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        standard_logging.captureWarnings(True)
        warnings.warn("old-fashioned", DeprecationWarning, stacklevel=1)
    assert "old-fashioned" in debug_log(paths)


def test_before_it_is_configured_only_what_matters_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    get_logger("name").info("chatter")
    get_logger("name").error("trouble\n")
    assert capfd.readouterr().err == "error: name: trouble\\n\n"


def test_configuring_again_replaces_what_was_there(paths: Paths, udp: socket.socket, tmp_path: Path) -> None:
    port = udp.getsockname()[1]
    configure(paths, handler="syslog", syslog__host="127.0.0.1", syslog__port=port)
    get_logger("name").error("one")
    receive(udp)
    configure(Paths(tmp_path / "elsewhere"), handler="none")
    get_logger("name").error("two")
    assert "two" not in debug_log(paths)
    udp.settimeout(0)
    with pytest.raises(BlockingIOError):
        udp.recv(100)


def test_a_run_that_has_nothing_to_say_imports_little(paths: Paths) -> None:
    """Each of these costs an idle minute of a client between 5 and 70 ms."""
    script = (
        "import sys; from pathlib import Path\n"
        "from penguindome import paths, settings, yaml_files, json, files, openpgp, manifest, logging, times\n"
        "loaded = settings.Settings.of(settings.Schema(logging.LOGGING_SETTINGS))\n"
        "logging.configure(loaded, component='client', paths=paths.Paths(Path(sys.argv[1])))\n"
        "logging.get_logger('x').debug('an idle minute')\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(paths.root)], capture_output=True, check=True)
    heavy = {"gnupg", "logbook", "logging", "pysequoia", "requests", "socket", "ssl", "subprocess", "yaml", "tempfile"}
    assert heavy.isdisjoint(done.stdout.decode().split())
    assert "an idle minute" in debug_log(paths)


def test_importing_the_package_imports_nothing_else() -> None:
    script = "import sys, penguindome; print(*(name for name in sys.modules if name.startswith('penguindome.')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == []


def test_a_process_that_can_open_no_file_escapes_its_records_all_the_same() -> None:
    program = (
        "import resource, sys\n"
        "from penguindome.logging import one_line\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "sys.stdout.write(one_line('\\n\\x1b\\x85\\u202e\\ud800\\U000e0001'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, rb"\n\x1b\x85\u202e\ud800\U000e0001"), done.stderr
