"""`penguindome password`, typed as an administrator types it."""

from __future__ import annotations

import os
import pty
import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from needs import require
from penguindome import json
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.settings import Settings
from penguindome_server.passwords import password_context
from penguindome_server.settings import load_server_settings

FRED = "pbkdf2-sha256$200000$kDKGUCpl7B3jXGutFYLwHg$lQfA3HrPZVIVjKCUhDkDYMtkeuTRKbb6UxqnUeLzV0k"
DOWNLOADS = "server_auth.download_release.passwords"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/penguindome/server.d").mkdir(parents=True, mode=0o750)
    return tmp_path


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, ROOT_VARIABLE: str(root)}


PROGRAM = [sys.executable, "-m", "penguindome_tools.cli", "password"]


def password(root: Path, *words: str, typed: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*PROGRAM, *words], env=environment(root), input=typed, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def settings(root: Path) -> Settings:
    return load_server_settings(Paths(root))


def fits(root: Path, name: str, user: str, word: str) -> bool:
    return password_context().verify(word, settings(root)[name][user])


def fragment(root: Path) -> Path:
    return root / "etc/penguindome/server.d/50-managed.yml"


def test_a_password_is_stored_as_a_hash_in_a_fragment_that_others_cannot_read(root: Path) -> None:
    said = password(root, "fred", "--stdin", typed="the word: of fred \n")
    assert fits(root, "users", "fred", "the word: of fred ")
    assert stat.S_IMODE(fragment(root).stat().st_mode) & 0o007 == 0
    assert "the word" not in fragment(root).read_text() + said.stdout + said.stderr
    assert "systemctl reload penguindome-server" in said.stdout
    assert "fred may do nothing yet" in said.stderr


def test_a_password_of_an_endpoint_needs_no_other_setting_and_what_is_there_is_kept(root: Path) -> None:
    fragment(root).write_text("audit.mail_to: a@example.org\nusers:\n  an.na: $" + FRED + "\n")
    said = password(root, "installer", "--endpoint", "download_release", "--stdin", typed="word\n")
    assert said.stderr == ""
    assert fits(root, DOWNLOADS, "installer", "word")
    password(root, "fred", "--stdin", typed="fred's\n")
    password(root, "fred", "--stdin", typed="fred's new one\n")
    assert fits(root, "users", "fred", "fred's new one")
    assert (settings(root)["audit.mail_to"], set(settings(root)["users"])) == ("a@example.org", {"an.na", "fred"})
    assert fits(root, DOWNLOADS, "installer", "word")
    assert settings(root).warnings == ()


def test_what_overrides_it_is_named_with_file_and_line(root: Path) -> None:
    main = root / "etc/penguindome/server.yml"
    main.write_text(f"# mine\nusers:\n  anna: ${FRED}\n")
    said = password(root, "fred", "--stdin", typed="word\n")
    assert f"users is set at {main}:2" in said.stderr
    assert set(settings(root)["users"]) == {"anna"}
    main.write_text("")
    assert fits(root, "users", "fred", "word")


def test_users_of_an_earlier_fragment_stay_and_that_they_were_copied_is_said(root: Path) -> None:
    earlier = root / "etc/penguindome/server.d/20-site.yml"
    earlier.write_text(f"users: {{anna: ${FRED}}}\n")
    said = password(root, "fred", "--stdin", typed="word\n")
    assert f"the users set at {earlier}:1 were copied" in said.stderr
    assert set(settings(root)["users"]) == {"anna", "fred"}


def test_a_user_is_removed_unless_settings_name_the_user(root: Path) -> None:
    password(root, "fred", "--stdin", typed="word\n")
    main = root / "etc/penguindome/server.yml"
    main.write_text("\nserver_auth.download_release.users: [fred]\n")
    before = fragment(root).read_text()
    said = password(root, "fred", "--remove", status=2)
    assert f"{main}:2: server_auth.download_release.users: there is no user 'fred'" in said.stderr
    assert "take the name out there first" in said.stderr
    assert fragment(root).read_text() == before
    main.write_text("")
    password(root, "fred", "--remove")
    assert settings(root)["users"] == {}
    assert "'fred' is not among the users" in password(root, "fred", "--remove", status=2).stderr


def test_removing_the_last_that_protected_an_endpoint_is_warned_of(root: Path) -> None:
    for name in ("one", "two"):
        password(root, name, "--endpoint", "download_release", "--stdin", typed="word\n")
    assert password(root, "one", "--endpoint", "download_release", "--remove").stderr == ""
    said = password(root, "two", "--endpoint", "download_release", "--remove")
    assert "nothing is configured for download_release any more" in said.stderr


def test_settings_that_name_a_user_first_are_put_right_by_the_password(root: Path) -> None:
    (root / "etc/penguindome/server.yml").write_text("server_auth.pipe_create.users: [fred, anna]\n")
    said = password(root, "fred", "--stdin", typed="word\n")
    assert "penguindome password anna" in said.stderr
    assert password(root, "anna", "--stdin", typed="word\n").stderr == ""
    assert fits(root, "users", "anna", "word")


def test_a_user_set_elsewhere_is_removed_there(root: Path) -> None:
    main = root / "etc/penguindome/server.yml"
    main.write_text(f"users: {{anna: ${FRED}}}\n")
    assert f"remove it at {main}:1" in password(root, "anna", "--remove", status=2).stderr
    assert not fragment(root).exists()


def test_the_list_tells_who_may_what_and_no_hashes(root: Path) -> None:
    password(root, "fred", "--stdin", typed="word\n")
    password(root, "installer", "--endpoint", "download_release", "--stdin", typed="word\n")
    (root / "etc/penguindome/server.yml").write_text(
        "groups: {administrators: [fred]}\nserver_auth.pipe_create.groups: [administrators]\n"
    )
    said = password(root, "--list", "--json").stdout
    assert [(row["user"], row["may"]) for row in json.loads(said)] == [
        ("fred", "pipe_create"),
        ("installer", "download_release"),
    ]
    assert "pbkdf2" not in said + password(root, "--list").stdout


@pytest.mark.parametrize(("words", "typed"), [
    ((), ""), (("fr:ed", "--stdin"), "word\n"), (("", "--stdin"), "word\n"), (("x" * 101, "--stdin"), "word\n"),
    (("fred\n", "--stdin"), "word\n"), (("fred", "--stdin"), ""), (("fred", "--stdin"), "\n"),
    (("fred", "--stdin"), "x" * 600 + "\n"), (("fred", "--stdin"), "a\tb\n"), (("fred",), "word\nword\n"),
    (("fred", "--remove", "--stdin"), "word\n"), (("fred", "--list"), ""),
    (("fred", "--endpoint", "other", "--stdin"), "w\n"), (("fred", "word"), ""),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_and_nothing_is_written(root: Path, words: tuple[str, ...], typed: str) -> None:
    said = password(root, *words, typed=typed, status=2)
    assert said.stderr
    assert not fragment(root).exists()


class Terminal:
    """A terminal at which the command runs."""

    def __init__(self, root: Path, *words: str) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [*PROGRAM, *words], environment(root))
        self.seen = ""
        self._looked_at = 0

    def wait_for(self, text: str) -> None:
        """Wait until this is shown, after what was waited for before."""
        while (found := self.seen.find(text, self._looked_at)) < 0:
            ready, _, _ = select.select([self.descriptor], [], [], 30)
            assert ready, self.seen
            self.seen += os.read(self.descriptor, 4096).decode()
        self._looked_at = found + len(text)

    def type(self, line: str) -> None:
        os.write(self.descriptor, line.encode() + b"\n")

    def end(self) -> int:
        while True:
            try:
                piece = os.read(self.descriptor, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            self.seen += piece.decode()
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_at_a_terminal_it_asks_twice_without_showing_what_is_typed(root: Path) -> None:
    terminal = Terminal(root, "fred")
    terminal.wait_for("Password of fred: ")
    terminal.type("the word")
    terminal.wait_for("The same again: ")
    terminal.type("another word")
    terminal.wait_for("do not match")
    terminal.wait_for("Password of fred: ")
    terminal.type("the word")
    terminal.wait_for("The same again: ")
    terminal.type("the word")
    assert terminal.end() == 0
    assert "word" not in terminal.seen.replace("Password", "")
    assert fits(root, "users", "fred", "the word")


def test_commands_at_the_same_time_lose_nothing(root: Path) -> None:
    running = [
        subprocess.Popen(
            [*PROGRAM, f"user{number}", "--stdin"], env=environment(root), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]  # fmt: skip
    ended = [(process.communicate(b"word\n", timeout=60), process.returncode) for process in running]
    assert {status for _, status in ended} <= {0, 1}
    saved = {f"user{number}" for number, (_, status) in enumerate(ended) if status == 0}
    assert saved
    assert set(settings(root)["users"]) == saved


def test_whoever_may_not_write_there_is_told_what_to_do(root: Path) -> None:
    require(os.geteuid() == 0, "another user is needed to be refused")
    fragment(root).parent.chmod(0o755)
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *PROGRAM, "fred", "--stdin"],
        env=environment(root), input="word\n", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "run it with sudo" in done.stderr
