"""Workers that cannot begin, or end: the master goes on, and others take their place."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from needs import require
from penguindome import processes
from web_server import PREFIX, START_SECONDS, Server, certificate, until

FRAGILE = """
from penguindome.paths import Paths
from penguindome_server.gunicorn_runner import Logger, Server, serve

def speechless(*_words):
    raise OSError("no words")

class Fragile(Server):
    def load(self):
        if (self.configuration.paths.root / "broken").exists():
            raise ValueError("this worker is broken")
        if (self.configuration.paths.root / "speechless").exists():
            Logger.info = Logger.exception = speechless
            raise ValueError("this worker is speechless")
        application = super().load()

        def fragile(environ, start_response):
            if environ["PATH_INFO"] == "/exit":
                raise SystemExit(7)
            return application(environ, start_response)

        return fragile

serve(Paths.from_environment(), Fragile)
"""


def answers_with(server: Server, crt: Path) -> bool:
    """Whether the server answers with exactly this certificate, on a new connection."""
    try:
        return requests.get(f"https://127.0.0.1:{server.port}{PREFIX}healthz", verify=str(crt), timeout=10).ok
    except requests.RequestException:
        return False


def replaced(server: Server, *workers: int) -> bool:
    """Whether there are workers, and none of these is among them."""
    now = server.workers()
    return bool(now) and not set(workers) & set(now)


def test_a_renewal_that_is_half_done_ends_no_server(server: Server) -> None:
    crt, key = certificate(server.paths.root, "own")
    server.write_settings(tls__certificate=str(crt), tls__key=str(key), workers=1)
    process = server.spawn()
    until(lambda: answers_with(server, crt), seconds=START_SECONDS, what="start")
    kept = crt.rename(crt.with_name("kept.crt"))
    crt.write_bytes(kept.read_bytes()[:300])
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: process.poll() is not None or (replaced(server, worker) and answers_with(server, kept)),
          what="another worker")  # fmt: skip
    assert process.poll() is None, server.log()
    (worker,) = server.workers()
    process.send_signal(signal.SIGHUP)
    until(lambda: "the settings were not read again: tls.certificate" in server.log(), what="the reload")
    until(lambda: process.poll() is not None or (replaced(server, worker) and answers_with(server, kept)),
          what="the next generation")  # fmt: skip
    assert process.poll() is None, server.log()


def test_once_one_has_served_a_worker_that_cannot_begin_is_followed_by_another(server: Server) -> None:
    server.program = ("-c", FRAGILE)
    server.start(workers=2)
    process, first = server.process, server.workers()
    assert process is not None
    (server.paths.root / "broken").touch()
    os.kill(first[0], signal.SIGKILL)
    until(lambda: process.poll() is not None or "this worker is broken" in server.log(), what="a broken worker")
    until(lambda: process.poll() is not None or "exited with code 1" in server.log(), what="its end")
    assert process.poll() is None, server.log()
    until(server.answers, what="an answer")
    assert first[1] in server.workers()
    (server.paths.root / "broken").unlink()
    os.kill(first[1], signal.SIGKILL)
    until(lambda: replaced(server, *first) and server.answers(), what="whole workers")
    assert server.stop() == 0


def test_a_first_start_that_no_worker_survives_ends_at_once_and_says_why(server: Server) -> None:
    server.program = ("-c", FRAGILE)
    server.write_settings(workers=4)
    (server.paths.root / "broken").touch()
    assert server.spawn().wait(START_SECONDS) == 3
    assert "this worker is broken" in server.log()
    assert "HaltServer" not in server.log()


def test_a_worker_that_fails_in_saying_why_ends_and_nobody_else(server: Server) -> None:
    server.program = ("-c", FRAGILE)
    server.start(workers=2)
    process, first = server.process, server.workers()
    assert process is not None
    (server.paths.root / "speechless").touch()
    os.kill(first[0], signal.SIGKILL)
    until(lambda: process.poll() is not None or "exited with code 1" in server.log(), what="its end")
    assert process.poll() is None, server.log()
    assert first[1] in server.workers()
    (server.paths.root / "speechless").unlink()
    until(lambda: len(server.workers()) == 2 and server.answers(), what="another worker")
    assert server.stop() == 0


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """Let a process open no file in this block."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_a_master_that_can_start_no_worker_goes_on_and_tries_again(server: Server) -> None:
    server.start(workers=2)
    process, first = server.process, server.workers()
    assert process is not None
    with no_more_files(process.pid):
        os.kill(first[0], signal.SIGKILL)
        until(
            lambda: process.poll() is not None or "a worker could not be started;" in server.log(), what="the refusal"
        )
        assert process.poll() is None, server.log()
        until(server.answers, what="an answer")
        assert server.workers() == first[1:]
    until(lambda: len(server.workers()) == 2, what="another worker")
    assert server.stop() == 0


def test_workers_show_that_they_live_in_the_runtime_directory(server: Server) -> None:
    server.start(workers=1)
    (worker,) = server.workers()
    links = [link.readlink() for link in Path(f"/proc/{worker}/fd").iterdir()]
    assert [link for link in links if link.parent == server.paths.runtime and link.name.startswith("wgunicorn-")]


@pytest.fixture
def small_runtime(server: Server) -> Iterator[Path]:
    """The runtime directory of the server on a disk of half a megabyte."""
    require(os.geteuid() == 0, "only root can mount a small disk")
    runtime = server.paths.runtime
    runtime.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs", str(runtime)]
    require(processes.run(mount, timeout=10, check=False).returncode == 0, "a tmpfs cannot be mounted here")
    try:
        yield runtime
    finally:
        server.kill()
        processes.run(["umount", "--lazy", str(runtime)], timeout=10)


def test_a_runtime_directory_that_is_full_costs_counts_and_no_process(server: Server, small_runtime: Path) -> None:
    server.start(workers=1)
    process, (worker,) = server.process, server.workers()
    assert process is not None
    filler = small_runtime / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.tell() < 1 << 20:
            file.write(bytes(4096))
    os.kill(worker, signal.SIGKILL)
    until(lambda: process.poll() is not None or (replaced(server, worker) and server.answers()), what="another worker")
    assert process.poll() is None, server.log()
    assert "what this worker does is missing in the metrics: [Errno 28]" in server.log()
    (second,) = server.workers()
    for _ in range(20):
        until(server.answers, what="an answer")
    text = requests.get(f"{server.url}{PREFIX}metrics", timeout=60).text
    assert 'penguindome_requests_total{endpoint="healthz",status="200"}' in text
    assert server.workers() == [second]
    filler.unlink()
    os.kill(second, signal.SIGKILL)
    until(lambda: replaced(server, second) and server.answers(), what="a third worker")
    (third,) = server.workers()
    assert (small_runtime / f"metrics/counter_{third}.db").stat().st_blocks * 512 >= 1 << 16
    assert "SIGBUS" not in server.log()


def test_a_request_that_would_end_its_thread_takes_no_thread_away(server: Server) -> None:
    server.program = ("-c", FRAGILE)
    server.start(workers=1, threads=1)
    for _ in range(3):
        with suppress(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{server.port}/exit", timeout=60)
    until(server.answers, what="an answer")
    assert server.stop() == 0
