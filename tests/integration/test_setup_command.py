"""`penguindome setup`, as an administrator, a package's script and a person at a terminal use it."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from needs import require_program
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome_server.settings import load_server_settings
from penguindome_tools.commands import setup
from penguindome_tools.scratch_site import CHECKOUT


@pytest.fixture
def site(paths: Paths) -> Paths:
    """A root as the server's package leaves it, before its setup."""
    require_program("gpg")
    require_program("openssl")
    (paths.client_tree / "plugins").mkdir(parents=True)
    for plugin in ("os_info.py", "sshd.py"):
        (paths.client_tree / "plugins" / plugin).write_bytes((CHECKOUT / "plugins" / plugin).read_bytes())
    return paths


def environment(site: Paths) -> dict[str, str]:
    return {**os.environ, ROOT_VARIABLE: str(site.root)}


COMMAND = [sys.executable, "-m", "penguindome_tools.cli", "setup"]


def set_up(site: Paths, *words: str, answers: str | None = None, status: int = 0) -> str:
    """Run it; what it said (standard output, or standard error if it failed)."""
    done = subprocess.run(
        [*COMMAND, *(("--answers", "-") if answers is not None else ()), *words],
        env=environment(site), input=answers or "", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def everything(site: Paths) -> dict[Path, bytes]:
    """All files, but those in which it says that it ran."""
    files = (path for path in site.root.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if not re.search(r"/var/log/|/admin_log\.", str(path))}


def test_no_answers_at_all_make_a_server_that_works(site: Paths) -> None:
    said = set_up(site, answers="")
    assert "penguindome enrolment export FILE" in said
    assert "the manifest of the plugins was signed" in said
    settings = load_server_settings(site)
    assert settings["server.url"].startswith("https://")
    assert settings["tls.certificate"].exists()
    assert stat.S_IMODE(site.keys.stat().st_mode) == 0o700
    assert b"os_info.py" in (site.releases / "manifest.json").read_bytes()


def test_setting_up_twice_changes_nothing(site: Paths) -> None:
    set_up(site, answers="port=9443\nurl=https://a.example:9443\n")
    before = everything(site)
    set_up(site, answers=set_up(site, "--print"))
    set_up(site, answers="")
    set_up(site, "--yes")
    assert everything(site) == before


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ("port=0", "port: '0' is no port"),
        ("tls=files\ntls-certificate=/nothing", "tls-certificate: there is no file"),
        ("database=mongodb\ndatabase-hosts=127.0.0.1:1", "database-hosts: no database can be reached"),
        ("audit-mail=nobody", "audit-mail: 'nobody' is no mail address"), ("prot=1", "prot: there is no such question"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused_before_anything_is_made(site: Paths, answers: str, reason: str) -> None:
    before = everything(site)
    said = set_up(site, answers=answers, status=2)
    assert reason in said
    assert said.count("\n") == 1
    assert everything(site) == before


def test_certificate_and_key_must_be_a_pair(site: Paths, tmp_path: Path) -> None:
    for name in ("one", "two"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.crt", "-subj", "/CN=a.example"],
            check=True, capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    pair = f"tls=files\ntls-certificate={tmp_path / 'one.crt'}\ntls-key={{}}\nurl=https://a.example\n"
    assert "tls-key: " in set_up(site, answers=pair.format(tmp_path / "two.key"), status=2)
    set_up(site, answers=pair.format(tmp_path / "one.key"))
    assert load_server_settings(site)["tls.key"] == tmp_path / "one.key"
    (tmp_path / "one.key").unlink()
    # What is in force is not asked for again: an upgrade comes through.
    set_up(site, answers=set_up(site, "--print"))


def test_the_administrators_own_file_has_the_last_word_and_is_named(site: Paths) -> None:
    site.settings.mkdir(parents=True)
    (site.settings / "server.yml").write_text("listen.port: 9000\n")
    assert "\nport=9000\n" in set_up(site, "--print")
    done = subprocess.run(
        [*COMMAND, "--answers", "-"], env=environment(site), input="port=9001\nurl=https://a.example\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"listen.port stays 9000: {site.settings}/server.yml:1 has the last word" in done.stderr


def test_a_certificate_for_another_host_is_pointed_out(site: Paths) -> None:
    set_up(site, answers="url=https://a.example\n")
    done = subprocess.run(
        [*COMMAND, "--url", "https://b.example"], env=environment(site), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "is for another host than b.example" in done.stderr


def test_one_answer_can_be_looked_at_alone(site: Paths) -> None:
    assert "port: '0' is no port" in set_up(site, "--check", "port", answers="port=0\ntls=files\n", status=2)
    set_up(site, "--check", "address", answers="port=0\n")
    assert not site.settings.exists()


def test_options_and_answers_do_not_mix(site: Paths) -> None:
    assert "do not go with" in set_up(site, "--port", "9443", answers="", status=2)


def test_a_person_at_a_terminal_is_asked(site: Paths) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(COMMAND, env=environment(site), stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    typed = {"Port to listen on": ["x", "9443"], "URL at which": ["https://a.example:9443"], "Run the periodic": ["no"]}
    said, deadline = "", time.monotonic() + 50
    while process.poll() is None:
        ready, _, _ = select.select([master], [], [], max(deadline - time.monotonic(), 0))
        assert ready, said
        try:
            said += os.read(master, 65536).decode()
        except OSError:  # the last process at the terminal has gone
            break
        prompt = said.rpartition("\n")[2]
        if prompt.endswith("] "):
            lines = next((lines for name, lines in typed.items() if prompt.startswith(name)), [])
            os.write(master, f"{lines.pop(0) if lines else ''}\n".encode())
            said += "\n"
    os.close(master)
    assert process.wait(timeout=30) == 0, said
    assert "'x' is no port" in said
    settings = load_server_settings(site)
    assert (settings["listen.port"], settings["server.url"]) == (9443, "https://a.example:9443")
    assert settings["audit.scheduled"] is False


def test_who_does_not_say_whether_to_start_is_told_that_all_else_was_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert not setup.shall_start()
    assert "the server was set up, and not started" in capsys.readouterr().err
