"""`penguindome log`, and how the commands that change something are told: typed as an administrator types them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import needs
from needs import require, require_program
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.times import utc_now
from penguindome_server.admin_log_acts import UNKNOWN
from penguindome_server.admin_log_keeper import acts_directory
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Store, open_store
from penguindome_tools.cli import main
from penguindome_tools.scratch_site import CHECKOUT
from report_material import A, B, enrol
from service_site import Site, service_site
from web_server import until

COMMAND = [sys.executable, "-m", "penguindome_tools.cli"]
C, D = "C" * 40, "D" * 40


@pytest.fixture
def site(paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Store]:
    """The store of a server that was set up; `laptop` and `other` are enrolled, two more wait."""
    require_program("gpg")
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    monkeypatch.setenv("SUDO_USER", "ann")
    assert main(["setup", "--url", "http://localhost:8443", "--client-tree", str(CHECKOUT)]) == 0
    capsys.readouterr()
    store = open_store(load_server_settings(paths)["database.uri"])
    enrol(store, A, "laptop")
    enrol(store, B, "other")
    for client_id, name in ((C, "new1"), (D, "new2")):
        enrol(store, client_id, name, state="pending", enrolled_at=None, exchange=None)
    yield store
    store.close()


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["log", "show", "--json", *words]) == 0
    entries: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return entries


def verified(capsys: pytest.CaptureFixture[str], status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["log", "verify", "--json"]) == status
    verdict: dict[str, Any] = json.loads(capsys.readouterr().out)
    return verdict


def test_every_kind_of_act_is_told_and_no_secret_with_it(
    site: Store, paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = f"sqlite://{tmp_path / 'copy.sqlite'}"
    acts: list[tuple[list[str], str, list[str]]] = [
        (["clients", "approve", "new1", "--yes"], "clients approve", ["new1"]),
        (["clients", "reject", "new2", "--yes"], "clients reject", ["new2"]),
        (["clients", "revoke", "other", "--yes"], "clients revoke", ["other"]),
        (["issues", "open", "laptop", "lost", "--details", "in a train"], "issues open", ["laptop"]),
        (["issues", "close", "laptop", "lost", "--reason", "found"], "issues close", ["laptop"]),
        (["enrolment", "token", "--expires", "2d"], "enrolment token", []),
        (["enrolment", "export", "--token", str(tmp_path / "b")], "enrolment export", [str(tmp_path / "b")]),
        (["enrolment", "export", "-"], "enrolment export", ["-"]),
        (["store", "copy", "settings", database], "store copy", []),
    ]
    secrets = []
    for words, _, _ in acts:
        assert main(words) == 0, words
        secrets.append(capsys.readouterr().out)
    entries = shown(capsys)
    assert [(entry["act"], entry["targets"]) for entry in entries] == [
        ("setup", []), *((act, targets) for _, act, targets in acts),
    ]  # fmt: skip
    assert {(entry["who"], entry["outcome"]) for entry in entries} == {("ann", "done")}
    assert all(entry["host"] and abs(utc_now().timestamp() - _moment(entry)) < 100 for entry in entries)
    assert entries[4]["details"] == {"client_id": A, "issue": "lost", "details": "in a train"}
    verdict = verified(capsys)
    assert (verdict["whole"], verdict["entries"], verdict["problems"]) == (True, len(entries), [])
    token = secrets[5].strip()
    bundled = json.loads((tmp_path / "b").read_text())["token"]
    private = (paths.keys / "enrolment.key").read_text().splitlines()[4]
    told = json.dumps(entries) + "".join(path.read_text() for path in paths.keys.glob("admin_log*") if path.is_file())
    for secret in (token, bundled, private):
        assert len(secret) > 30
        assert secret not in told


def test_what_is_not_shown_is_counted_and_the_option_that_shows_it_is_named(
    site: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(shown(capsys)) == 1
    (first,) = site.collection("admin_log").find()
    for number in range(2, 106):
        site.collection("admin_log").insert({**first, "_id": f"{number:0{len(first['_id'])}d}", "sequence": number})
    for words in ((), ("--json",)):
        assert main(["log", "show", *words]) == 0
        out, said = capsys.readouterr()
        assert len(json.loads(out) if words else out.splitlines()) == 100
        assert said == "5 older ones are not shown; all: --limit 105\n"
    for more, count in ((("--limit", "105"), 105), (("--since", "1d"), 105), (("--since", "1d", "--limit", "3"), 3)):
        assert main(["log", "show", "--json", *more]) == 0
        out, said = capsys.readouterr()
        assert len(json.loads(out)) == count
        assert ("not shown" in said) == (count != 105)


def _moment(entry: dict[str, Any]) -> float:
    from penguindome.times import parse_iso

    moment = parse_iso(entry["done_at"])
    assert moment is not None
    return moment.timestamp()


def test_a_password_in_the_uri_of_a_store_is_not_told(
    site: Store, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "copy", "settings", "mongodb://ann:geheim7@127.0.0.1:1/x"]) == 1
    assert main(["setup", "--database", "mongodb://ann:geheim7@127.0.0.1:1/x", "--client-tree", str(CHECKOUT)]) == 0
    (paths.settings / "server.d/10-setup.yml").unlink()
    entries = shown(capsys)
    assert [entry["act"] for entry in entries] == ["setup", "store copy", "setup"]
    assert entries[1]["outcome"].startswith("failed: ")
    assert "database.uri: ********" in entries[2]["details"]["changed"]
    assert "geheim7" not in json.dumps(entries)


def test_what_fails_is_told_and_what_was_asked_wrongly_is_not(site: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["issues", "open", "laptop", "lost"]) == 0
    assert main(["issues", "open", "laptop", "lost"]) == 2
    assert main(["issues", "open", "nobody", "lost"]) == 2
    assert main(["clients", "revoke"]) == 2
    assert main(["clients", "revoke", "laptop", "--no-such-option"]) == 2
    # Nobody is there to say yes.
    assert main(["clients", "revoke", "laptop"]) == 2
    assert main(["setup", "--print"]) == 0
    assert main(["enrolment", "export", "/no/such/directory/file"]) != 0
    outcomes = [(entry["act"], entry["outcome"].split(":")[0]) for entry in shown(capsys)]
    assert outcomes == [
        ("setup", "done"),
        ("issues open", "done"),
        ("issues open", "failed"),
        ("clients revoke", "failed"),
        ("enrolment export", "failed"),
    ]


def test_the_log_is_shown_newest_last_and_can_be_narrowed(
    site: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        assert main(["issues", "open", "laptop", f"lost{number}"]) == 0
    monkeypatch.setenv("SUDO_USER", "bob")
    assert main(["clients", "revoke", "other", "--yes"]) == 0
    capsys.readouterr()
    assert main(["log", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert "\tbob\tclients revoke\tother\tdone\t" in lines[-1]
    sequences = {
        ("--who", "bob"): [5], ("--act", "issues"): [2, 3, 4], ("--act", "issues open"): [2, 3, 4],
        ("--act", "iss"): [], ("--on", "OTHER"): [5], ("--on", A.lower()): [2, 3, 4], ("--limit", "2"): [4, 5],
        ("--since", "1h"): [1, 2, 3, 4, 5], ("--since", "0s"): [], ("--who", "ann", "--limit", "1"): [4],
    }  # fmt: skip
    assert {words: [entry["sequence"] for entry in shown(capsys, *words)] for words in sequences} == sequences
    assert main(["log", "show", "--since", "soon"]) == 2


def test_hostile_names_move_no_cursor_and_forge_no_line(site: Store, capsys: pytest.CaptureFixture[str]) -> None:
    enrol(site, "E" * 40, "evil\x1b[2J\n9\tnow\tann\tsetup")
    assert main(["issues", "open", "E" * 40, "lost", "--details", "a\u202eb\nc"]) == 0
    capsys.readouterr()
    assert main(["log", "show"]) == 0
    output = capsys.readouterr().out
    assert len(output.splitlines()) == 2
    assert "\\x1b[2J\\n9\\tnow" in output
    assert not {"\x1b", "\u202e"} & set(output)


def test_acts_are_told_later_when_the_store_is_away(
    site: Store, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    (paths.settings / "server.yml").write_text('database.uri: "mongodb://127.0.0.1:1/x"\n')
    assert main(["setup", "--port", "9443", "--client-tree", str(CHECKOUT)]) == 0
    assert main(["enrolment", "export", str(paths.root / "bundle")]) == 0
    assert "administrative log" not in capsys.readouterr().err
    assert main(["clients", "revoke", "laptop", "--yes"]) == 1
    assert main(["log", "verify"]) == 1
    assert "cannot be used now" in capsys.readouterr().err
    (paths.settings / "server.yml").unlink()
    assert [entry["act"] for entry in shown(capsys)] == ["setup", "setup", "enrolment export", "clients revoke"]
    assert verified(capsys)["entries"] == 4


def test_a_log_that_was_tampered_with_is_said_to_be_so(site: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        assert main(["issues", "open", "laptop", f"lost{number}"]) == 0
    assert verified(capsys)["whole"]
    site.collection("admin_log").update("000000000002", lambda entry: {**(entry or {}), "who": "nobody"})
    verdict = verified(capsys, status=1)
    assert verdict["problems"] == ["entry 2 was edited: it is not what its hash says"]
    assert main(["log", "verify"]) == 1
    output = capsys.readouterr()
    assert output.out == "entry 2 was edited: it is not what its hash says\n"
    assert output.err == "1 problems in the log of administrative acts\n"


def run(paths: Paths, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], env={**os.environ, ROOT_VARIABLE: str(paths.root)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_acts_at_the_same_time_are_each_told_once(
    site: Store, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"lost{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda name: run(paths, "issues", "open", "laptop", name), names))
    assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 8
    entries = shown(capsys, "--act", "issues")
    assert sorted(entry["details"]["issue"] for entry in entries) == names
    assert {entry["outcome"] for entry in entries} == {"done"}
    assert verified(capsys)["entries"] == 9


def begun(paths: Paths, *words: str) -> subprocess.Popen[bytes]:
    """A command whose act has begun."""
    environment = {**os.environ, ROOT_VARIABLE: str(paths.root)}
    before = set(acts_directory(paths).iterdir())
    process = subprocess.Popen([*COMMAND, *words], env=environment, stdin=subprocess.DEVNULL)
    until(lambda: set(acts_directory(paths).iterdir()) - before or process.poll() is not None, what="the act")
    return process


def duration(process: subprocess.Popen[bytes]) -> float:
    """How long a command takes whose act has begun."""
    started = time.monotonic()
    assert process.wait(60) == 0
    return time.monotonic() - started


@pytest.mark.timeout(300)
def test_acts_that_are_killed_at_any_instant_are_told_and_leave_a_log_that_verifies(
    site: Store, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = 50 if needs.testing_all() else 12
    chance = random.Random(5)
    # The shortest of several: one that the machine held up would have the others end before they are killed.
    takes = min(duration(begun(paths, "issues", "open", "laptop", f"whole{number}")) for number in range(3))
    killed = 0
    for number in range(kills):
        with begun(paths, "issues", "open", "laptop", f"lost{number}") as process:
            try:
                process.wait(takes * chance.uniform(0, 0.9))
            except subprocess.TimeoutExpired:
                process.kill()
        killed += process.returncode == -signal.SIGKILL
        if number % 4 == 0:
            assert verified(capsys)["whole"]
    assert killed >= kills // 3
    assert verified(capsys)["problems"] == []
    told = {entry["details"]["issue"]: entry["outcome"] for entry in shown(capsys, "--act", "issues", "--limit", "999")
            if "issue" in entry["details"]}  # fmt: skip
    there = {issue["name"] for issue in site.collection("issues").find()}
    assert there <= told.keys()
    assert {name for name, outcome in told.items() if outcome == "done"} <= there
    assert set(told.values()) <= {"done", UNKNOWN}
    assert list(acts_directory(paths).glob("*.act")) == []


def test_an_act_stands_and_says_so_when_the_disk_of_the_log_is_full(
    site: Store, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    require(os.geteuid() == 0, "only root can mount a small disk")
    keys = paths.keys
    script = f"""
        cp -a {keys} {keys}.kept
        mount -t tmpfs -o size=1M,mode=700 tmpfs {keys}
        cp -a {keys}.kept/. {keys}
        dd if=/dev/zero of={keys}/filler bs=4k 2>/dev/null || true
        {" ".join(COMMAND)} issues open laptop lost
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], env={**os.environ, ROOT_VARIABLE: str(paths.root)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [issue["name"] for issue in site.collection("issues").find()] == ["lost"]
    assert "the administrative log: this act could not be written into it: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert verified(capsys)["whole"]


def test_a_machine_without_keys_says_who_can_verify(paths: Paths, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv(ROOT_VARIABLE, str(paths.root))
    assert main(["log", "verify"]) == 2
    assert "no server key" in capsys.readouterr().err


@pytest.fixture(scope="module")
def guarded() -> Iterator[Site]:
    """A server whose service user is another than root, with three acts in its log."""
    with service_site() as made:
        for _ in range(3):
            done = made.as_root("enrolment", "token")
            assert (done.returncode, done.stderr) == (0, "")
        yield made


FORGE = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from penguindome.server_keyring import ServerKeyring
from penguindome.paths import Paths
from penguindome_server.admin_log import FIRST_PREVIOUS, Act, make_entry
from penguindome_server.settings import load_server_settings
from penguindome_server.store import open_store

paths = Paths.from_environment()
entries = open_store(load_server_settings(paths)["database.uri"]).collection("admin_log")
log = [{k: v for k, v in entry.items() if k != "_version"} for entry in entries.find()]
entries.delete({})
previous = FIRST_PREVIOUS
for number, entry in enumerate(log, 1):
    act = Act(entry["act_id"], entry["act"], "mallory", None, entry["host"], [], {}, "done", entry["done_at"])
    forged = make_entry(act, sequence=number, previous=previous)
    previous = forged["hash"]
    entries.insert(forged)
print(len(log))
"""


def test_the_service_user_cannot_forge_a_log_that_verifies(guarded: Site) -> None:
    assert guarded.as_root("log", "verify").returncode == 0
    forged = guarded.as_service(sys.executable, "-c", FORGE)
    assert (forged.returncode, forged.stdout) == (0, "4\n"), forged.stderr
    verdict = guarded.as_root("log", "verify")
    assert verdict.returncode == 1
    assert "entry 4 is another than the one that root's head names" in verdict.stdout


def test_what_was_asked_wrongly_is_not_told_where_the_store_is_anothers(guarded: Site) -> None:
    for words in (("clients", "revoke", "nobody"), ("issues", "close", "nobody", "lost")):
        assert guarded.as_root(*words).returncode == 2
    assert list(acts_directory(guarded.paths).glob("*.act")) == []
    assert "nobody" not in guarded.as_root("log", "show").stdout


def test_the_service_user_can_neither_read_nor_replace_where_the_log_ends(guarded: Site) -> None:
    names = [path for path in guarded.paths.keys.iterdir() if path.name.startswith("admin_log")]
    assert len(names) >= 4
    for path in names:
        assert guarded.as_service("ls", str(path)).returncode != 0
        assert guarded.as_service("mv", str(path), "/tmp/x").returncode != 0
    done = guarded.as_service(*COMMAND, "log", "verify")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    shown = guarded.as_service(*COMMAND, "log", "show")
    assert shown.returncode == 0, shown.stderr
    assert "enrolment token" in shown.stdout


def test_without_root_a_log_is_not_verified(guarded: Site) -> None:
    nobody = ["setpriv", f"--reuid={needs.NOBODY}", f"--regid={needs.NOBODY}", "--clear-groups"]
    done = guarded.run(*nobody, *COMMAND, "log", "verify", service=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "run this as root" in done.stderr


def test_an_act_of_the_service_user_says_that_it_is_not_in_the_log(guarded: Site) -> None:
    done = guarded.as_service(*COMMAND, "enrolment", "token")
    assert done.returncode == 0
    assert "administrative log: this act could not be written into it: Permission denied" in done.stderr
