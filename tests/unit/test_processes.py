"""Programs are bounded in time and output, and killed whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client_peer import soon
from penguindome import processes
from penguindome.errors import ProcessError
from penguindome.processes import Completed, ProgramMissing, run
from running import is_running


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to be killed is killed soon."""
    monkeypatch.setattr(processes, "TERMINATION_GRACE", 0.2)
    monkeypatch.setattr(processes, "LEFT_OPEN_GRACE", 0.2)


def cut_short(script: str, *, lines: int) -> Completed:
    """Run a script that does not end, with the first time-out that lets it say so many lines before."""
    for timeout in (0.3, 3, 30):
        completed = run(["sh", "-c", script], timeout=timeout, check=False)
        if completed.stdout.count(b"\n") >= lines:
            return completed
    raise AssertionError(f"it said too little: {completed.stdout!r}")


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.01)


def test_output_and_status_come_back() -> None:
    completed = run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=10, check=False)
    assert (completed.returncode, completed.stdout, completed.stderr) == (3, b"out\n", b"err\n")
    assert not completed.truncated
    assert not completed.timed_out
    assert completed.text == "out\n"


def test_standard_input_is_empty_unless_given() -> None:
    assert run(["cat"], timeout=10).stdout == b""
    assert run(["cat"], timeout=10, input=b"").stdout == b""


def test_much_goes_in_and_out_at_once() -> None:
    data = os.urandom(3_000_000)
    assert run(["cat"], timeout=20, input=data).stdout == data


def test_a_program_need_not_read_what_it_is_given() -> None:
    assert run(["true"], timeout=10, input=b"x" * 3_000_000).returncode == 0


def test_a_failure_says_how_and_why() -> None:
    with pytest.raises(ProcessError, match=r"sh failed \(exit status 3\): no such thing"):
        run(["sh", "-c", "echo first >&2; echo no such thing >&2; exit 3"], timeout=10)
    with pytest.raises(ProcessError, match=r"sh failed \(signal 9\)"):
        run(["sh", "-c", "kill -9 $$"], timeout=10)


def test_other_statuses_may_be_good() -> None:
    assert run(["sh", "-c", "exit 3"], timeout=10, ok_codes=(0, 3)).returncode == 3


def test_a_missing_program_is_said_to_be_missing(tmp_path: Path) -> None:
    for check in (True, False):
        with pytest.raises(ProgramMissing, match="no-such-program") as caught:
            run(["no-such-program"], timeout=10, check=check)
        assert caught.value.hint == "install no-such-program"
    (tmp_path / "data").write_text("x")
    with pytest.raises(ProgramMissing):
        run([tmp_path / "data"], timeout=10)


def test_a_missing_directory_is_not_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="not a directory") as caught:
        run(["true"], timeout=10, cwd=tmp_path / "none")
    assert not isinstance(caught.value, ProgramMissing)


def test_a_word_that_no_program_can_be_given_is_an_error_of_ours() -> None:
    with pytest.raises(ProcessError, match="null byte"):
        run(["echo", "a\0b"], timeout=10)


def test_the_environment_and_directory_are_those_given(tmp_path: Path) -> None:
    completed = run(["/bin/sh", "-c", "echo $A-$HOME; pwd"], timeout=10, env={"A": "b"}, cwd=tmp_path)
    assert completed.text.splitlines() == ["b-", str(tmp_path)]


def test_the_time_out_is_an_error_or_can_be_seen(short_grace: None) -> None:
    with pytest.raises(ProcessError, match=r"sleep did not end within 0\.1 s"):
        run(["sleep", "60"], timeout=0.1)
    completed = cut_short("echo early; exec sleep 60", lines=1)
    assert completed.timed_out
    assert (completed.stdout, completed.returncode) == (b"early\n", -signal.SIGTERM)


def test_who_ignores_sigterm_is_killed_with_all_his_children(short_grace: None) -> None:
    script = "trap '' TERM; (trap '' TERM; sleep 60) & echo $!; echo $$; sleep 60"
    completed = cut_short(script, lines=2)
    assert completed.returncode == -signal.SIGKILL
    for pid in map(int, completed.stdout.split()):
        wait_until_gone(pid)


def test_a_child_left_behind_with_our_pipe_is_killed(short_grace: None) -> None:
    completed = run(["sh", "-c", "sleep 60 & echo $!"], timeout=30)
    assert not completed.timed_out
    wait_until_gone(int(completed.stdout))


def test_a_daemon_that_let_go_of_our_pipe_lives_on() -> None:
    completed = run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], timeout=30)
    pid = int(completed.stdout)
    try:
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_beyond_the_limit_ends_the_program(short_grace: None, stream: str) -> None:
    command = ["sh", "-c", "yes >&2"] if stream == "stderr" else ["yes"]
    completed = run(command, timeout=30, output_limit=100_000, check=False)
    assert completed.truncated
    assert len(getattr(completed, stream)) == 100_000
    with pytest.raises(ProcessError, match="more than 100000 bytes"):
        run(command, timeout=30, output_limit=100_000)


def test_output_of_exactly_the_limit_is_fine() -> None:
    assert not run(["printf", "12345"], timeout=10, output_limit=5).truncated


def test_several_run_at_once() -> None:
    barrier = threading.Barrier(4)

    def echo(number: int) -> bytes:
        barrier.wait(10)
        return run(["sh", "-c", f"sleep 0.1; echo {number}"], timeout=20).stdout

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(echo, range(4))) == [b"0\n", b"1\n", b"2\n", b"3\n"]


def test_an_interrupted_caller_leaves_nothing_running(short_grace: None, tmp_path: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"], timeout=30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_no_descriptors_are_left_open(short_grace: None) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    run(["true"], timeout=10, input=b"x" * 1_000_000)
    run(["sleep", "60"], timeout=0.05, check=False)
    with pytest.raises(ProgramMissing):
        run(["no-such-program"], timeout=1)
    assert len(sorted(Path("/proc/self/fd").iterdir())) == len(before)


def test_kernels_without_descriptors_for_processes_do_as_well(
    short_grace: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    assert run(["sh", "-c", "sleep 60 & echo x"], timeout=30).stdout == b"x\n"
    assert run(["sleep", "60"], timeout=0.1, check=False).timed_out


def test_a_filter_takes_what_is_written_and_tells_how_it_ended(tmp_path: Path) -> None:
    with (
        (tmp_path / "out").open("wb") as out,
        processes.filtering(["tr", "a-z", "A-Z"], stdout=out.fileno()) as program,
    ):
        program.stream.write(b"hello" * 100_000)
        assert program.finish(timeout=20).returncode == 0
    assert (tmp_path / "out").read_bytes() == b"HELLO" * 100_000


def test_a_filter_is_read_and_its_complaints_are_kept(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"hello" * 100_000)
    with (
        (tmp_path / "in").open("rb") as source,
        processes.filtering(["sh", "-c", "cat; echo no >&2; exit 3"], stdin=source.fileno()) as program,
    ):
        assert program.stream.read() == b"hello" * 100_000
        done = program.finish(timeout=20)
    assert (done.returncode, done.stderr) == (3, b"no\n")


def test_a_filter_that_nobody_waited_for_is_gone_with_all_that_it_started(tmp_path: Path) -> None:
    child = 0

    def interrupted() -> None:
        nonlocal child
        with (
            (tmp_path / "in").open("wb+") as source,
            processes.filtering(["sh", "-c", "sleep 1000 & echo $!; sleep 1000"], stdin=source.fileno()) as program,
        ):
            child = int(program.stream.readline())
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert child
    assert soon(lambda: not is_running(child))


def test_a_filter_that_is_not_installed_is_an_error_of_ours() -> None:
    with pytest.raises(processes.ProgramMissing), processes.filtering(["no-such-program"], stdin=0):
        pass
