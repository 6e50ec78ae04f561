"""`penguindome keys`, on a server with real keys, while it runs and clients report."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from administered import AdministeredSite, parsed, penguindome, runs
from penguindome import actions, armour
from penguindome.actions import Action, Target
from penguindome.errors import SignatureError
from penguindome.files import FileLock
from penguindome.manifest import Manifest
from penguindome.openpgp import Certificate, DeviceKey
from penguindome.paths import ROOT_VARIABLE
from penguindome.server_keyring import ServerKeyring
from penguindome.times import utc_now
from penguindome_server.store import Store
from penguindome_tools import key_rotation, resigning
from penguindome_tools.cli import main
from web_server import until


@pytest.fixture
def site(sqlite_uri: str, tmp_path: Path) -> Iterator[AdministeredSite]:
    made = AdministeredSite(tmp_path / "site", sqlite_uri).set_up()
    yield made
    made.server.kill()


@pytest.fixture
def any_site(store_uri: str, tmp_path: Path) -> Iterator[AdministeredSite]:
    made = AdministeredSite(tmp_path / "site", store_uri).set_up()
    yield made
    made.server.kill()


def queue(
    site: AdministeredSite, action_id: str, *, life: timedelta = timedelta(days=1), stored_as: str | None = None,
    signer: DeviceKey | None = None, state: str = "pending",
) -> None:  # fmt: skip
    """Queue a patch, signed by the server's key of now."""
    text = actions.build(
        kind="patch", action_id=action_id, targets=[Target("A" * 40, "laptop")],
        issued_at=utc_now() - timedelta(days=2), expires_at=utc_now() + life,
        files={"plugins/x": (b"x", 0o755)}, parameters={"remove": [], "newest_release": 0},
    )  # fmt: skip
    with ServerKeyring(site.paths.keys / "gnupg") as keyring:
        signature = signer.sign(text) if signer else keyring.sign(text, site.certificate.fingerprint)
    name = stored_as or action_id
    document = {"_id": name, "kind": "patch", "text": text.decode(), "signature": signature.decode()}
    times = {"issued_at": utc_now(), "expires_at": utc_now() + life}
    site.server.store.collection("patches").insert({**document, **times})
    delivery = {"_id": f"{name}:{'A' * 40}", "action_id": name, "client_id": "A" * 40, "state": state}
    site.server.store.collection("deliveries").insert({**delivery, "queued_at": utc_now()})


def is_signed_by(store: Store, action_id: str, certificate: Certificate) -> bool:
    document = store.collection("patches").get(action_id)
    assert document is not None
    try:
        Action.load(document["text"].encode(), document["signature"].encode(), certificate)
    except SignatureError:
        return False
    return True


def add_release(site: AdministeredSite, number: int = 1) -> Path:
    """What a release leaves on the disk, as far as signatures go."""
    directory = site.paths.releases / str(number)
    directory.mkdir()
    with ServerKeyring(site.paths.keys / "gnupg") as keyring:
        for name in ("manifest.json", "release.json", "penguindome-client-1.tar", "a.pkg.tar.zst"):
            (directory / name).write_bytes(name.encode() * 1000)
            signature = keyring.sign(name.encode() * 1000, site.certificate.fingerprint)
            if name.endswith(".zst"):
                (directory / f"{name}.sig").write_bytes(armour.contents(signature, "SIGNATURE", limit=4096))
            else:
                (directory / f"{name}.asc").write_bytes(signature)
    (directory / "penguindome-client-1.tar.asc").chmod(0o640)
    return directory


def verify_release(directory: Path, certificate: Certificate) -> None:
    for path in (*directory.glob("*.asc"), *directory.glob("*.sig")):
        certificate.verify(path.with_suffix("").read_bytes(), resigning._armoured(path.read_bytes()))


def private_keys(site: AdministeredSite) -> list[str]:
    with ServerKeyring(site.paths.keys / "gnupg") as keyring:
        return keyring.fingerprints()


@pytest.mark.parametrize("name", ["actions.lock", "release.lock"])
def test_no_key_is_rotated_while_another_command_signs(
    site: AdministeredSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = site.certificate.fingerprint
    monkeypatch.setattr(key_rotation, "LOCK_SECONDS", 0.0)
    monkeypatch.setenv(ROOT_VARIABLE, str(site.paths.root))
    with FileLock(site.paths.keys / name):
        assert main(["keys", "rotate", "server", "--yes"]) == 1
    assert "another run" in capsys.readouterr().err
    assert (site.certificate.fingerprint, private_keys(site)) == (before, [before])
    assert key_rotation.interrupted(site.paths) is None


def test_a_client_that_slept_through_two_rotations_follows_a_server_that_never_stopped(
    any_site: AdministeredSite, tmp_path: Path
) -> None:
    site = any_site
    first = site.certificate.fingerprint
    sleeper = site.machine(tmp_path / "sleeper", "sleeper")
    site.server.start()
    runs(sleeper)
    before = (sleeper.paths.client_state / "manifest.signed.json").read_bytes()
    for _ in range(2):
        site("keys", "rotate", "server", "--yes")
    newest = site.certificate.fingerprint
    runs(sleeper)
    runs(sleeper)
    document = site.document(sleeper)
    assert document["plugins"]["penguindome"]["server_key"] == newest != first
    assert document["plugins"]["penguindome"]["manifest"] == "ok"
    assert document["plugins"]["hello"] == {"said": "first"}
    # The same text, signed by another key, need not be fetched again.
    assert (sleeper.paths.client_state / "manifest.signed.json").read_bytes() == before
    assert "All is well." in sleeper.run("status").stdout.decode()
    # What the new key signs is taken.
    site.write_plugin("second")
    site.sign()
    site.copy_plugin(sleeper)
    until(lambda: runs(sleeper) or site.document(sleeper)["plugins"].get("hello") == {"said": "second"}, what="news")
    assert site.issues() == set()
    assert private_keys(site) == [newest]


def test_a_bundle_from_before_a_rotation_still_leads_to_the_server(site: AdministeredSite, tmp_path: Path) -> None:
    machine = site.machine(tmp_path / "late", "late")
    site("keys", "rotate", "server", "--yes")
    site.server.start()
    runs(machine)
    assert site.document(machine)["plugins"]["penguindome"]["server_key"] == site.certificate.fingerprint
    assert "All is well." in machine.run("status").stdout.decode()


def test_all_that_is_in_force_is_signed_by_the_new_key_and_nothing_else_is(site: AdministeredSite) -> None:
    old = site.certificate
    release = add_release(site)
    renewed = site.paths.releases / "renewed/1"
    renewed.mkdir(parents=True)
    for name in ("manifest.json", "manifest.json.asc"):
        shutil.copy(release / name, renewed / name)
    queue(site, "1" * 32)
    queue(site, "2" * 32, state="delivered")
    queue(site, "3" * 32, life=timedelta(seconds=-1))
    queue(site, "4" * 32, state="cancelled")
    queue(site, "5" * 32, signer=DeviceKey.generate("thief"))
    queue(site, "6" * 32, stored_as="7" * 32)
    (release / "release.json.asc").write_bytes(DeviceKey.generate("thief").sign(b"x"))
    done = penguindome(site.paths.root, "keys", "rotate", "server", "--yes", "--json")
    answer, new = parsed(done.stdout.decode()), site.certificate
    assert (answer["old"], answer["new"]) == (old.fingerprint, new.fingerprint)
    store = site.server.store
    assert [is_signed_by(store, str(n) * 32, new) for n in (1, 2, 3, 4, 5, 7)] == [True, True, *[False] * 4]
    assert (answer["actions"], answer["files"]) == (2, 5)
    assert len(answer["problems"]) == 3
    assert done.stderr.count(b"not signed anew") == 3
    (release / "release.json.asc").unlink()
    verify_release(release, new)
    verify_release(renewed, new)
    assert stat.S_IMODE((release / "penguindome-client-1.tar.asc").stat().st_mode) == 0o640
    manifest = site.paths.releases / "manifest.json"
    Manifest.load(manifest.read_bytes(), manifest.with_name("manifest.json.asc").read_bytes(), new)
    assert private_keys(site) == [new.fingerprint]


def test_the_old_private_key_is_kept_on_demand(site: AdministeredSite) -> None:
    old = site.certificate.fingerprint
    assert "kept in the keyring" in site("keys", "rotate", "server", "--yes", "--keep-old")
    assert set(private_keys(site)) == {old, site.certificate.fingerprint}
    listed = {key["key"]: key["fingerprint"] for key in parsed(site("keys", "list", "--json"))["keys"]}
    assert (listed["server"], listed["server-former"]) == (site.certificate.fingerprint, old)


def test_it_asks_first_and_changes_nothing_without_a_yes(site: AdministeredSite) -> None:
    before = site.certificate.fingerprint
    said = penguindome(site.paths.root, "keys", "rotate", "server", status=2).stderr.decode()
    assert "Clients follow by themselves" in said
    assert before in said
    assert penguindome(site.paths.root, "keys", "rotate", "client", status=2).stderr.count(b"--yes") == 1
    assert site.certificate.fingerprint == before
    assert not (site.paths.keys / "rotation.json").exists()


class Crash(BaseException):
    """The machine stops."""


class Countdown:
    """Lets so many durable steps happen, and stops the machine before or after the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int, *, after: bool) -> None:
        self.left, self.after, self.came = steps, after, False
        for owner, name in (
            (key_rotation, "write_atomically"), (resigning, "write_atomically"), (resigning, "replace_signatures"),
            (ServerKeyring, "generate"), (ServerKeyring, "delete"), (key_rotation, "sync_directory"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self._stepping(getattr(owner, name)))

    def _stepping(self, step: Any) -> Any:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.left -= 1
            if self.left == -1 and not self.after:
                self.came = True
                raise Crash
            result = step(*arguments, **keywords)
            if self.left == -1:
                self.came = True
                raise Crash
            return result

        return counted


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_step_is_repaired_by_giving_the_command_again(
    site: AdministeredSite, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(site.paths.root))
    release = add_release(site)
    came, steps = True, 0
    while came:
        old = site.certificate
        number = f"{steps:032x}"
        queue(site, number)
        with monkeypatch.context() as patched:
            countdown = Countdown(patched, steps, after=after)
            try:
                assert main(["keys", "rotate", "server", "--yes"]) == 0
            except Crash:
                pass
            came = countdown.came
        if came and (site.paths.keys / "rotation.json").exists():
            assert main(["keys", "list"]) == 1
            assert main(["keys", "rotate", "server", "--yes"]) == 0
        new = site.certificate
        if new.fingerprint != old.fingerprint:
            chain = key_rotation.statements(site.paths.releases / "statements.json")
            assert key_rotation.rotation.follow(old, chain).fingerprint == new.fingerprint
        else:
            assert steps == 0
        verify_release(release, new)
        assert is_signed_by(site.server.store, number, new)
        assert private_keys(site) == [new.fingerprint]
        assert main(["keys", "list"]) == 0
        steps += 1
    assert steps > 12


def test_a_new_enrolment_key_ends_old_bundles_and_leaves_enrolled_machines_alone(
    site: AdministeredSite, tmp_path: Path
) -> None:
    old, enrolled = site.machine(tmp_path / "old", "old"), site.machine(tmp_path / "enrolled", "enrolled")
    site.server.start(workers=1)
    runs(enrolled)
    site("keys", "rotate", "client", "--yes")
    new = site.machine(tmp_path / "new", "new")
    until(lambda: new.run("enroll").returncode == 0, what="enrolment with the new key")
    assert b"not signed by the enrolment key" in old.run("enroll").stderr
    runs(enrolled)
    assert site.document(enrolled)["sequence"] == 2
    site.sign()
    assert b"not signed by the enrolment key" in old.run("enroll").stderr


def test_machines_that_wait_for_approval_are_told_of_before_their_key_goes(
    site: AdministeredSite, tmp_path: Path
) -> None:
    machine = site.machine(tmp_path / "waiting", "waiting")
    site.server.start(enrolment__policy="approve")
    machine.run("enroll")
    done = penguindome(site.paths.root, "keys", "rotate", "client", "--yes", "--json")
    assert b"1 machine waits for approval" in done.stderr
    assert parsed(done.stdout.decode())["waiting"] == 1


def test_the_list_tells_each_key_its_age_and_what_it_is_for(site: AdministeredSite) -> None:
    site("setup", "--self-signed", "--client-tree", str(site.tree))
    keys = {key["key"]: key for key in parsed(site("keys", "list", "--json"))["keys"]}
    assert list(keys) == ["server", "enrolment", f"tls-{site.server.port}"]
    assert keys["server"]["fingerprint"] == site.certificate.fingerprint
    assert utc_now() - keys["server"]["created_at"] < timedelta(minutes=5)
    tls = keys[f"tls-{site.server.port}"]
    assert tls["expires_at"] - tls["created_at"] == timedelta(days=825)
    assert len(tls["fingerprint"]) == 64
    assert all(key["age_days"] == 0 and key["purpose"] for key in keys.values())
    (site.paths.releases / "server.asc").write_text((site.paths.releases / "enrolment.asc").read_text())
    done = penguindome(site.paths.root, "keys", "list", status=1)
    assert b"is not of the key" in done.stderr


def test_public_certificates_are_exported_and_private_keys_are_not(site: AdministeredSite, tmp_path: Path) -> None:
    assert Certificate.from_text(site("keys", "export")).fingerprint == site.certificate.fingerprint
    site("keys", "export", "enrolment", str(tmp_path / "enrolment.asc"))
    exported = tmp_path / "enrolment.asc"
    assert "PRIVATE" not in exported.read_text()
    assert stat.S_IMODE(exported.stat().st_mode) == 0o644
    own = DeviceKey.from_text((site.paths.keys / "enrolment.key").read_text())
    assert Certificate.from_text(exported.read_text()).fingerprint == own.certificate.fingerprint
