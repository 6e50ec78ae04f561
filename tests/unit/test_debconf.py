"""Debian's questions: made of the same tables, and asked by a real debconf with a database of its own."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from needs import require, require_program
from penguindome.client.questions import QUESTIONS as CLIENT_QUESTIONS
from penguindome_tools.packaging.debconf import CHECKOUT, PACKAGES, generated
from penguindome_tools.questions import QUESTIONS as SERVER_QUESTIONS

FRONTEND = Path("/usr/share/debconf/frontend")
SETTINGS = """\
Config: configdb
Templates: templatedb

Name: plain
Driver: File
Mode: 644
Reject-Type: password
Filename: {0}/config.dat

Name: passwords
Driver: File
Mode: 600
Accept-Type: password
Filename: {0}/passwords.dat

Name: configdb
Driver: Stack
Stack: plain, passwords

Name: templatedb
Driver: File
Mode: 644
Filename: {0}/templates.dat
"""


class Debconf:
    """The `config` script of a package, below a debconf of its own; `program` stands for the installed program."""

    def __init__(self, directory: Path, package: str) -> None:
        self.directory = directory
        self.package = package
        self.program = directory / "program"
        (directory / "settings").write_text(SETTINGS.format(directory))
        templates = (CHECKOUT / f"debian/{package}.templates").read_text()
        # What po-debconf does when there is no translation.
        plain = re.sub(r"^_", "", re.sub(r"^#.*\n", "", templates, flags=re.MULTILINE), flags=re.MULTILINE)
        (directory / f"{package}.templates").write_text(plain.lstrip())
        config = (CHECKOUT / f"debian/{package}.config").read_text()
        script = re.sub(r"^program=.*$", f"program={self.program}", config, flags=re.MULTILINE)
        self.script = directory / f"{package}.config"
        self.script.write_text(script)
        self.script.chmod(0o755)

    def environment(self, frontend: str, priority: str) -> dict[str, str]:
        return {
            **os.environ, "DEBCONF_SYSTEMRC": str(self.directory / "settings"), "DEBIAN_FRONTEND": frontend,
            "DEBIAN_PRIORITY": priority, "HOME": str(self.directory), "LANG": "C.UTF-8", "TERM": "dumb",
        }  # fmt: skip

    def run(self, *words: str, status: int = 0) -> str:
        """Without anybody there to answer."""
        done = subprocess.run(
            [str(FRONTEND), str(self.script), *words], env=self.environment("noninteractive", "high"),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def talk(
        self, typed: dict[str, list[str]], *, words: tuple[str, ...] = ("configure", ""), priority: str = "medium"
    ) -> str:
        """At a terminal: each prompt gets the next of its lines, and when none is left a bare Enter, or the first of
        several choices, where debconf takes no Enter.
        """
        command = " ".join(["exec", str(FRONTEND), str(self.script), *(repr(word) for word in words)])
        process = subprocess.Popen(
            ["script", "--quiet", "--return", "--echo", "never", "--command", command, "/dev/null"],
            env=self.environment("teletype", priority), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        said, deadline = "", time.monotonic() + 30
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin as keyboard, process.stdout as screen:
            while True:
                ready, _, _ = select.select([screen], [], [], max(deadline - time.monotonic(), 0))
                assert ready, said
                piece = os.read(screen.fileno(), 65536)
                if not piece:
                    break
                said += piece.decode()
                # A prompt is what ends without a line of its own.
                prompt = said.rpartition("\n")[2]
                if prompt.endswith((": ", "] ")):
                    name = prompt.split(":")[0].split("?")[0]
                    lines = typed.get(name, [])
                    otherwise = {"TLS certificate": "1", "Database": "1", "Run the periodic audit": "yes"}.get(name, "")
                    keyboard.write(f"{lines.pop(0) if lines else otherwise}\n".encode())
                    said += "\n"
        assert process.wait(timeout=60) == 0, said
        assert not any(typed.values()), said
        return said

    def preseed(self, **answers: str) -> None:
        """What debconf-set-selections writes before the package is there."""
        blocks = [
            f"Name: {self.package}/{name.replace('_', '-')}\nTemplate: {self.package}/{name.replace('_', '-')}\n"
            f"Value: {answer}\nOwners: {self.package}\nFlags: seen\n"
            for name, answer in answers.items()
        ]
        (self.directory / "config.dat").write_text("\n".join(blocks))

    def answers(self) -> dict[str, str]:
        """What the database holds."""
        text = (self.directory / "config.dat").read_text()
        return dict(re.findall(rf"^Name: {self.package}/(\S+)\nTemplate: .*\nValue: (.*)$", text, re.MULTILINE))

    def installed(self, **answers: str) -> None:
        """From now on the program is there, says that this is in force, and refuses ports below 1024."""
        lines = "".join(f"{name.replace('_', '-')}={answer}\n" for name, answer in answers.items())
        self.program.write_text(
            f"#!{sys.executable}\nimport sys\nif '--print' in sys.argv:\n    print({lines!r})\n"
            "elif '--check' in sys.argv:\n    name = sys.argv[-1]\n"
            "    answers = dict(line.rstrip().split('=', 1) for line in sys.stdin)\n"
            "    if name == 'port' and int(answers[name]) < 1024:\n"
            "        sys.exit('penguindome: port: root alone may')\n"
        )
        self.program.chmod(0o755)


def debconf(tmp_path: Path, package: str) -> Debconf:
    require(FRONTEND.exists(), "no debconf")
    require_program("script")
    return Debconf(tmp_path, package)


@pytest.fixture
def server(tmp_path: Path) -> Debconf:
    return debconf(tmp_path, "penguindome-server")


@pytest.fixture
def client(tmp_path: Path) -> Debconf:
    return debconf(tmp_path, "penguindome-client")


def test_what_is_generated_is_what_the_questions_say() -> None:
    for name, text in generated().items():
        assert (CHECKOUT / "debian" / name).read_text() == text, (
            f"debian/{name} is old; run: python -m penguindome_tools.packaging.debconf"
        )


def test_every_question_has_a_template_and_a_place_in_the_example() -> None:
    for package in PACKAGES:
        templates = (CHECKOUT / f"debian/{package.name}.templates").read_text()
        example = (CHECKOUT / f"debian/preseed/{package.name}.preseed").read_text()
        for question in package.questions:
            assert f"Template: {package.name}/{question.name}\n" in templates
            assert re.search(rf"^#{package.name} {package.name}/{question.name} \w+", example, re.MULTILINE)
        # A default would come back over what is in force when nobody answers.
        assert "Default:" not in templates


def test_what_the_documentation_preseeds_are_questions() -> None:
    for package in PACKAGES:
        text = (CHECKOUT / f"debian/{package.name}.README.Debian").read_text()
        named = re.findall(rf"{package.name}/([a-z-]+)\b(?!\.preseed)", text)
        known = {question.name for question in package.questions} | {name for name, *_ in package.extra}
        assert set(named) - {"examples"} <= known
        assert named


def test_secrets_do_not_stay_with_debconf() -> None:
    server = (CHECKOUT / "debian/penguindome-server.postinst").read_text()
    client = (CHECKOUT / "debian/penguindome-client.postinst").read_text()
    assert f"for secret in {' '.join(each.name for each in SERVER_QUESTIONS if each.is_secret)};" in server
    assert not any(each.is_secret for each in CLIENT_QUESTIONS)
    assert "for once in bundle token-file;" in client


def test_without_anybody_to_ask_the_defaults_are_taken(server: Debconf) -> None:
    server.run("configure", "")
    answers = server.answers()
    assert (answers["port"], answers["tls"], answers["database"]) == ("8443", "self-signed", "sqlite")
    assert re.fullmatch(r"https://\S+:8443", answers["url"])
    assert answers["pending"] == "true"


def test_preseeded_answers_stay_and_lead_to_others(server: Debconf) -> None:
    server.preseed(port="443", tls="none", audit="false")
    server.run("configure", "")
    answers = server.answers()
    assert (answers["port"], answers["tls"], answers["audit"]) == ("443", "none", "false")
    assert not answers["url"].endswith(":443")


def test_what_is_in_force_counts_more_than_what_debconf_remembers(server: Debconf) -> None:
    server.preseed(port="1111", log_level="debug", pending="false")
    server.installed(port="2222", log_level="info", url="https://a.example")
    server.run("reconfigure", "1.0")
    answers = server.answers()
    assert (answers["port"], answers["log-level"], answers["url"]) == ("2222", "info", "https://a.example")


def test_answers_of_the_first_of_two_runs_survive_the_second(server: Debconf) -> None:
    server.installed(port="2222", url="https://a.example")
    server.preseed(port="3333", pending="true")
    server.run("configure", "1.0")
    assert server.answers()["port"] == "3333"


def test_a_machine_that_cannot_say_what_is_in_force_keeps_it(server: Debconf) -> None:
    server.run("configure", "1.0")
    assert server.answers().get("pending") != "true"


def test_a_wrong_answer_is_refused_where_it_is_asked(server: Debconf, tmp_path: Path) -> None:
    (tmp_path / "file.pem").touch()
    file = str(tmp_path / "file.pem")
    said = server.talk({
        "Port to listen on": ["99999", "9443"], "TLS certificate": ["files"],
        "File with the certificate": ["/nothing", file], "File with the private key": [file],
        "URL at which clients reach this server": ["ftp://x", "https://a.example"], "Run the periodic audit": ["no"],
    })  # fmt: skip
    for reason in ("from 1 to 65535", "no such file", "looks like https://host:port"):
        assert said.count(reason) == 1
    answers = server.answers()
    assert (answers["port"], answers["tls-certificate"], answers["tls-key"]) == ("9443", file, file)
    assert (answers["url"], answers["database"], answers["audit"]) == ("https://a.example", "sqlite", "false")


def test_a_database_that_cannot_be_reached_is_refused_before_the_package_is_there(server: Debconf) -> None:
    said = server.talk({"Database": ["mongodb"], "Database hosts": ["127.0.0.1:1"]})
    assert "No database can be reached there." in said


def test_a_bare_enter_keeps_what_was_there(server: Debconf) -> None:
    server.installed(port="2222", tls="none", url="https://a.example", audit="true", audit_mail="a@b.example")
    server.talk({"TLS certificate": ["none"]}, words=("reconfigure", "1.0"))
    answers = server.answers()
    assert (answers["port"], answers["url"], answers["audit-mail"]) == ("2222", "https://a.example", "a@b.example")


def test_the_installed_program_looks_at_answers_more_closely(server: Debconf) -> None:
    server.installed(port="2222", tls="none", url="https://a.example", database="sqlite", audit="false")
    said = server.talk({"Port to listen on": ["80", "8080"]}, words=("reconfigure", "1.0"))
    assert "root alone may" in said
    assert server.answers()["port"] == "8080"


def test_what_postinst_refused_is_asked_again_only_if_somebody_is_there(server: Debconf) -> None:
    server.run("configure", "")
    assert server.run("refused", "port", "it is in use", status=30)
    said = server.talk({"Port to listen on": ["8080"]}, words=("refused", "port", "it is in use"), priority="high")
    assert "it is in use" in said
    assert server.answers()["port"] == "8080"


def test_a_client_is_asked_for_a_bundle_and_otherwise_waits(client: Debconf) -> None:
    client.run("configure", "")
    assert client.answers()["bundle"] == "none"
    said = client.talk({"URL of the server": ["https://a.example"], "Fingerprint of the server key": ["12", "0" * 40]})
    assert "It has 40 digits." in said
    answers = client.answers()
    assert (answers["url"], answers["fingerprint"]) == ("https://a.example", "0" * 40)


def test_the_scripts_are_what_a_shell_of_debian_understands() -> None:
    shellcheck = require_program("shellcheck")
    scripts = [
        str(path)
        for path in (CHECKOUT / "debian").glob("*")
        if path.suffix in (".config", ".postinst", ".prerm", ".postrm")
    ]
    assert len(scripts) == 8
    done = subprocess.run([shellcheck, "--shell=sh", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert shutil.which("sh")
