"""`penguindome patch`, `command` and `wipe`, called as an administrator calls them, with the server's key in gpg."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import needs
from action_material import taken
from penguindome import manifest
from penguindome.actions import LARGEST_CONTENTS, Action, Target
from penguindome.errors import PenguinDomeError
from penguindome.openpgp import Certificate
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.times import utc_now
from penguindome_server.deliveries import acknowledge, pending_actions
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Document, Store, open_store
from penguindome_tools.cli import main
from penguindome_tools.installation import make_keys
from report_material import A, B, enrol
from web_server import until

LAPTOP, OTHER = Target(A, "laptop"), Target(B, "other")
KILLS = 50 if needs.testing_all() else 6


@dataclass
class Site:
    """A server whose web process does not run, and two enrolled clients."""

    paths: Paths
    uri: str
    capsys: pytest.CaptureFixture[str]
    stderr: str = ""
    _store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = open_store(self.uri)
        return self._store

    def close(self) -> None:
        """Before anybody else uses the store: SQLite's locks end when a process closes its file once."""
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def certificate(self) -> Certificate:
        return Certificate.from_text((self.paths.releases / "server.asc").read_text())

    def run(self, *words: str, status: int = 0) -> str:
        """What a command printed; `stderr` keeps what it said beside."""
        self.close()
        self.capsys.readouterr()
        found = main(list(words))
        out, self.stderr = self.capsys.readouterr()
        assert found == status, self.stderr
        assert "Traceback" not in self.stderr
        return out

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def handed(self, target: Target = LAPTOP) -> list[tuple[Action, dict[str, bytes]]]:
        """What a client takes of what it is handed."""
        now = utc_now()
        offers = pending_actions(self.store, target.client_id, now=now)
        return [taken(offer, self.certificate, target, now) for offer in offers]

    def tell(self, action_id: str, client_id: str = A, **result: Any) -> None:
        acknowledge(self.store, client_id, action_id, result={"status": "done", **result}, now=utc_now())

    def stored(self) -> list[Document]:
        return [document for name in ("patches", "action_contents", "deliveries") for document in self.find(name)]

    def find(self, name: str) -> list[Document]:
        return list(self.store.collection(name).find())

    def process(self, *words: str, stdin: Any = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """A process of its own that runs the command line."""
        self.close()
        return subprocess.Popen(
            [sys.executable, "-m", "penguindome_tools.cli", *words],
            env={**os.environ, ROOT_VARIABLE: str(self.paths.root)}, stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def on_terminal(self, typed: str, *words: str) -> tuple[int, str]:
        """Exit status and stderr of a command to which somebody types this, and a newline."""
        outer, inner = pty.openpty()
        try:
            with self.process(*words, stdin=inner) as process:
                os.write(outer, f"{typed}\n".encode())
                _out, said = process.communicate(timeout=60)
            return process.returncode, said
        finally:
            os.close(outer)
            os.close(inner)


@pytest.fixture
def site(paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    for directory in (paths.settings, paths.server_state, paths.releases, paths.keys):
        directory.mkdir(parents=True)
    paths.keys.chmod(0o700)
    make_keys(paths)
    made = Site(paths, load_server_settings(paths)["database.uri"], capsys)
    enrol(made.store)
    enrol(made.store, B, "other")
    yield made
    made.close()


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plugin"
    path.write_text("#!/bin/sh\necho 1\n")
    path.chmod(0o755)
    return path


def test_a_file_is_put_onto_the_clients_that_are_named(site: Site, plugin: Path) -> None:
    said = site.run("patch", "add", str(plugin), "--path", "plugins/x", "--host", "laptop", "--yes")
    assert f"laptop  {A}" in site.stderr
    ((action, contents),) = site.handed()
    assert said == f"{action.id}\n"
    assert contents == {"plugins/x": plugin.read_bytes()}
    assert (action.kind, action.targets, action.parameters) == ("patch", (LAPTOP,), {"remove": [], "newest_release": 0})
    assert action.expires_at - action.issued_at == timedelta(days=30)
    assert site.handed(OTHER) == []


@pytest.mark.parametrize(
    ("path", "option", "mode"),
    [("plugins/x", None, 0o755), ("commands/x", None, 0o755), ("settings/x.yml", None, 0o644),
     ("plugins/x", "0700", 0o700), ("settings/x.yml", "600", 0o600)],
)  # fmt: skip
def test_the_mode_is_that_of_a_release_unless_it_is_given(
    site: Site, tmp_path: Path, path: str, option: str | None, mode: int
) -> None:
    file = tmp_path / "from-an-editor"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o664)
    words = ("--mode", option) if option else ()
    site.run("patch", "add", str(file), "--path", path, "--host", "laptop", "--yes", *words)
    ((action, _contents),) = site.handed()
    assert action.files[path].mode == mode


@pytest.mark.parametrize(
    ("path", "contents", "more", "said"),
    [
        ("plugins/_y", "x", (), "begin with _"),
        ("plugins/.y", "x", (), "begin with ."),
        ("commands/y~", "x", (), "a copy that an editor"),
        ("plugins/sub/y", "x", (), "put it to plugins/y"),
        ("plugins/penguindome", "x", (), "as the client itself does"),
        ("plugins/penguindome.py", "x", (), "as the client itself does"),
        ("plugins/y", "", (), "penguindome patch remove plugins/y"),
        ("plugins/y", "x", ("--mode", "0644"), "leave --mode out"),
        ("settings/y.yml", "plugins:\n  timeout: soon\n", (), "file:2: plugins.timeout: 'soon' is not a duration"),
        ("settings/y.yml", "plugins: [\n", (), "file:"),
    ],
)
def test_what_no_release_would_take_is_refused_before_it_is_signed(
    site: Site, tmp_path: Path, path: str, contents: str, more: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").write_text(contents)
    site.run("patch", "add", str(tmp_path / "file"), "--path", path, "--all", "--yes", *more, status=2)
    assert said in site.stderr
    assert site.stored() == []


def test_a_setting_that_no_client_knows_is_warned_about(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("plugins.timeuot: 3m\n")
    site.run("patch", "add", str(tmp_path / "file"), "--path", "settings/y.yml", "--all", "--yes")
    assert "file:1: unknown setting 'plugins.timeuot'" in site.stderr


def released(site: Site, number: int, *names: str, clients: tuple[str, ...] = (A, B)) -> None:
    """Let these clients have a release with these files."""
    tree = site.paths.root / f"tree-{number}"
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    now = utc_now()
    text = manifest.build(tree, names, kind="release", release=number, issued_at=now, expires_at=now + timedelta(1))
    directory = site.paths.releases / str(number) if number else site.paths.releases
    directory.mkdir(exist_ok=True)
    (directory / "manifest.json").write_bytes(text)
    for client_id in clients:
        site.store.collection("clients").update(client_id, lambda found: {**(found or {}), "release": number})


@pytest.mark.parametrize("number", [0, 7])
def test_a_plugin_that_would_take_the_name_of_another_is_refused_and_its_path_is_named(
    site: Site, plugin: Path, number: int
) -> None:
    released(site, number, "plugins/sshd.py", "commands/other.sh", "settings/a.yml")
    site.run("patch", "add", str(plugin), "--path", "plugins/sshd", "--host", "laptop", "--yes", status=2)
    assert "--path plugins/sshd.py" in site.stderr
    assert site.stored() == []
    for path in ("plugins/sshd.py", "plugins/other", "commands/sshd", "settings/a.b.yml"):
        (plugin.parent / "settings").touch()
        file = plugin if not path.startswith("settings") else plugin.parent / "settings"
        site.run("patch", "add", str(file), "--path", path, "--host", "laptop", "--yes")


def test_what_is_not_there_is_not_taken_away(site: Site, plugin: Path) -> None:
    released(site, 7, "plugins/sshd.py", "plugins/os_info.py")
    site.run("patch", "remove", "plugins/sshd", "--all", "--yes", status=2)
    assert "there is: plugins/os_info.py, plugins/sshd.py" in site.stderr
    assert site.stored() == []
    # What a patch brought is there; of another client it is not.
    site.run("patch", "add", str(plugin), "--path", "plugins/x", "--host", "laptop", "--yes")
    site.handed()
    site.run("patch", "remove", "plugins/x", "--all", "--yes")
    assert "other has no plugins/x: there the patch will fail" in site.stderr
    assert "laptop has no" not in site.stderr


def test_of_a_release_that_is_not_known_here_nothing_is_said(site: Site) -> None:
    released(site, 7, "plugins/sshd.py", clients=(A,))
    for said in (8, 2**60, -1, True, "7", ["7"], None):
        site.store.collection("clients").update(B, lambda found, said=said: {**(found or {}), "release": said})
        site.run("patch", "cancel", site.run("patch", "remove", "plugins/x", "--host", "other", "--yes").strip())


def test_the_log_says_what_was_done_on_whom(site: Site, plugin: Path) -> None:
    (plugin.parent / "settings").write_text("plugins.timeout: 3m\n")
    site.run("patch", "add", str(plugin), "--path", "plugins/x", "--all", "--yes")
    site.run("patch", "remove", "plugins/sshd.py", "--host", "laptop", "--yes")
    site.run("command", "run", "--host", "other", "--attempts", "3", "--yes", "--", "systemctl", "restart", "cups")
    told = [(entry["act"], entry["targets"], entry["details"]) for entry in site.json("log", "show")]
    for _act, _targets, details in told:
        assert len(details.pop("id")) == 32
        details.pop("sha256", None)
    assert told == [
        ("patch add", ["laptop", "other"], {"path": "plugins/x", "mode": "0755"}),
        ("patch remove", ["laptop"], {"path": "plugins/sshd.py"}),
        ("command run", ["other"], {"name": "systemctl", "attempts": 3}),
    ]
    said = site.run("log", "show", "--on", "plugins/sshd.py")
    assert "path=plugins/sshd.py" in said
    assert "command run" not in said


def test_a_patch_names_the_newest_release_that_lies_on_the_disk_whatever_the_store_says(site: Site) -> None:
    for number in (5, 6):
        (site.paths.releases / str(number)).mkdir()
    site.store.collection("releases").insert({"_id": "00000000000000000009", "release": 9})
    site.store.collection("server_state").insert({"_id": "releases", "floor": 9})
    site.run("patch", "remove", "plugins/prey", "--host", "laptop", "--yes")
    ((action, _contents),) = site.handed()
    assert action.parameters["newest_release"] == 6


def test_a_file_is_taken_away(site: Site) -> None:
    site.run("patch", "remove", "plugins/prey", "--all", "--yes", "--expires", "2d")
    for target in (LAPTOP, OTHER):
        ((action, contents),) = site.handed(target)
        assert (contents, action.parameters) == ({}, {"remove": ["plugins/prey"], "newest_release": 0})
        assert action.expires_at - action.issued_at == timedelta(days=2)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../plugins/x", "plugins/../../etc/passwd", "plugins/..", "plugins", "plugins/", "plugins//x",
        "plugins/./x", "code/penguindome/trust.py", "manifest.json", "settings/x.py", "settings/a/b.yml", "",
        "plugins/\x1b[2J", "plugins/x\ny", "plugins\\x",
    ],
)  # fmt: skip
def test_a_path_that_is_not_for_patches_is_refused_with_a_hint(site: Site, plugin: Path, name: str) -> None:
    for words in (("add", str(plugin), "--path", name), ("remove", name)):
        site.run("patch", *words, "--all", "--yes", status=2)
        assert "plugins/NAME" in site.stderr
        assert site.stderr.count("\n") == 1
        assert "\x1b" not in site.stderr
    assert site.stored() == []


@pytest.mark.parametrize("mode", ["4755", "2755", "1777", "04755", "0o755", "rwx", "888", "75", "+x"])
def test_a_mode_that_is_not_for_patches_is_refused(site: Site, plugin: Path, mode: str) -> None:
    site.run("patch", "add", str(plugin), "--path", "plugins/x", "--mode", mode, "--all", "--yes", status=2)
    assert "octal" in site.stderr
    assert site.stored() == []


def a_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_directory(path: Path) -> None:
    path.mkdir()


def too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST_CONTENTS + 1)


def nothing(_path: Path) -> None:
    pass


@pytest.mark.parametrize("make", [a_link, a_fifo, a_directory, too_large, nothing])
def test_only_a_regular_file_of_eight_megabytes_at_most_is_sent(
    site: Site, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    make(path)
    for words in (("patch", "add", str(path), "--path", "plugins/x"), ("command", "run", str(path))):
        assert main([*words, "--all", "--yes"]) in (1, 2)
        said = site.capsys.readouterr().err
        assert str(path) in said
        assert said.count("\n") == 1
    assert site.stored() == []


def test_a_device_is_not_sent(site: Site) -> None:
    site.run("patch", "add", "/dev/zero", "--path", "plugins/x", "--all", "--yes", status=1)
    assert "not a regular file" in site.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--host, --all and --query"),
        (("--host", "laptop", "--all"), "--host, --all and --query"),
        (("--all", "--query", "{}"), "--host, --all and --query"),
        (("--host", "nobody"), "no enrolled client is called"),
        (("--host", "waiting"), "no enrolled client is called"),
        (("--host", '{"$gt": ""}'), "no enrolled client is called"),
        (("--host", ""), "no enrolled client is called"),
        (("--query", '{"hostname": "nobody"}'), "no enrolled client"),
        (("--query", "[]"), "mapping"),
        (("--query", '{"$where": "1"}'), "$where"),
        (("--query", "{"), "--query"),
        (("--all", "--expires", "91d"), "90d"),
        (("--all", "--expires", "0s"), "--expires"),
        (("--all", "--expires", "soon"), "--expires"),
    ],
)
def test_targets_and_times_that_are_not_clear_are_refused(site: Site, words: tuple[str, ...], said: str) -> None:
    enrol(site.store, "D" * 40, "waiting", state="pending")
    site.run("patch", "remove", "plugins/x", "--yes", *words, status=2)
    assert said in site.stderr
    assert site.stored() == []


def test_a_host_name_that_two_machines_have_is_refused_with_the_list(site: Site) -> None:
    enrol(site.store, "D" * 40, "laptop")
    for words in (("patch", "remove", "plugins/x", "--yes", "--host", "laptop"),
                  ("wipe", "laptop", "--reason", "x", "--confirm", "laptop")):  # fmt: skip
        site.run(*words, status=2)
        assert A in site.stderr
        assert "D" * 40 in site.stderr
    assert site.stored() == []
    site.run("patch", "remove", "plugins/x", "--yes", "--host", "DDDD")
    assert [delivery["client_id"] for delivery in site.find("deliveries")] == ["D" * 40]


def test_a_query_chooses_among_enrolled_clients_as_a_check_does(site: Site) -> None:
    enrol(site.store, "D" * 40, "revoked", state="revoked", plugins={"os_info": {"id": "debian"}})
    enrol(site.store, "E" * 40, "debian", plugins={"os_info": {"id": "debian"}, "x": [{"n": 1}, {"n": 2}]})
    query = '{"$or": [{"plugins.os_info.id": "debian"}, {"hostname": "other"}]}'
    site.run("patch", "remove", "plugins/x", "--yes", "--query", query)
    assert {delivery["client_id"] for delivery in site.find("deliveries")} == {B, "E" * 40}
    assert f"debian  {'E' * 40}" in site.stderr
    assert "revoked" not in site.stderr


def test_nothing_is_queued_before_it_was_confirmed(site: Site, plugin: Path) -> None:
    words = ("patch", "add", str(plugin), "--path", "plugins/x", "--all")
    site.run(*words, status=2)
    assert "--yes" in site.stderr
    status, said = site.on_terminal("n", *words)
    assert (status, site.stored()) == (130, [])
    assert f"laptop  {A}" in said
    assert f"other  {B}" in said
    status, _said = site.on_terminal("y", *words)
    assert status == 0
    assert len(site.find("deliveries")) == 2


def test_a_second_patch_of_a_path_that_waits_is_refused_and_names_the_first(site: Site, plugin: Path) -> None:
    first = site.run("patch", "add", str(plugin), "--path", "plugins/x", "--host", "laptop", "--yes").strip()
    site.run("patch", "remove", "plugins/x", "--all", "--yes", status=1)
    assert first[:12] in site.stderr
    assert "laptop" in site.stderr
    site.run("patch", "cancel", first[:8])
    site.run("patch", "remove", "plugins/x", "--all", "--yes")


def test_of_commands_that_race_for_one_path_exactly_one_wins(site: Site, plugin: Path) -> None:
    words = ("patch", "add", str(plugin), "--path", "plugins/x", "--all", "--yes")
    processes = [site.process(*words) for _ in range(3)]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    winners = [out.strip() for out, _said, status in ended if status == 0]
    assert len(winners) == 1, ended
    assert all(winners[0][:12] in said for _out, said, status in ended if status)
    assert {record["_id"] for record in site.find("patches")} == {*winners}


def test_more_targets_than_one_action_has_room_for_are_several_under_one_name(site: Site) -> None:
    clients = [Target(f"{number:040X}", f"host{number:05}") for number in range(1, 7001)]
    for start in range(0, len(clients), 500):
        part = clients[start : start + 500]
        site.store.together(lambda part=part: [enrol(site.store, one.client_id, one.hostname) for one in part])
    batch_id = site.run("patch", "remove", "plugins/x", "--all", "--yes").strip()
    records = site.find("patches")
    assert len(records) > 1
    assert sum(record["targets"] for record in records) == 7002
    assert len({record["_id"] for record in records}) == len(records)
    (row,) = site.json("patch", "list")
    assert (row["id"], row["states"]) == (batch_id, {"pending": 7002})
    for client in (clients[0], clients[-1], LAPTOP):
        ((action, _contents),) = site.handed(client)
        assert client in action.targets
    site.run("patch", "cancel", batch_id[:10], "--host", "host07000")
    assert site.json("patch", "list")[0]["states"] == {"pending": 6999, "delivered": 2, "cancelled": 1}


def test_a_patch_is_listed_shown_and_cancelled(site: Site, plugin: Path) -> None:
    batch_id = site.run("patch", "add", str(plugin), "--path", "plugins/x", "--all", "--yes").strip()
    site.handed()
    site.tell(batch_id, B, status="failed", reason="no room \x1b[2J")
    (row,) = site.json("patch", "list", "--open")
    assert (row["id"], row["title"], row["states"]) == (batch_id, "plugins/x (0755)", {"delivered": 1, "failed": 1})
    shown = site.json("patch", "show", batch_id[:6])
    assert [(one["client"], one["state"]) for one in shown["clients"]] == [("laptop", "delivered"), ("other", "failed")]
    assert shown["files"][0]["path"] == "plugins/x"
    said = site.run("patch", "show", batch_id)
    assert "no room \\x1b[2J" in said
    assert "\x1b" not in said
    said = site.run("patch", "cancel", batch_id, "--host", "laptop")
    assert "may be carried out" in said
    site.run("patch", "cancel", batch_id)
    assert "nothing of it was open" in site.stderr
    assert site.run("patch", "list", "--open") == ""
    site.run("patch", "show", "ffff", status=2)
    site.run("patch", "show", '{"$gt": ""}', status=2)
    site.run("command", "cancel", batch_id, status=2)


def test_an_act_is_told_with_its_outcome(site: Site) -> None:
    site.run("patch", "remove", "plugins/x", "--host", "laptop", "--yes")
    site.run("patch", "remove", "plugins/x", "--host", "laptop", "--yes", status=1)
    log = "".join(path.read_text() for path in (site.paths.logs / "admin").iterdir())
    assert "patch remove: done" in log
    assert "patch remove: failed" in log


def script_of(site: Site, target: Target = LAPTOP) -> str:
    ((action, contents),) = site.handed(target)
    assert action.kind == "command"
    return contents["command"].decode()


@pytest.mark.parametrize(
    ("words", "script", "name"),
    [
        (("echo a | wc -c; exit 3",), "echo a | wc -c; exit 3", "echo"),
        (("echo", "a b", "it's", "$HOME"), "echo 'a b' 'it'\"'\"'s' '$HOME'", "echo"),
        (("--host", "other"), "--host other", "host"),
        (("/usr/bin/apt-get", "clean"), "/usr/bin/apt-get clean", "apt-get"),
        (("[ -e /x ]",), "[ -e /x ]", "command"),
    ],
)
def test_a_shell_line_arrives_as_it_was_typed(site: Site, words: tuple[str, ...], script: str, name: str) -> None:
    site.run("command", "run", "--host", "laptop", "--yes", "--", *words)
    ((action, contents),) = site.handed()
    assert contents["command"].decode() == f"#!/bin/sh\n{script}\n"
    assert (action.parameters, action.files["command"].mode) == ({"name": name, "attempts": None}, 0o700)
    # What arrives is what a shell understands as the same words.
    if len(words) > 1:
        done = subprocess.run(["sh", "-c", f"printf '%s\\n' {script}"], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == list(words)


def test_a_script_is_run_under_a_name_so_often_and_for_so_long(site: Site, plugin: Path) -> None:
    site.run("command", "run", str(plugin), "--all", "--name", "mine", "--attempts", "3", "--expires", "2d", "--yes")
    ((action, contents),) = site.handed()
    assert contents == {"command": plugin.read_bytes()}
    assert action.parameters == {"name": "mine", "attempts": 3}
    assert action.expires_at - action.issued_at == timedelta(days=2)
    (row,) = site.json("command", "list")
    assert row["title"] == "plugin"


@pytest.mark.parametrize(
    "words",
    [
        ("--yes",), ("--yes", "--"), ("PLUGIN", "--yes", "--", "id"), ("NO-INTERPRETER", "--yes"),
        ("--yes", "--attempts", "0", "--", "id"), ("--yes", "--expires", "31d", "--", "id"),
        ("--yes", "--timeout", "soon", "--", "id"), ("--yes", "--timeout", "5s", "--", "id"),
    ],
)  # fmt: skip
def test_a_command_that_is_not_clear_is_refused(site: Site, plugin: Path, words: tuple[str, ...]) -> None:
    (plugin.parent / "data").write_text("data")
    known = {"PLUGIN": str(plugin), "NO-INTERPRETER": str(plugin.parent / "data")}
    site.run("command", "run", "--all", *(known.get(word, word) for word in words), status=2)
    assert site.stored() == []


@pytest.mark.parametrize("name", ["../x", "a b", "-x", "x" * 65, ""])
def test_a_name_that_no_client_takes_is_refused_before_anything_is_asked(site: Site, name: str) -> None:
    assert main(["command", "run", "--all", f"--name={name}", "--yes", "--", "id"]) in ((0,) if not name else (1, 2))
    assert (site.stored() == []) == bool(name)


EVIL = "line one\nline \x1b[2Jtwo\r\n\u202eevil\n"


def test_results_are_shown_with_their_line_breaks_and_nothing_else_of_a_terminal(site: Site) -> None:
    batch_id = site.run("command", "run", "--all", "--yes", "--", "id").strip()
    site.handed()
    site.tell(batch_id, output=EVIL, error="bad\x07\n", exit_status=0, attempt=2, truncated=True)
    said = site.run("command", "result", batch_id)
    assert f"laptop {A[:8]}: done, exit status 0, attempt 2" in said
    for line in ("  | line one\n", "  | line \\x1b[2Jtwo\n", "  | \\u202eevil\n", "  ! bad\\x07\n"):
        assert line in said
    assert "more output than is kept" in said
    assert f"other {B[:8]}: pending\n" in said
    assert site.run("command", "result", batch_id, "--host", "other") == f"other {B[:8]}: pending\n"
    (row,) = site.json("command", "result", batch_id, "--host", "laptop")
    assert row["result"]["output"] == EVIL
    site.run("command", "result", batch_id, "--host", "nobody", status=2)


def answering(site: Site, results: dict[str, dict[str, Any]]) -> threading.Thread:
    """Clients that take a command once it is there, and tell these results, one after the other."""

    def answer() -> None:
        with closing(open_store(site.uri)) as store:
            for client_id, result in results.items():
                handed = partial(pending_actions, store, client_id)
                (offer,) = until(lambda handed=handed: handed(now=utc_now()), what="a command")
                acknowledge(store, client_id, offer["id"], result=result, now=utc_now())

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize(("second", "status"), [(0, 0), (1, 1)])
def test_waiting_shows_each_result_and_ends_with_0_only_if_all_did(site: Site, second: int, status: int) -> None:
    ends = {A: {"status": "done", "exit_status": 0, "output": "fine\n"},
            B: {"status": "done" if second == 0 else "failed", "exit_status": second, "output": "so so\n"}}  # fmt: skip
    clients = answering(site, ends)
    said = site.run("command", "run", "--all", "--wait", "--timeout", "50s", "--yes", "--", "id", status=status)
    clients.join()
    assert f"laptop {A[:8]}: done, exit status 0" in said
    assert "  | fine\n" in said
    assert f"other {B[:8]}: {'done' if second == 0 else 'failed'}, exit status {second}" in said


def test_waiting_prints_a_line_of_json_for_each_result(site: Site) -> None:
    clients = answering(site, {A: {"status": "done", "exit_status": 0, "output": "a\nb\n"}})
    said = site.run("command", "run", "--host", "laptop", "--wait", "--timeout", "50s", "--yes", "--json", "--", "id")
    clients.join()
    (row,) = [json.loads(line) for line in said.splitlines()]
    assert (row["client"], row["result"]["output"]) == ("laptop", "a\nb\n")


def test_waiting_ends_at_its_time_and_leaves_the_command_queued(site: Site) -> None:
    site.run("command", "run", "--host", "other", "--wait", "--timeout", "0s", "--yes", "--", "id", status=1)
    assert "No result yet from other" in site.stderr
    assert len(site.handed(OTHER)) == 1


def test_waiting_ends_when_the_command_has_expired(site: Site) -> None:
    said = site.run("command", "run", "--host", "other", "--wait", "--expires", "1s", "--yes", "--", "id", status=1)
    assert "other" in said


def test_control_c_leaves_the_command_queued_and_says_how_to_go_on(site: Site) -> None:
    with site.process("command", "run", "--all", "--wait", "--yes", "--", "id") as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        batch_id = next(line.strip() for line in lines if len(line.strip()) == 32)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert f"penguindome command result {batch_id[:12]}" in rest
    assert "nothing was changed" not in rest
    assert [action.id for action, _contents in site.handed()] == [batch_id]


def test_a_wipe_is_confirmed_with_the_host_name_typed_back(site: Site) -> None:
    words = ("wipe", "laptop", "--reason", "left in a train")
    site.run(*words, status=2)
    assert "--confirm laptop" in site.stderr
    site.run(*words, "--yes", status=2)
    site.run(*words, "--confirm", "other", status=2)
    for typed in ("y", "yes", "other", ""):
        status, said = site.on_terminal(typed, *words)
        assert status == 2, said
    assert site.stored() == []
    status, said = site.on_terminal("laptop", *words)
    assert status == 0, said
    for shown in (A, A.lower()[:32], "192.0.2.1", "homes"):
        assert shown in said
    ((action, contents),) = site.handed()
    assert (action.kind, contents) == ("wipe", {})
    assert action.parameters == {"reason": "left in a train", "luks": False}
    assert action.expires_at - action.issued_at == timedelta(days=90)


def test_a_script_confirms_a_wipe_with_the_host_name(site: Site) -> None:
    site.run("wipe", "--luks", "--reason", "stolen", "--confirm", "laptop", "AAAA", "--expires", "365d")
    ((action, _contents),) = site.handed()
    assert action.parameters == {"reason": "stolen", "luks": True}
    site.run("wipe", "laptop", "--reason", "again", "--confirm", "laptop", status=1)
    assert action.id[:12] in site.stderr


def test_a_terminal_is_asked_for_the_reason_of_a_wipe(site: Site) -> None:
    site.run("wipe", "laptop", "--confirm", "laptop", status=2)
    assert "--reason" in site.stderr
    status, said = site.on_terminal("left in a train\nlaptop", "wipe", "laptop", "--expires", "12h")
    assert status == 0, said
    assert "within 12h" in said
    ((action, _contents),) = site.handed()
    assert action.parameters["reason"] == "left in a train"


@pytest.mark.parametrize("is_delivered", [False, True])
def test_a_client_that_is_to_be_wiped_is_not_revoked_by_the_way(site: Site, is_delivered: bool) -> None:
    batch_id = site.run("wipe", "laptop", "--reason", "stolen", "--confirm", "laptop").strip()
    patch_id = site.run("patch", "remove", "plugins/x", "--host", "laptop", "--yes").strip()
    if is_delivered:
        site.handed()
    site.run("clients", "revoke", "laptop", "--yes", status=2)
    state = "delivered" if is_delivered else "pending"
    assert f"the wipe {batch_id[:12]} ({state}) waits for it" in site.stderr
    assert f"the patch {patch_id[:12]} ({state}) waits for it" in site.stderr
    assert "--cancel-wipe" in site.stderr
    assert {delivery["state"] for delivery in site.find("deliveries")} == {state}
    site.run("clients", "revoke", "laptop", "--yes", "--cancel-wipe")
    assert {delivery["state"] for delivery in site.find("deliveries")} == {"cancelled"}


def test_a_client_is_revoked_when_its_wipe_has_ended_and_what_else_waits_is_shown(site: Site) -> None:
    batch_id = site.run("wipe", "laptop", "--reason", "stolen", "--confirm", "laptop").strip()
    site.run("patch", "remove", "plugins/x", "--host", "laptop", "--yes")
    site.handed()
    site.tell(batch_id)
    status, said = site.on_terminal("y", "clients", "revoke", "laptop")
    assert status == 0, said
    assert "the patch" in said
    assert "the wipe" not in said


def test_what_waits_for_a_client_that_is_replaced_is_shown(site: Site) -> None:
    batch_id = site.run("wipe", "laptop", "--reason", "stolen", "--confirm", "laptop").strip()
    enrol(site.store, "D" * 40, "laptop", state="pending")
    site.run("clients", "approve", "DDDD", "--replaces", "laptop", status=2)
    assert f"the wipe {batch_id[:12]} (pending) waits for it" in site.stderr
    assert {delivery["state"] for delivery in site.find("deliveries")} == {"pending"}


def test_a_wipe_of_a_client_that_is_gone_says_what_became_of_it(site: Site) -> None:
    for number, (state, hint) in enumerate(
        (("revoked", "wiped first"), ("rejected", "wiped first"), ("replaced", A), ("pending", "clients approve"))
    ):
        successor = {"replaced_by": A} if state == "replaced" else {}
        enrol(site.store, str(number) * 40, f"gone{number}", state=state, **successor)
        site.run("wipe", f"gone{number}", "--reason", "x", "--confirm", f"gone{number}", status=2)
        assert f"gone{number} is {state}" in site.stderr
        assert hint in site.stderr
    site.run("wipe", "nobody", "--reason", "x", "--confirm", "nobody", status=2)
    assert "no client is called 'nobody'" in site.stderr
    assert site.stored() == []


def test_a_client_whose_id_is_none_is_left_out_and_moves_no_cursor(site: Site) -> None:
    enrol(site.store, "\x1b[2Jhostile", "hostile")
    site.run("patch", "remove", "plugins/x", "--all", "--yes")
    assert {delivery["client_id"] for delivery in site.find("deliveries")} == {A, B}
    assert "\\x1b[2Jhostile is no id of a client" in site.stderr
    assert "\x1b" not in site.stderr
    site.run("patch", "remove", "plugins/y", "--host", "hostile", "--yes", status=2)
    assert "\x1b" not in site.stderr
    status, said = site.on_terminal("n", "clients", "revoke", "hostile")
    assert status, said
    assert "\x1b" not in said
    out = site.run("clients", "revoke", "hostile", "--yes")
    assert out == "\\x1b[2Jhostile hostile (revoked)\n"


@pytest.mark.parametrize("reason", ["", "x" * 501, "a\nb", "\x1b[2J"])
def test_a_wipe_wants_a_reason_in_one_line(site: Site, reason: str) -> None:
    site.run("wipe", "laptop", "--reason", reason, "--confirm", "laptop", status=1)
    site.run("wipe", "laptop", "--confirm", "laptop", status=2)
    assert site.stored() == []


def test_a_wipe_is_cancelled_until_it_was_handed_out_and_not_after(site: Site) -> None:
    site.run("wipe", "laptop", "--reason", "one", "--confirm", "laptop")
    assert "before it was handed out" in site.run("wipe", "cancel", "laptop")
    assert site.handed() == []
    site.run("wipe", "cancel", "laptop", status=1)
    assert "nothing to cancel" in site.stderr
    batch_id = site.run("wipe", "laptop", "--reason", "two", "--confirm", "laptop").strip()
    assert len(site.handed()) == 1
    site.run("wipe", "cancel", batch_id[:8], status=1)
    assert "too late" in site.stderr
    assert len(site.handed()) == 1
    site.run("wipe", "cancel", "other", status=2)
    site.run("wipe", "cancel", "nobody", status=2)


def test_the_steps_of_a_wipe_are_shown(site: Site) -> None:
    batch_id = site.run("wipe", "laptop", "--reason", "one", "--confirm", "laptop").strip()
    site.handed()
    steps = [
        {"name": "unmount /net\x1b[2J", "outcome": "done", "detail": ""},
        {"name": "home of alice", "outcome": "failed", "detail": "busy"},
        {"other": "form"},
        "text\n",
    ]
    site.tell(batch_id, steps=steps)
    for name in ("laptop", batch_id[:8]):
        said = site.run("wipe", "show", name)
        assert "  - unmount /net\\x1b[2J: done\n" in said
        assert "  - home of alice: failed (busy)\n" in said
        assert "  - other form\n  - text\\n\n" in said
    assert site.json("wipe", "show", "laptop")["clients"][0]["result"]["steps"] == steps
    (row,) = site.json("wipe", "list")
    assert (row["title"], row["states"]) == ("one", {"done": 1})


def test_without_a_server_key_nothing_is_queued_and_setup_is_named(site: Site) -> None:
    (site.paths.keys / "server.fingerprint").unlink()
    site.run("patch", "remove", "plugins/x", "--all", "--yes", status=2)
    assert "penguindome setup" in site.stderr
    assert site.stored() == []


def test_help_shows_examples(site: Site) -> None:
    for group, names in (("patch", ("add", "remove", "list", "show", "cancel")),
                         ("command", ("run", "list", "result", "cancel")),
                         ("wipe", ("host", "list", "show", "cancel"))):  # fmt: skip
        assert "Examples:" in site.run(group, "--help")
        for name in names:
            assert "Examples:" in site.run(group, name, "--help")


@pytest.mark.timeout(600)
def test_a_command_that_is_killed_at_any_instant_leaves_all_of_it_deliverable_or_nothing(
    site: Site, tmp_path: Path
) -> None:
    large, instants = tmp_path / "large", random.Random(20261130)
    large.write_bytes(os.urandom(7 << 20))
    words = ("patch", "add", str(large), "--path", "plugins/large", "--all", "--yes")
    for number in range(KILLS):
        process = site.process(*words)
        if number % 4:
            # Writing takes a tenth of the time: most kills are then.
            known = {record["_id"] for record in site.find("patches")}
            until(lambda known=known: {record["_id"] for record in site.find("patches")} - known, what="queueing")
            time.sleep(instants.uniform(0, 0.15))
        else:
            time.sleep(instants.uniform(0, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        handed = [site.handed(target) for target in (LAPTOP, OTHER)]
        assert len({len(each) for each in handed}) == 1
        whole = {action.id for each in handed for action, _contents in each}
        assert len(whole) <= 1
        for each in handed:
            assert all(contents["plugins/large"] == large.read_bytes() for _action, contents in each)
        for action_id in whole:
            site.run("patch", "cancel", action_id)
    # What was left behind is in nobody's way, and swept away.
    site.run("patch", "add", str(large), "--path", "plugins/large", "--all", "--yes")
    assert [len(site.handed(target)) for target in (LAPTOP, OTHER)] == [1, 1]
    ids = {record["_id"] for record in site.find("patches")}
    assert {piece["action_id"] for piece in site.find("action_contents")} == ids
    assert {delivery["action_id"] for delivery in site.find("deliveries")} == ids


def test_nobody_but_the_signing_key_makes_an_action(site: Site, plugin: Path) -> None:
    """What the store holds is worth nothing to a client that pinned another certificate."""
    site.run("patch", "add", str(plugin), "--path", "plugins/x", "--all", "--yes")
    (offer,) = pending_actions(site.store, A, now=utc_now())
    enrolment = Certificate.from_text((site.paths.releases / "enrolment.asc").read_text())
    with pytest.raises(PenguinDomeError):
        taken(offer, enrolment, LAPTOP, utc_now())
