"""`penguindome backup` and `restore`: a server is lost, and its fleet goes on with the one that takes its place."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from administered import AdministeredSite, parsed, penguindome, runs
from needs import require
from penguindome import json
from penguindome.files import write_atomically
from penguindome.openpgp import DeviceKey
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.server_keyring import ServerKeyring
from penguindome_server import restoring, running
from penguindome_server.store import open_store
from penguindome_tools import restore
from penguindome_tools.cli import main
from penguindome_tools.key_rotation import statements
from web_server import Device, until

PASSPHRASE = "correct horse 🐴"
CANARY = b"nobody but root may read this"


@pytest.fixture
def passphrase(tmp_path: Path) -> str:
    path = tmp_path / "passphrase"
    path.touch(0o600)
    path.write_text(f"{PASSPHRASE}\n")
    return str(path)


@pytest.fixture
def any_site(store_uri: str, tmp_path: Path) -> Iterator[AdministeredSite]:
    made = AdministeredSite(tmp_path / "site", store_uri).set_up()
    yield made
    made.server.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[AdministeredSite]:
    root = tmp_path / "site"
    made = AdministeredSite(root, f"sqlite://{root}/var/lib/penguindome/server/store.sqlite").set_up()
    yield made
    made.server.kill()


@pytest.fixture
def elsewhere(any_site: AdministeredSite, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[AdministeredSite]:
    """Where the server of `any_site` shall be restored: another root, another database, the same URL."""
    if any_site.server.uri.startswith("sqlite"):
        uri = f"sqlite://{tmp_path}/elsewhere/var/lib/penguindome/server/store.sqlite"
    else:
        uri = f"{any_site.server.uri}_restored"
    made = AdministeredSite(tmp_path / "elsewhere", uri)
    made.server.port = any_site.server.port
    yield made
    made.server.kill()
    if uri.startswith("mongodb"):
        client = request.getfixturevalue("_mongo_client")
        client.drop_database(uri.rpartition("/")[2].partition("?")[0])


class Busy:
    """Devices that report without a pause, from the beginning of the block to its end."""

    def __init__(self, devices: list[Device]) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._report, args=(device,)) for device in devices]
        self.failures: list[str] = []

    def _report(self, device: Device) -> None:
        while not self._over.is_set():
            answer = device.submit(plugins={"counter": {"number": device.sequence}})
            if answer.status_code != 200:
                self.failures.append(answer.text)

    def __enter__(self) -> Busy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def trail(site: AdministeredSite, client_id: str) -> list[dict[str, Any]]:
    rows = site.server.store.collection("audit_trail").find({"client_id": client_id})
    return sorted(rows, key=lambda row: (row["sequence"], row["_id"]))


def require_a_trail_without_gap_or_double(site: AdministeredSite, client_id: str) -> int:
    """Each change of the counter begins where the one before ended; the last ends where the document is."""
    rows = [row for row in trail(site, client_id) if row["path"].startswith("plugins.counter")]
    values = [row["new"]["number"] if row["change"] == "added" else row["new"] for row in rows]
    assert [row["old"] for row in rows[1:]] == values[:-1]
    assert values[-1] == site.server.client(client_id)["plugins"]["counter"]["number"]
    return len(rows)


def lose(site: AdministeredSite) -> None:
    site.server.kill()
    shutil.rmtree(site.paths.root)


def test_a_fleet_goes_on_with_a_server_that_was_restored_elsewhere_from_a_backup_made_while_all_reported(
    any_site: AdministeredSite, elsewhere: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    site, file = any_site, str(tmp_path / "backup")
    machines = [site.machine(tmp_path / name, name) for name in ("one", "two")]
    site.server.start()
    # The server's keys are gpg's: of the test's own device it needs nothing but the enrolment key.
    site.server.enrolment_key = DeviceKey.from_text((site.paths.keys / "enrolment.key").read_text())
    devices = [site.server.enrolled(f"busy-{number}") for number in range(3)]
    for machine in machines:
        runs(machine)
    with Busy(devices) as busy:
        site("backup", file, "--passphrase-file", passphrase)
        # Life goes on, and the server is lost with what it was told since.
        runs(machines[0])
    assert busy.failures == []
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
    told = {machine: trail(site, machine.client().identity.client_id) for machine in machines}
    key, before = site.certificate.fingerprint, {machine: site.document(machine) for machine in machines}
    lose(site)
    uri = tmp_path / "uri"
    uri.write_text(elsewhere.server.uri)
    elsewhere("restore", file, "--passphrase-file", passphrase, "--database", f"@{uri}", "--yes")
    assert elsewhere.certificate.fingerprint == key
    elsewhere.server.start(
        **{name.replace(".", "__"): value for name, value in site.server.settings.items() if name != "database.uri"}
    )
    for machine in machines:
        runs(machine)
        document = elsewhere.document(machine)
        assert document["sequence"] == before[machine]["sequence"] + 1
        assert document["plugins"]["hello"] == {"said": "first"}
        assert "All is well." in machine.run("status").stdout.decode()
        assert trail(elsewhere, document["_id"])[: len(told[machine])] == told[machine]
    for device in devices:
        device.server = elsewhere.server
        assert device.submit(plugins={"counter": {"number": device.sequence}}).status_code == 200
        assert require_a_trail_without_gap_or_double(elsewhere, device.client_id) > 1
    assert "cloned-client" not in elsewhere.issues()
    # Once, and not for ever: now a clone is noticed again.
    devices[0].submit(exchange_token="an old one")
    assert "cloned-client" in elsewhere.issues()
    assert "is sound" in elsewhere("store", "check")


def published(paths: Paths) -> str:
    """The number of the publication that is in force."""
    return (paths.repository / "current").readlink().name


def test_everything_comes_back_as_it_was(site: AdministeredSite, tmp_path: Path, passphrase: str) -> None:
    paths, file = site.paths, str(tmp_path / "backup")
    site("keys", "rotate", "server", "--yes")
    site("setup", "--self-signed", "--client-tree", str(site.tree))
    release = paths.releases / "7"
    release.mkdir()
    (release / "a.deb").write_bytes(CANARY * 1000)
    (release / "a.tar").write_bytes(CANARY)
    (release / "a.tar").chmod(0o640)
    publication = paths.repository / "current/apt/pool"
    publication.mkdir(parents=True, exist_ok=True)
    (publication / "a.deb").hardlink_to(release / "a.deb")
    earlier = [path for path in (paths.repository / "publications").iterdir() if path.name != published(paths)]
    assert earlier
    (paths.settings / "client-release.d").mkdir(exist_ok=True)
    (paths.settings / "client-release.d/x.yml").write_text("collect_interval: 1h\n")
    (paths.settings / "client.yml").write_text("hostname: this-machine-itself\n")
    before = contents(site)
    site("backup", file, "--passphrase-file", passphrase)
    assert CANARY not in Path(file).read_bytes()
    assert list(paths.server_state.glob(".*")) == []
    answer = parsed(site("backup", "--verify", file, "--passphrase-file", passphrase, "--json"))
    assert answer["server_key"] == site.certificate.fingerprint
    for path in (paths.keys, paths.releases, paths.repository, paths.settings, paths.keys.parent / "tls"):
        shutil.rmtree(path)
    (paths.server_state / "store.sqlite").unlink()
    paths.settings.mkdir()
    (paths.settings / "client.yml").write_text("hostname: another-machine\n")
    restored = parsed(site("restore", file, "--passphrase-file", passphrase, "--yes", "--json"))
    assert restored["release_floor"] == 107
    gone = {paths.settings / "client.yml", *earlier}
    kept = {
        name: value
        for name, value in before.items()
        if gone.isdisjoint([paths.root / name, *(paths.root / name).parents])
    }
    assert contents(site) == kept | {"etc/penguindome/client.yml": b"hostname: another-machine\n"}
    assert (publication / "a.deb").samefile(release / "a.deb")
    assert stat.S_IMODE((release / "a.tar").stat().st_mode) == 0o640
    assert stat.S_IMODE(paths.keys.stat().st_mode) == 0o700
    assert len(statements(paths.releases / "statements.json")) == 1
    with ServerKeyring(paths.keys / "gnupg") as keyring:
        keyring.sign(b"x", site.certificate.fingerprint)
    assert site.server.store.collection("server_state").get("releases") == {
        "_id": "releases", "floor": 107, "_version": 1,
    }  # fmt: skip
    assert list(paths.keys.parent.glob(".restore*")) == []


def is_left(path: Path) -> bool:
    """Whether a file is more than a lock or a log."""
    return path.is_file() and "log" not in path.parts and path.name != "lock" and "admin_log" not in str(path)


SCRATCH = ("admin_log", "random_seed", "pubring.kbx~", "store.sqlite", "trustdb.gpg", "/lock", "server.lock")


def contents(site: AdministeredSite) -> dict[str, bytes | None]:
    """All files of a site, but locks, logs, the store and what gpg writes for itself; without what was set aside, and
    the log of administrative acts, which tells of those that failed too.
    """
    root = site.paths.root
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
        if not path.is_socket() and not any(word in str(path) for word in (*SCRATCH, "/log/", "/replaced-", "/run"))
        and path.name != "output.log" and not str(path).endswith(("server_state", ".lock"))
    }  # fmt: skip


def test_a_restored_server_numbers_releases_above_all_that_clients_may_have_seen(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    file = str(tmp_path / "backup")
    clients = site.server.store.collection("clients")
    clients.insert({"_id": "A" * 40, "hostname": "a", "state": "enrolled", "release": 12})
    clients.insert({"_id": "B" * 40, "hostname": "b", "plugins": {"penguindome": {"release": 41}}})
    clients.insert({"_id": "C" * 40, "hostname": "c", "plugins": {"penguindome": {"release": 2**60}}})
    clients.insert({"_id": "D" * 40, "hostname": "d", "plugins": {"penguindome": "hostile"}})
    site("backup", file, "--passphrase-file", passphrase)
    site.server.kill()
    for floor in (141, 241):
        words = ("restore", file, "--passphrase-file", passphrase, "--yes", "--force", "--json")
        assert parsed(site(*words))["release_floor"] == floor
        site("backup", file, "--passphrase-file", passphrase)


def test_a_running_server_and_the_data_of_another_are_left_alone(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    file = str(tmp_path / "backup")
    site("backup", file, "--passphrase-file", passphrase)
    site.server.start()
    restore = ("restore", file, "--passphrase-file", passphrase, "--yes")
    said = penguindome(site.paths.root, *restore, "--force", status=1).stderr
    assert b"the server runs; stop it first" in said
    site.server.stop()
    site.server.store.collection("clients").insert({"_id": "A" * 40, "hostname": "a", "state": "enrolled"})
    site.server.kill()
    before = contents(site)
    said = penguindome(site.paths.root, *restore, status=1).stderr
    assert b"there are documents in clients" in said
    assert b"add --force" in said
    assert contents(site) == before
    assert site.server.store.collection("clients").count() == 1
    site.server.kill()
    site(*restore, "--force")
    assert site.server.store.collection("clients").count() == 0
    replaced = next(site.paths.server_state.glob("store.sqlite.replaced-*"))
    old = open_store(f"sqlite://{replaced}")
    assert old.collection("clients").count() == 1
    old.close()


def test_the_documents_of_another_server_in_mongodb_are_replaced_on_demand_alone(
    site: AdministeredSite, tmp_path: Path, passphrase: str, mongodb_uri: str
) -> None:
    file = str(tmp_path / "backup")
    site.server.store.collection("clients").insert({"_id": "A" * 40, "hostname": "a", "state": "enrolled"})
    site("backup", file, "--passphrase-file", passphrase)
    store = open_store(mongodb_uri)
    store.collection("clients").insert({"_id": "B" * 40, "hostname": "b", "state": "enrolled"})
    words = ("restore", file, "--passphrase-file", passphrase, "--yes", "--database", mongodb_uri)
    before = contents(site)
    assert b"is not empty" in penguindome(site.paths.root, *words, status=1).stderr
    assert contents(site) == before
    assert [document["_id"] for document in store.collection("clients").find()] == ["B" * 40]
    done = penguindome(site.paths.root, *words, "--force")
    assert [document["_id"] for document in store.collection("clients").find()] == ["A" * 40]
    # The administrator's own file names the old one, and has the last word: he is told.
    assert b"server.yml:1 has the last word" in done.stderr
    assert f"database.uri: {mongodb_uri}" in (site.paths.settings / "server.d/10-setup.yml").read_text()
    store.close()


def test_a_database_that_is_away_is_noticed_before_anything_is_changed(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    file = str(tmp_path / "backup")
    site("backup", file, "--passphrase-file", passphrase)
    before = contents(site)
    away = "mongodb://127.0.0.1:1/penguindome?serverSelectionTimeoutMS=500"
    words = ("restore", file, "--passphrase-file", passphrase, "--yes", "--database", away)
    assert b"127.0.0.1:1" in penguindome(site.paths.root, *words, status=1).stderr
    assert contents(site) == before
    assert not (site.paths.keys.parent / "restoring.json").exists()


def test_a_server_does_not_start_while_it_is_being_restored(site: AdministeredSite) -> None:
    site.server.start()
    site.server.stop()
    with running.stopped(site.paths):
        process = site.server.spawn()
        assert process.wait(60) != 0
    assert "is being restored" in site.server.log()
    site.server.start()


def test_a_server_does_not_start_on_a_restore_that_was_interrupted(site: AdministeredSite) -> None:
    note = site.paths.keys.parent / restoring.NOTE
    write_atomically(note, json.dumps({"backup": "some", "file": "/root/a backup"}))
    site.server.write_settings()
    process = site.server.spawn()
    until(lambda: process.poll() is not None or site.server.answers(), what="its end")
    assert process.poll() == 1
    assert "a restore of a backup was interrupted; finish it: penguindome restore '/root/a backup'" in site.server.log()
    note.unlink()
    site.server.start()


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _cut_at_the_end(data: bytes) -> bytes:
    return data[:-1]


def _changed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _nonsense(data: bytes) -> bytes:
    return b"nonsense" * 100


def _empty(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("spoil", [_cut, _cut_at_the_end, _changed, _nonsense, _empty])
def test_a_damaged_backup_is_refused_and_nothing_is_changed(
    site: AdministeredSite, tmp_path: Path, passphrase: str, spoil: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "backup"
    site("backup", str(file), "--passphrase-file", passphrase)
    file.write_bytes(spoil(file.read_bytes()))
    before, fresh = contents(site), tmp_path / "fresh"
    for words in (("backup", "--verify"), ("restore", "--force", "--yes")):
        for root in (site.paths.root, fresh):
            done = penguindome(root, *words, str(file), "--passphrase-file", passphrase, status=1)
            assert done.stderr.count(b"\n") == 1
            assert b"damaged, or was cut off" in done.stderr or b"is not encrypted by gpg" in done.stderr
    assert contents(site) == before
    assert [path for path in fresh.rglob("*") if is_left(path)] == []


def test_another_passphrase_opens_nothing(site: AdministeredSite, tmp_path: Path, passphrase: str) -> None:
    file = str(tmp_path / "backup")
    site("backup", file, "--passphrase-file", passphrase)
    before = contents(site)
    done = penguindome(site.paths.root, "restore", file, "--passphrase-file", "-", "--yes", stdin="wrong\n", status=1)
    assert b"that is not its passphrase" in done.stderr
    assert contents(site) == before
    site("restore", file, "--passphrase-file", "-", "--yes", stdin=f"{PASSPHRASE}\n")


def test_a_passphrase_that_others_can_read_or_that_is_none_is_refused(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    file = tmp_path / "backup"
    Path(passphrase).chmod(0o644)
    done = penguindome(site.paths.root, "backup", str(file), "--passphrase-file", passphrase, status=2)
    assert b"chmod 600" in done.stderr
    assert b"a line of 1 to" in penguindome(
        site.paths.root, "backup", str(file), "--passphrase-file", "-", stdin="\n", status=2
    ).stderr  # fmt: skip
    assert b"--passphrase-file" in penguindome(site.paths.root, "backup", str(file), status=2).stderr
    assert not file.exists()


def test_a_backup_to_certificates_is_opened_by_each_of_their_keys(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    file, words = str(tmp_path / "backup"), []
    homes = {}
    for name in ("ann", "bob", "eve"):
        key = DeviceKey.generate(name)
        homes[name] = tmp_path / f"gnupg-{name}"
        homes[name].mkdir(mode=0o700)
        (tmp_path / f"{name}.asc").write_text(key.certificate.text)
        gpg = ["gpg", "--homedir", str(homes[name]), "--batch"]
        subprocess.run([*gpg, "--import"], input=key.text.encode(), check=True, capture_output=True, timeout=30)
        if name != "eve":
            words += ["--recipient-file", str(tmp_path / f"{name}.asc")]
    try:
        site("backup", file, *words)
        for name in ("ann", "bob"):
            assert "is whole" in site("backup", "--verify", file, GNUPGHOME=str(homes[name]))
        done = penguindome(site.paths.root, "backup", "--verify", file, GNUPGHOME=str(homes["eve"]), status=1)
        assert b"none of the private keys" in done.stderr
        site("restore", file, "--yes", GNUPGHOME=str(homes["bob"]))
        said = penguindome(site.paths.root, "backup", "--verify", file, "--passphrase-file", passphrase, status=2)
        assert b"it has no passphrase" in said.stderr
        (tmp_path / "no.asc").write_text("no certificate")
        bad = ("backup", file, "--recipient-file", str(tmp_path / "no.asc"))
        assert b"no.asc" in penguindome(site.paths.root, *bad, status=2).stderr
    finally:
        for home in homes.values():
            subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, timeout=30)


def test_a_passphrase_is_on_no_command_line_and_in_no_environment_and_no_plain_text_is_left(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    """The program gpg is replaced by one that notes what it was told before it works."""
    seen, bin_directory = tmp_path / "seen", tmp_path / "bin"
    bin_directory.mkdir()
    gpg = shutil.which("gpg")
    (bin_directory / "gpg").write_text(f'#!/bin/sh\n(echo "$@"; env) >> {seen}\nexec {gpg} "$@"\n')
    (bin_directory / "gpg").chmod(0o755)
    path = f"{bin_directory}:{os.environ['PATH']}"
    file = str(tmp_path / "backup")
    site("--debug", "backup", file, "--passphrase-file", passphrase, PATH=path)
    site("--debug", "restore", file, "--passphrase-file", passphrase, "--yes", PATH=path)
    assert "--symmetric" in seen.read_text()
    assert "--decrypt" in seen.read_text()
    assert PASSPHRASE not in seen.read_text()
    logged = [path for path in site.paths.logs.rglob("*") if path.is_file()]
    assert [path for path in logged if PASSPHRASE.encode() in path.read_bytes()] == []
    assert [*site.paths.root.rglob(".backup-*"), *site.paths.root.rglob(".restore-*")] == []


def test_a_full_disk_leaves_the_backup_before_and_nothing_half_made(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    require_mount()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=True)
    try:
        file = small / "backup"
        file.write_bytes(b"the one before")
        (site.paths.releases / "1").mkdir()
        (site.paths.releases / "1/a.deb").write_bytes(os.urandom(1 << 20))
        done = penguindome(site.paths.root, "backup", str(file), "--passphrase-file", passphrase, status=1)
        assert b"No space left on device" in done.stderr
        assert [(path.name, path.read_bytes()) for path in small.iterdir()] == [("backup", b"the one before")]
        assert list(site.paths.server_state.glob(".backup-*")) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_is_too_small_for_what_is_restored_is_left_as_it_was(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    require_mount()
    file, small = str(tmp_path / "backup"), tmp_path / "small"
    (site.paths.releases / "1").mkdir()
    (site.paths.releases / "1/a.deb").write_bytes(os.urandom(1 << 20))
    site("backup", file, "--passphrase-file", passphrase)
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(small)], check=True)
    try:
        done = penguindome(small, "restore", file, "--passphrase-file", passphrase, "--yes", status=1)
        assert b"No space left on device" in done.stderr
        assert [path for path in small.rglob("*") if is_left(path)] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def require_mount() -> None:
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    require(os.geteuid() == 0 and probe.returncode == 0, "mounting a small file system takes root")


class Killed(BaseException):
    """Nothing more is done."""


class Countdown:
    """Lets so many steps of a restore happen, and stops the process before the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        self.left, self.came = steps, False
        for owner, name in (
            (restore.restoring, "note"), (restore._Target, "fill"), (restore, "_move"), (restore, "sync_directory"),
            (restore.installation, "write_settings"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self._dying(getattr(owner, name)))

    def _dying(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                self.came = True
                raise Killed
            return step(*arguments, **keywords)

        return counted


@pytest.mark.timeout(600)
def test_a_restore_that_was_killed_is_finished_by_giving_it_again(
    site: AdministeredSite, tmp_path: Path, passphrase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "backup")
    site.server.store.collection("clients").insert({"_id": "A" * 40, "hostname": "a", "state": "enrolled"})
    (site.paths.releases / "1").mkdir()
    (site.paths.releases / "1/a.deb").write_bytes(CANARY)
    site("backup", file, "--passphrase-file", passphrase)
    key = site.certificate.fingerprint
    fresh = tmp_path / "fresh"
    monkeypatch.setenv(ROOT_VARIABLE, str(fresh))
    words = [
        "restore",
        file,
        "--passphrase-file",
        passphrase,
        "--yes",
        "--database",
        f"sqlite://{fresh}/var/lib/penguindome/server/store.sqlite",
    ]

    for number in range(100):
        with monkeypatch.context() as patched:
            countdown = Countdown(patched, number)
            try:
                assert main(words) == 0
            except Killed:
                pass
            came = countdown.came
        if not came:
            break
        assert main(words) == 0
        assert (fresh / "var/lib/penguindome/releases/1/a.deb").read_bytes() == CANARY
        with ServerKeyring(fresh / "var/lib/penguindome/keys/gnupg") as keyring:
            assert keyring.fingerprints() == [key]
        store = open_store(f"sqlite://{fresh}/var/lib/penguindome/server/store.sqlite")
        assert store.collection("clients").count() == 1
        store.close()
        assert not (fresh / "var/lib/penguindome/restoring.json").exists()
        shutil.rmtree(fresh)
    assert number > 8


KILLED_SERVER = """
import os, sys
from penguindome_server.store import open_store
store = open_store(sys.argv[1])
for number in range(200):
    store.collection("clients").insert({"_id": f"{number:040X}", "hostname": "other" * 50, "state": "enrolled"})
os.kill(os.getpid(), 9)
"""


def killed_server(site: AdministeredSite) -> Path:
    """Let a server be killed that has written other documents; returns its store, whose log lies beside it."""
    site.server.kill()
    subprocess.run([sys.executable, "-c", KILLED_SERVER, site.server.uri], check=False, timeout=60)
    file = site.paths.server_state / "store.sqlite"
    assert file.with_name("store.sqlite-wal").stat().st_size > 0
    return file


def require_the_store_of_the_backup(site: AdministeredSite) -> None:
    assert "is sound" in site("store", "check")
    assert [document["_id"] for document in site.server.store.collection("clients").find()] == ["A" * 40]
    site.server.kill()


def _no_header(data: bytes) -> bytes:
    return bytes(4096) + data[4096:]


def _garbage(data: bytes) -> bytes:
    return data[:100] + os.urandom(len(data) - 100)


@pytest.fixture
def backup(site: AdministeredSite, tmp_path: Path, passphrase: str) -> tuple[str, ...]:
    """A backup with one client in it; the words that restore it."""
    site.server.store.collection("clients").insert({"_id": "A" * 40, "hostname": "a", "state": "enrolled"})
    file = str(tmp_path / "backup")
    site("backup", file, "--passphrase-file", passphrase)
    site.server.kill()
    return ("restore", file, "--passphrase-file", passphrase, "--yes")


@pytest.mark.parametrize("spoil", [_no_header, _garbage])
def test_a_damaged_store_is_replaced_on_demand_alone(
    site: AdministeredSite, backup: tuple[str, ...], spoil: Callable[[bytes], bytes]
) -> None:
    file = site.paths.server_state / "store.sqlite"
    damaged = spoil(file.read_bytes())
    file.write_bytes(damaged)
    said = penguindome(site.paths.root, *backup, status=1).stderr.decode()
    assert "is damaged" in said
    assert "add --force" in said
    assert file.read_bytes() == damaged
    said = site(*backup, "--force")
    require_the_store_of_the_backup(site)
    kept = next(site.paths.server_state.glob("store.sqlite.replaced-*"))
    assert kept.read_bytes()[:4096] == damaged[:4096]
    assert f"the store that was here is kept as {kept}" in said


def test_the_log_that_a_killed_server_left_is_not_laid_over_the_store_of_a_backup(
    site: AdministeredSite, backup: tuple[str, ...]
) -> None:
    file = killed_server(site)
    file.rename(file.with_name("moved-away"))
    site(*backup)
    require_the_store_of_the_backup(site)


@pytest.mark.timeout(600)
def test_a_restore_that_was_killed_between_the_files_of_a_store_is_finished_by_giving_it_again(
    site: AdministeredSite, backup: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(site.paths.root))
    rename, steps = Path.rename, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal steps
        steps += "store.sqlite" in self.name
        if steps == number:
            raise Killed
        return rename(self, target)

    for number in range(1, 100):
        killed_server(site)
        steps = 0
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", dying)
            try:
                assert main([*backup, "--force"]) == 0
            except Killed:
                pass
        if steps < number:
            break
        to_finish = restoring.command_to_finish(site.paths)
        assert to_finish == f"penguindome restore {backup[1]}, with the options that it was given"
        assert main([*backup]) == 0
        assert restoring.command_to_finish(site.paths) is None
        require_the_store_of_the_backup(site)
    assert number > 4


def test_what_a_killed_backup_left_is_removed_by_the_next_one_and_nothing_else_is(
    site: AdministeredSite, tmp_path: Path, passphrase: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    left, others = target / ".backup.0123456789ab.new", []
    left.touch(0o600)
    for name, mode in (
        (".backup.0123456789ac.new", 0o644), (".backup.x.0123456789ab.new", 0o600), (".other.0123456789ab.new", 0o600),
        (".backup.new", 0o600), ("backup.0123456789ab.new", 0o600),
    ):  # fmt: skip
        (target / name).touch(mode)
        others.append(name)
    (target / ".backup.0123456789ad.new").symlink_to(others[0])
    site("backup", str(target / "backup"), "--passphrase-file", passphrase)
    assert sorted(path.name for path in target.iterdir()) == sorted([*others, ".backup.0123456789ad.new", "backup"])
