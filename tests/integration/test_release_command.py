"""`penguindome release`, as root of a server uses it, with small packages of the client."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import needs
from client_packages import PLUGINS, TREE, carry, command
from needs import require_program
from penguindome import json
from penguindome.files import FileLock
from penguindome.manifest import Manifest, verify_tree
from penguindome.openpgp import Certificate
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.release import Description, PackageFile, build
from penguindome.server_keyring import ServerKeyring
from penguindome.times import utc_now
from penguindome_server.store import open_store
from penguindome_tools.installation import recorded_fingerprint
from penguindome_tools.releases import records
from penguindome_tools.releases.publication import current
from penguindome_tools.releases.unpacking import unpack

CREATE = ("release", "create", "--yes")


@pytest.fixture
def site(paths: Paths, tmp_path: Path) -> Paths:
    """A server after its setup, which carries small packages of the client."""
    for program in ("gpg", "openssl", "dpkg-deb", "zstd"):
        require_program(program)
    (paths.client_tree / "plugins").mkdir(parents=True)
    (paths.client_tree / "plugins/os_info.py").write_text("#!/bin/sh\n")
    carry(paths, tmp_path)
    command(paths, "setup", "--url", "https://127.0.0.1:8443", "--self-signed")
    return paths


def certificate(site: Paths) -> Certificate:
    return Certificate.from_text((site.releases / "server.asc").read_text())


def listed(site: Paths) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(command(site, "release", "list", "--json").stdout)
    return rows


def numbers(site: Paths) -> list[int]:
    return [row["release"] for row in listed(site)]


def leftovers(site: Paths) -> list[str]:
    kept = [path.name for path in site.releases.glob(".*")]
    return kept + [path.name for path in site.keys.glob("release.under-way*")]


def offered(site: Paths) -> str:
    """The newest version that the apt repository names."""
    directory = current(site)
    assert directory is not None
    packages = (directory / "apt/dists/stable/main/binary-amd64/Packages").read_text()
    return next((line.removeprefix("Version: ") for line in packages.splitlines() if line.startswith("Version: ")), "")


def plugin(site: Paths, name: str, text: str = "#!/bin/sh\necho '{}'\n") -> Path:
    path = site.settings / "plugins.d" / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def tree_of(site: Paths, number: int, kind: str, tmp_path: Path) -> Path:
    """The client's tree in a package of a release."""
    (package,) = site.releases.glob(f"{number}/*{ {'deb': '.deb', 'pacman': '.zst', 'tar': '.tar'}[kind] }")
    target = tmp_path / f"{number}-{kind}"
    return unpack(kind, package, target).root / TREE


def everything(site: Paths) -> dict[str, bytes]:
    """All files but logs (that of administrative acts too), the store and locks."""
    kept = ("var/log", "var/lib/penguindome/server", "gnupg", "admin_log")
    return {
        str(path.relative_to(site.root)): path.read_bytes()
        for path in site.root.rglob("*")
        if path.is_file() and path.suffix != ".lock" and not any(name in str(path) for name in kept)
    }


def test_a_release_is_signed_described_published_and_recorded(site: Paths, tmp_path: Path) -> None:
    said = command(site, *CREATE, "--message", "the first")
    assert said.stdout.endswith("release 1+0.1.0 is published: for all\n")
    directory = site.releases / "1"
    text = (directory / "release.json").read_bytes()
    description = Description.load(text, (directory / "release.json.asc").read_bytes(), certificate(site))
    assert (description.release, description.version, description.machine) == (1, "1+0.1.0", "x86_64")
    assert set(description.packages) == {"deb", "pacman", "tar"}
    text = (directory / "manifest.json").read_bytes()
    manifest = Manifest.load(text, (directory / "manifest.json.asc").read_bytes(), certificate(site))
    assert manifest.sha256 == description.manifest_sha256
    assert (manifest.kind, manifest.release) == ("release", 1)
    assert (manifest.expires_at - manifest.issued_at).days == 365
    assert set(manifest.files) == {
        *("plugins/os_info.py", "plugins/sshd.py", "requirements.txt", "pkg-setup", "settings/ca.pem"),
        *("code/penguindome/__init__.py", "code/penguindome/client/__init__.py"),
    }
    for kind in description.packages:
        tree = tree_of(site, 1, kind, tmp_path)
        assert (tree / "manifest.json").read_bytes() == text
        assert (tree / "manifest.json.asc").exists()
        assert (tree / "package-kind").read_text() == f"{kind}\n"
    (row,) = listed(site)
    assert (row["release"], row["state"], row["message"]) == (1, "for all", "the first")
    assert offered(site) == "1:1+0.1.0"
    assert command(site, "release", "verify").stderr == "as signed: 1\n"
    assert leftovers(site) == []


def test_only_the_tar_holds_a_secret_and_not_everybody_can_read_it(site: Paths, tmp_path: Path) -> None:
    command(site, *CREATE)
    (tar,) = site.releases.glob("1/*.tar")
    assert tar.stat().st_mode & 0o777 == 0o640
    assert b"PRIVATE KEY" in tar.read_bytes()
    for path in (site.releases / "1").iterdir():
        if path != tar:
            assert path.stat().st_mode & 0o777 == 0o644
    for kind in ("deb", "pacman"):
        tree_of(site, 1, kind, tmp_path)
    held = [path for path in tmp_path.glob("1-*/**/*") if path.is_file()]
    assert len(held) > 10
    assert [path for path in held if b"PRIVATE KEY" in path.read_bytes()] == []


def test_a_geolocation_key_is_in_no_package_that_everybody_may_download(site: Paths, tmp_path: Path) -> None:
    settings = "clients.geolocation_key: not-for-everybody\nschedule.collect_interval: 30m\n"
    (site.settings / "server.yml").write_text(settings)
    said = command(site, *CREATE, status=2).stderr
    assert "server_auth.download_release" in said
    assert "not-for-everybody" not in said
    assert numbers(site) == []
    (site.settings / "server.yml").write_text(f"{settings}server_auth.download_release.ipranges: [192.0.2.0/24]\n")
    command(site, *CREATE)
    for kind in ("deb", "pacman", "tar"):
        tree = tree_of(site, 1, kind, tmp_path)
        held = {path.name: path.stat().st_mode & 0o777 for path in (tree / "settings").iterdir()}
        assert held == {"10-server.yml": 0o644, "10-server-private.yml": 0o600, "ca.pem": 0o644}
        assert "not-for-everybody" in (tree / "settings/10-server-private.yml").read_text()
    # Old content is not opened to everybody either.
    (site.settings / "server.yml").write_text("")
    command(site, *CREATE)
    assert "server_auth.download_release" in command(site, "release", "rollback", "1", "--yes", status=2).stderr
    assert numbers(site) == [2, 1]


def test_the_tar_lays_what_is_private_with_the_mode_that_the_manifest_names(site: Paths, tmp_path: Path) -> None:
    settings = "{clients.geolocation_key: the-key, server_auth.download_release.ipranges: [192.0.2.0/24]}\n"
    (site.settings / "server.yml").write_text(settings)
    command(site, *CREATE)
    (tar,) = site.releases.glob("1/*.tar")
    unpacked, root = tmp_path / "unpacked", tmp_path / "machine"
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", tar, "-C", unpacked, "--strip-components=1"], check=True)
    # These small packages hold no libraries, so that it ends before anything is put into use.
    words, environment = [unpacked / "setup", "--release-only"], {**os.environ, ROOT_VARIABLE: str(root)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert "was not put into use" in done.stderr
    laid = root / "usr/lib/penguindome/releases/client-1"
    assert (laid / "settings/10-server-private.yml").stat().st_mode & 0o777 == 0o600
    signed = Manifest.of_trusted((laid / "manifest.json").read_bytes())
    wrong = {problem.path: problem.reason for problem in verify_tree(signed, laid)}
    assert {name for name in wrong if not name.startswith("code/")} == set()


def test_a_rollback_carries_the_certificates_of_today(site: Paths, tmp_path: Path) -> None:
    command(site, *CREATE)
    command(site, "certificate", "renew")
    command(site, *CREATE)
    command(site, "release", "rollback", "1", "--yes")
    carried = [(tree_of(site, number, "deb", tmp_path) / "settings/ca.pem").read_text() for number in (1, 2, 3)]
    (tls,) = (path.read_text() for path in site.root.glob("var/lib/penguindome/tls/server.crt"))
    (following,) = (path.read_text() for path in site.root.glob("var/lib/penguindome/tls/next.crt"))
    assert carried == [tls, tls + following, tls + following]


def test_settings_that_do_nothing_in_a_release_are_warned_about(site: Paths) -> None:
    (site.settings / "client-release.d/50-site.yml").write_text("server.url: https://another.example\n")
    said = command(site, "release", "create", "--dry-run").stderr
    assert "50-site.yml:1: server.url is of no use in a release" in said


def test_what_the_site_adds_is_told_before_and_in_the_next_release(site: Paths, tmp_path: Path) -> None:
    command(site, *CREATE)
    plugin(site, "printers")
    (site.settings / "plugins.d/sshd.disabled").touch()
    (site.settings / "client-release.d/50-site.yml").write_text("plugins.timeout: 3m\n")
    before = everything(site)
    dry = command(site, "release", "create", "--dry-run")
    assert dry.stdout == "plugin\tprinters\tadded\nplugin\tsshd.py\tremoved\nsettings\t50-site.yml\tadded\n"
    assert "since release 1" in dry.stderr
    assert everything(site) == before
    assert numbers(site) == [1]

    command(site, *CREATE)
    tree = tree_of(site, 2, "deb", tmp_path)
    assert sorted(path.name for path in (tree / "plugins").iterdir()) == ["os_info.py", "printers"]
    assert (tree / "settings/50-site.yml").exists()
    assert command(site, "release", "create", "--dry-run").stdout == ""


def test_without_a_terminal_and_without_yes_nothing_is_published(site: Paths) -> None:
    before = everything(site)
    assert "--yes" in command(site, "release", "create", status=2).stderr
    assert everything(site) == before


def test_before_setup_it_says_what_to_do(paths: Paths, tmp_path: Path) -> None:
    carry(paths, tmp_path)
    assert "run: penguindome setup" in command(paths, *CREATE, status=2).stderr


def test_without_packages_it_says_where_they_come_from(site: Paths) -> None:
    shutil.rmtree(site.client_packages)
    assert "--packages" in command(site, *CREATE, status=2).stderr


def test_packages_of_different_versions_are_refused(site: Paths, tmp_path: Path) -> None:
    (old,) = site.client_packages.glob("*.zst")
    kept = old.rename(tmp_path / old.name)
    carry(site, tmp_path, "0.2.0")
    (new,) = site.client_packages.glob("*.zst")
    new.unlink()
    kept.rename(site.client_packages / kept.name)
    refused = command(site, *CREATE, status=1).stderr
    assert "of different versions" in refused
    assert "0.2.0" in refused
    assert leftovers(site) == []


def test_packages_that_hold_different_clients_are_refused(site: Paths, tmp_path: Path) -> None:
    (old,) = site.client_packages.glob("*.zst")
    kept = old.rename(tmp_path / old.name)
    carry(site, tmp_path, code="changed = True\n")
    kept.rename(site.client_packages / kept.name)
    said = command(site, *CREATE, status=1).stderr
    assert "hold different clients" in said
    assert "code/penguindome/__init__.py" in said


@pytest.mark.parametrize("kind", ["deb", "pacman"])
def test_a_tool_that_is_missing_is_named_with_its_package(site: Paths, kind: str, tmp_path: Path) -> None:
    tool, package = {"deb": ("dpkg-deb", "dpkg"), "pacman": ("zstd", "zstd")}[kind]
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("gpg", "gpgconf", "gpg-agent", "openssl", "dpkg-deb", "zstd", "tar", "gzip", "sh"):
        found = shutil.which(name)
        if name != tool and found:
            (programs / name).symlink_to(found)
    words = [sys.executable, "-m", "penguindome_tools.cli", *CREATE]
    environment = {"PATH": str(programs), ROOT_VARIABLE: str(site.root)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"install the package {package}" in done.stderr
    assert "releases.kinds" in done.stderr
    others = [name for name in ("deb", "pacman", "tar") if name != kind]
    (site.settings / "server.yml").write_text(f"releases.kinds: [{', '.join(others)}]\n")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((site.releases / "1/release.json").read_bytes())["packages"]) == set(others)


def test_a_canary_release_is_not_in_the_repositories(site: Paths) -> None:
    command(site, *CREATE)
    store = open_store(f"sqlite://{site.server_state / 'store.sqlite'}")
    client = {"_id": "A" * 40, "hostname": "laptop7", "machine_id": "m", "state": "enrolled"}
    store.collection("clients").insert(client)
    store.close()
    said = command(site, *CREATE, "--canary", "10%", "--canary", "laptop7").stdout
    assert said.endswith("release 2+0.1.0 is published: canary: 10% and 1 named\n")
    shown = json.loads(command(site, "release", "show", "2", "--json").stdout)
    assert shown["stage"] == {"percent": 10, "clients": ["A" * 40]}
    assert shown["promoted_at"] is None
    assert offered(site) == "1:1+0.1.0"


@pytest.mark.parametrize("words", [["nobody"], ["0%"], ["101%"], ["10%", "20%"], ["%"]])
def test_a_canary_that_is_none_is_refused(site: Paths, words: list[str]) -> None:
    canaries = [word for canary in words for word in ("--canary", canary)]
    command(site, *CREATE, *canaries, status=2)
    assert numbers(site) == []


def test_a_rollback_publishes_old_content_under_a_new_number(site: Paths, tmp_path: Path) -> None:
    command(site, *CREATE)
    plugin(site, "sshd.py", "#!/bin/sh\nexit 1\n")
    command(site, *CREATE)
    assert "plugin\tsshd.py\tchanged\n" in command(site, "release", "rollback", "--yes").stdout
    tree = tree_of(site, 3, "pacman", tmp_path)
    assert (tree / "plugins/sshd.py").read_text() == PLUGINS["sshd.py"]
    assert json.loads((tree / "manifest.json").read_bytes())["release"] == 3
    assert command(site, "release", "verify").stderr == "as signed: 3, 2, 1\n"
    assert offered(site) == "1:3+0.1.0"
    (row, *_) = listed(site)
    assert row["message"] == "back to the content of release 1"
    command(site, "release", "rollback", "2", "--yes")
    assert "exit 1" in (tree_of(site, 4, "tar", tmp_path) / "plugins/sshd.py").read_text()


def tamper(site: Paths, number: int, change: dict[str, Any] | None) -> None:
    """What somebody in the database does to the document of a release; None: it is gone."""
    with closing(open_store(f"sqlite://{site.server_state / 'store.sqlite'}")) as store:
        releases, key = store.collection("releases"), f"{number:09d}"
        if change is None:
            releases.delete({"_id": key})
        else:
            releases.update(key, lambda before: {**(before or {}), **change})


def test_the_store_does_not_choose_what_a_rollback_signs(site: Paths, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        plugin(site, "printers", f"#!/bin/sh\nexit {number}\n")
        command(site, *CREATE)
    marks: list[dict[str, Any] | None] = [
        {"halted_at": utc_now()},
        {"pruned_at": utc_now()},
        {"promoted_at": None},
        None,
    ]
    for mark in marks:
        tamper(site, 2, mark)
        refused = command(site, "release", "rollback", "--yes", status=2).stderr
        assert "by root's own record a rollback goes back to release 2, but by the store to release 1" in refused
    tamper(site, 3, None)
    assert "but by the store to none" in command(site, "release", "rollback", "--yes", status=2).stderr
    assert set(numbers(site)) == {1}
    told = command(site, "release", "rollback", "2", status=2).stderr
    origin = f"with the content of release 2, signed on {utc_now():%Y-%m-%d}, in place of release 3"
    assert f"release 4+0.1.0 {origin} (since release 3):" in told
    assert f"Publish release 4+0.1.0 {origin}?" in told
    command(site, "release", "rollback", "2", "--yes")
    assert "exit 2" in (tree_of(site, 4, "deb", tmp_path) / "plugins/printers").read_text()
    assert "no release 7" in command(site, "release", "rollback", "7", "--yes", status=2).stderr


def test_packages_that_are_not_as_signed_are_not_signed_again_by_a_rollback(site: Paths) -> None:
    command(site, *CREATE)
    command(site, *CREATE)
    (deb,) = site.releases.glob("1/*.deb")
    deb.write_bytes(deb.read_bytes()[:-1] + b"x")
    assert "not what was signed" in command(site, "release", "rollback", "1", "--yes", status=1).stderr
    assert numbers(site) == [2, 1]


def damage_manifest(directory: Path) -> str:
    path = directory / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"0755"', b'"0777"'))
    return "manifest.json"


def damage_package(directory: Path) -> str:
    (path,) = directory.glob("*.deb")
    path.write_bytes(path.read_bytes() + b"x")
    return path.name


def damage_signature(directory: Path) -> str:
    (path,) = directory.glob("*.sig")
    path.write_bytes(b"")
    return path.name


def remove_package(directory: Path) -> str:
    (path,) = directory.glob("*.zst")
    path.unlink()
    return path.name


def open_tar(directory: Path) -> str:
    (path,) = directory.glob("*.tar")
    path.chmod(0o644)
    return path.name


def add_file(directory: Path) -> str:
    (directory / "more").touch()
    return "more"


@pytest.mark.parametrize(
    "damage", [damage_manifest, damage_package, damage_signature, remove_package, open_tar, add_file]
)
def test_verify_finds_what_is_not_as_signed(site: Paths, damage: Any) -> None:
    command(site, *CREATE)
    damaged = damage(site.releases / "1")
    found = json.loads(command(site, "release", "verify", "1", "--json", status=1).stdout)
    assert damaged in {problem["file"] for problem in found}


def test_verify_looks_into_packages(site: Paths, tmp_path: Path) -> None:
    """Somebody with the key, but not with our tools, described a package that holds another plugin."""
    command(site, *CREATE)
    directory = site.releases / "1"
    old = json.loads((directory / "release.json").read_bytes())
    (deb,) = directory.glob("*.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tmp_path / "deb"], check=True)
    (tmp_path / "deb" / TREE / "plugins/sshd.py").write_text("#!/bin/sh\nrm -rf /\n")
    (tmp_path / "deb" / TREE / "commands").mkdir()
    (tmp_path / "deb" / TREE / "commands/more").write_text("#!/bin/sh\n")
    deb.unlink()  # in the publication, it stays
    subprocess.run(["dpkg-deb", "-Zgzip", "--build", tmp_path / "deb", deb], check=True, capture_output=True)
    other = deb.read_bytes()
    packages = {kind: PackageFile(**entry) for kind, entry in old["packages"].items()}
    packages["deb"] = PackageFile(deb.name, sha256(other).hexdigest(), len(other))
    text = build(**{key: value for key, value in old.items() if key not in ("format", "packages")}, packages=packages)
    (directory / "release.json").write_bytes(text)
    with ServerKeyring(site.keys / "gnupg") as keyring:
        signature = keyring.sign(text, recorded_fingerprint(site) or "")
    (directory / "release.json.asc").write_bytes(signature)
    found = json.loads(command(site, "release", "verify", "--json", status=1).stdout)
    assert [(problem["file"], problem["problem"]) for problem in found] == [
        (deb.name, "commands/more: unsigned"),
        (deb.name, "plugins/sshd.py: changed"),
    ]


def test_verify_finds_what_is_not_as_signed_of_all_that_is_served(site: Paths) -> None:
    command(site, *CREATE)
    command(site, "release", "refresh", "--force")
    assert command(site, "release", "verify").stderr == "as signed: 1\n"
    for name, told in (
        ("repo/current/arch/penguindome.db", "repo/current"),
        ("repo/current/arch/penguindome.files.sig", "repo/current"),
        ("repo/current/apt/dists/stable/InRelease", "repo/current"),
        ("repo/current/apt/dists/stable/main/binary-amd64/Packages", "repo/current"),
        ("releases/renewed/1/manifest.json", "releases/renewed/1/manifest.json"),
        ("releases/renewed/1/manifest.json.asc", "releases/renewed/1/manifest.json"),
        ("releases/manifest.json", "releases/manifest.json"),
    ):
        path = site.releases.parent / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert told in [
            each["file"] for each in json.loads(command(site, "release", "verify", "--json", status=1).stdout)
        ]
        path.write_bytes(whole)
    assert command(site, "release", "verify").stderr == "as signed: 1\n"
    link = site.repository / "current"
    link.rename(link.with_name("away"))
    assert "repo/current\tmissing" in command(site, "release", "verify", status=1).stdout


def test_verify_looks_at_what_the_store_hides(site: Paths) -> None:
    command(site, *CREATE)
    tamper(site, 1, {"pruned_at": utc_now()})
    damage_package(site.releases / "1")
    command(site, "release", "verify", status=1)
    tamper(site, 1, None)
    command(site, "release", "verify", status=1)
    command(site, "release", "verify", "1", status=1)
    assert "no release 2" in command(site, "release", "verify", "2", status=2).stderr


@pytest.mark.parametrize("torn", ["", "{}", "[]", '{"files": {}, "issued_at": 1, "expires_at": "x"}'])
def test_a_manifest_that_is_torn_is_made_anew(site: Paths, torn: str) -> None:
    published = site.releases / "manifest.json"
    for words in (("setup",), ("release", "refresh")):
        published.write_text(torn)
        command(site, *words)
        signature = published.with_name("manifest.json.asc").read_bytes()
        Manifest.load(published.read_bytes(), signature, certificate(site))


def test_prune_removes_packages_and_keeps_what_is_signed(site: Paths) -> None:
    for _ in range(3):
        command(site, *CREATE)
    said = command(site, "release", "prune", "--keep", "1", "--yes").stdout
    assert said.startswith("removed: 2, 1;")
    texts = {"manifest.json", "manifest.json.asc", "release.json", "release.json.asc"}
    for number in (1, 2):
        assert {path.name for path in (site.releases / str(number)).iterdir()} == texts
    assert [row["state"] for row in listed(site)] == ["for all", "pruned", "pruned"]
    assert command(site, "release", "verify").stderr == "as signed: 3, 2, 1\n"
    assert offered(site) == "1:3+0.1.0"
    assert "were removed" in command(site, "release", "rollback", "1", "--yes", status=1).stderr
    assert command(site, "release", "prune", "--yes").stdout.startswith("removed: nothing;")


def test_the_store_does_not_choose_what_is_pruned(site: Paths) -> None:
    for _ in range(3):
        command(site, *CREATE)
    for number in (2, 3):
        tamper(site, number, {"pruned_at": utc_now()})
    assert command(site, "release", "prune", "--keep", "2", "--yes").stdout.startswith("removed: nothing;")
    for number in (1, 2, 3):
        assert len(list((site.releases / str(number)).glob("*.deb"))) == 1


def test_pruning_that_was_interrupted_is_told_and_asked_like_any(site: Paths) -> None:
    for _ in range(2):
        command(site, *CREATE)
    (deb,) = site.releases.glob("1/*.deb")
    kept = deb.read_bytes()
    command(site, "release", "prune", "--keep", "1", "--yes")
    deb.write_bytes(kept)
    assert "Remove the packages of release 1?" in command(site, "release", "prune", status=2).stderr
    assert deb.exists()
    assert command(site, "release", "prune", "--yes").stdout.startswith("removed: 1;")
    assert not deb.exists()


def test_what_the_store_says_leads_root_to_no_other_files(site: Paths, tmp_path: Path) -> None:
    """A compromised web process names any directory as the number of a release that was pruned, promoted or staged."""
    command(site, *CREATE)
    victim = tmp_path / "cron.d"
    victim.mkdir()
    shutil.copytree(site.releases / "1", victim, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in victim.iterdir()}
    store = open_store(f"sqlite://{site.server_state}/store.sqlite")
    releases = store.collection("releases")
    true = releases.get("000000001")
    assert true is not None
    for name, changed in (
        ("pruned", {"pruned_at": true["created_at"]}),
        ("for-all", {}),
        ("canary", {"promoted_at": None}),
    ):
        for wrong in (str(victim), os.path.relpath(victim, site.releases)):
            releases.insert({**true, "_id": f"{name} {wrong}", "release": wrong, **changed})
        command(site, "release", "prune", "--keep", "1", "--yes")
        assert {path.name: path.read_bytes() for path in victim.iterdir()} == before
        command(site, "release", "refresh", "--force")
    store.close()
    command(site, "release", "promote", "--yes", status=2)
    assert numbers(site) == [1]
    assert command(site, "release", "verify").stderr.splitlines()[-1] == "as signed: 1"
    command(site, *CREATE)
    assert {path.name: path.read_bytes() for path in victim.iterdir()} == before


def test_two_at_once_do_not_make_the_same_release(site: Paths) -> None:
    with FileLock(site.keys / "release.lock"):
        assert "another run" in command(site, *CREATE, status=1).stderr
    command(site, *CREATE)
    assert numbers(site) == [1]


def create_where_nothing_can_be_published(site: Paths) -> None:
    publications = site.repository / "publications"
    kept = publications.rename(publications.with_name("kept"))
    publications.write_text("not a directory\n")
    assert "no release was made: " in command(site, *CREATE, status=1).stderr
    publications.unlink()
    kept.rename(publications)


def test_a_failure_of_the_publication_leaves_all_as_it_was(site: Paths) -> None:
    command(site, *CREATE)
    before = everything(site)
    create_where_nothing_can_be_published(site)
    assert everything(site) == before
    assert numbers(site) == [1]
    assert leftovers(site) == []
    assert command(site, "release", "verify").stderr == "as signed: 1\n"
    # The number was the name of a release, if only for a moment.
    command(site, *CREATE)
    assert numbers(site) == [3, 1]


@pytest.fixture
def full_disk(site: Paths) -> Iterator[Path]:
    """The store is on a disk of its own, which is full; removing the file makes room."""
    needs.require(os.geteuid() == 0, "mounting a small file system takes root")
    kept = site.server_state.rename(site.server_state.with_name("kept"))
    site.server_state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", site.server_state], check=True)
    try:
        shutil.copytree(kept, site.server_state, dirs_exist_ok=True)
        with closing(open_store(f"sqlite://{site.server_state / 'store.sqlite'}")) as store:
            # Open, and with its log begun, it can be read without any space.
            records.burn(store, 1)
            ballast = site.server_state / "ballast"
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            yield ballast
    finally:
        subprocess.run(["umount", "--lazy", str(site.server_state)], check=True)


def test_a_release_that_failed_on_a_full_disk_is_published_by_nobody_later(site: Paths, full_disk: Path) -> None:
    create_where_nothing_can_be_published(site)
    assert list(site.releases.glob("[1-9]*")) == []
    full_disk.unlink()
    command(site, "release", "refresh", "--force")
    assert numbers(site) == []
    assert offered(site) == ""
    assert list(site.keys.glob("release.*.json")) == []
    # Its number was the name of a release, if only for a moment.
    command(site, *CREATE)
    assert numbers(site) == [3]


def test_a_release_whose_publication_was_killed_after_the_move_is_finished_by_the_next_run(site: Paths) -> None:
    command(site, *CREATE, "--message", "killed")
    store = open_store(f"sqlite://{site.server_state / 'store.sqlite'}")
    document = store.collection("releases").get("000000001")
    assert document is not None
    store.collection("releases").delete({"_id": "000000001"})
    store.close()
    note = site.keys / "release.under-way.json"
    note.write_text(json.dumps({key: value for key, value in document.items() if key != "_version"}))
    assert "was interrupted" in command(site, "release", "list").stderr
    assert "release 1, whose publication was interrupted, is published now" in command(site, *CREATE).stderr
    assert [(row["release"], row["message"]) for row in listed(site)] == [(2, ""), (1, "killed")]
    assert leftovers(site) == []


def instants(count: int, longest: float) -> Iterator[float]:
    chance = random.Random(count)
    return (chance.uniform(0.0, longest) for _ in range(count))


def test_a_kill_at_any_instant_leaves_the_old_release_or_the_new_one(site: Paths) -> None:
    started = time.monotonic()
    command(site, *CREATE)
    took = time.monotonic() - started
    words = [sys.executable, "-m", "penguindome_tools.cli", *CREATE]
    environment = {**os.environ, ROOT_VARIABLE: str(site.root)}
    for instant in instants(60 if needs.testing_all() else 6, took * 1.1):
        before, left = numbers(site), (site.keys / "release.under-way.json").exists()
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(instant)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        after = numbers(site)
        assert after[-len(before) :] == before
        # Its own, and the one that the run before may have left under way.
        assert len(after) - len(before) in range(2 + left)
        assert command(site, "release", "verify").stderr.startswith("as signed: ")
        # What apt is offered is whole, and never older than what was offered before.
        assert int(offered(site).removeprefix("1:").partition("+")[0]) >= max(before)
    command(site, *CREATE)
    assert leftovers(site) == []
    assert command(site, "release", "verify").stderr.startswith("as signed: ")
    assert offered(site) == f"1:{max(numbers(site))}+0.1.0"
