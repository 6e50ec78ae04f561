"""The Debian packages on clean machines without a network: what they leave in place, what they keep, what they refuse.

There is no running systemd here (see tests/system for that), as in a chroot or while an image is made.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import Packages, repacked
from containers import eventually
from roots import Finished, Root, differences, fresh_root

pytestmark = pytest.mark.timeout(900)

BOTH = ("penguindome-client", "penguindome-server")
VENV = "/usr/lib/penguindome/{}/venv"
SETTINGS = "/etc/penguindome/server.d/10-setup.yml"


def answers(root: Root, program: str = "penguindome") -> dict[str, str]:
    """What `setup --print` says is in force."""
    lines = root.run(program, "setup", "--print").stdout.splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def fingerprint(root: Root) -> str:
    return root.run("cat", "/var/lib/penguindome/keys/server.fingerprint").stdout


def venv(root: Root, role: str) -> str:
    return root.run("readlink", VENV.format(role)).stdout.strip()


def status(root: Root, package: str) -> str:
    asked = root.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", package, check=False)
    return asked.stdout


def assert_works(root: Root) -> None:
    root.run("penguindome", "store", "check")
    assert "set up" in root.run("penguindome-client", "status", check=False).output


def as_service(root: Root, *command: str) -> Finished:
    words = ("setpriv", "--reuid=penguindome", "--regid=penguindome", "--clear-groups", *command)
    return root.run(*words, check=False)


@pytest.mark.parametrize("debian", ["debian12", "debian13"])
def test_apt_installs_with_dependencies_and_asks_nothing(packages: Packages, debian: str) -> None:
    with fresh_root(debian) as root:
        said = root.apt("install", str(packages.server), str(packages.client)).output
        assert "penguindome enrolment export" in said
        assert_works(root)
        expected = {"port": "8443", "tls": "self-signed", "database": "sqlite", "audit": "true"}
        assert expected.items() <= answers(root).items()
        root.run("penguindome", "enrolment", "export", "/root/bundle.json")


def test_a_client_without_answers_says_what_it_waits_for(root: Root) -> None:
    told = root.run("penguindome-client", "status", check=False)
    assert "penguindome-client setup" in told.output
    assert "Traceback" not in told.output


def test_signing_keys_are_out_of_reach_of_the_service_user(root: Root) -> None:
    keys = root.run("find", "/var/lib/penguindome/keys", "-type", "f").stdout.split()
    assert keys
    for file in (*keys, "/var/lib/penguindome/keys", "/var/lib/penguindome/client"):
        assert as_service(root, "test", "-r", file).status == 1, file
    owned = "find / -xdev -user penguindome -not -path '/var/l*/penguindome/server*' -not -path '/proc/*'"
    assert root.shell(owned).stdout == ""


def test_nothing_that_root_runs_can_be_changed_by_others(root: Root) -> None:
    places = "/usr/lib/penguindome /usr/bin/penguindome* /etc/penguindome"
    assert root.shell(f"find {places} -not -type l '(' -perm /022 -o -not -user root ')'").stdout == ""


def test_preseeded_answers_are_in_force_and_secrets_leave_debconf(packages: Packages, ready: Root) -> None:
    ready.preseed(
        "penguindome-server", port="9443", url="https://watch.example.org:9443", audit_mail="admin@example.org",
        collect_interval="30m", geolocation_key="not-for-everybody",
    )  # fmt: skip
    ready.apt("install", str(packages.server))
    expected = {"port": "9443", "url": "https://watch.example.org:9443", "audit-mail": "admin@example.org"}
    assert (expected | {"collect-interval": "30m"}).items() <= answers(ready).items()
    holding = ready.shell("grep -rl not-for-everybody /etc /var --exclude-dir=log").stdout.split()
    assert holding == [SETTINGS]
    assert as_service(ready, "test", "-w", SETTINGS).status == 1
    assert ready.run("stat", "--format=%a", SETTINGS).stdout == "640\n"


# What is refused -> what its line says, and an answer that can be; in the order of the questions.
WRONG = {
    "port": ("99999", "no port", "9443"),
    "tls_certificate": ("/root/nowhere.pem", "no file", "/root/server.pem"),
    "url": ("penguindome", "URL", "https://penguindome.example.org:9443"),
    "audit_mail": ("nobody", "no mail address", "admin@example.org"),
}


def test_wrong_answers_are_refused_with_the_reason_until_they_are_right(packages: Packages, ready: Root) -> None:
    certificate = "openssl req -x509 -newkey ed25519 -nodes -subj /CN=penguindome.example.org"
    ready.shell(f"{certificate} -keyout /root/server.key -out /root/server.pem")
    ready.preseed("penguindome-server", tls="files", tls_key="/root/server.key")
    ready.preseed("penguindome-server", **{question: wrong for question, (wrong, _, _) in WRONG.items()})
    tried = ready.apt("install", str(packages.server), check=False)
    for question, (_, reason, right) in WRONG.items():
        assert tried.status != 0
        (line,) = re.findall(rf"^penguindome: {question.replace('_', '-')}: .*", tried.output, re.MULTILINE)
        assert reason in line
        ready.preseed("penguindome-server", **{question: right})
        tried = ready.run("dpkg", "--configure", "--pending", check=False)
    assert tried.status == 0, tried.output
    expected = {question.replace("_", "-"): right for question, (_, _, right) in WRONG.items()}
    assert expected.items() <= answers(ready).items()


def test_a_database_that_cannot_be_reached_is_refused(packages: Packages, ready: Root) -> None:
    ready.preseed("penguindome-server", database="mongodb", database_hosts="127.0.0.1:1")
    refused = ready.apt("install", str(packages.server), check=False)
    assert refused.status != 0
    assert "database-hosts: " in refused.output


def test_a_bundle_in_a_preseed_sets_the_client_up(packages: Packages, ready: Root, root: Root) -> None:
    root.run("penguindome", "enrolment", "export", "/root/bundle.json")
    ready.write("/root/bundle.json", root.at("/root/bundle.json").read_text(), mode=0o600)
    ready.preseed("penguindome-client", bundle="/root/bundle.json")
    ready.apt("install", str(packages.client))
    assert fingerprint(root).strip() in ready.run("penguindome-client", "setup", "--print").stdout
    key = ready.run("sha256sum", "/var/lib/penguindome/client/device.key").stdout
    ready.at("/root/bundle.json").unlink()
    ready.apt("install", "--reinstall", str(packages.client))
    assert ready.run("sha256sum", "/var/lib/penguindome/client/device.key").stdout == key


def reconfigure(root: Root, editing: str) -> str:
    """Run dpkg-reconfigure as a person does, with debconf's editor; returns all that was shown."""
    root.write(
        "/root/editor", f'#!/bin/sh\ncat "$1" >> /root/shown\nsed -i -E {shlex.quote(editing)} "$1"\n', mode=0o755
    )
    environment = "DEBIAN_FRONTEND=editor DEBIAN_PRIORITY=low VISUAL=/root/editor EDITOR=/root/editor"
    root.run("script", "-qec", f"{environment} dpkg-reconfigure penguindome-server", "/dev/null")
    return root.at("/root/shown").read_text()


def test_dpkg_reconfigure_shows_hand_edits_and_applies_new_answers(root: Root) -> None:
    root.write("/etc/penguindome/server.yml", "audit:\n  mail_to: by-hand@example.org\n")
    shown = reconfigure(root, 's/^(penguindome-server.port=).*/\\1"9443"/')
    assert re.search(r'^penguindome-server.audit-mail="?by-hand@example.org', shown, re.MULTILINE)
    assert re.search(r'^penguindome-server.port="?8443', shown, re.MULTILINE)
    now = answers(root)
    assert (now["port"], now["audit-mail"]) == ("9443", "by-hand@example.org")
    assert root.at("/etc/penguindome/server.yml").read_text() == "audit:\n  mail_to: by-hand@example.org\n"


def test_installing_again_changes_nothing(packages: Packages, root: Root) -> None:
    before = root.files()
    root.apt("install", "--reinstall", str(packages.client), str(packages.server))
    # All but that it was done.
    told = re.compile(r"var/log/penguindome/admin/admin\.log|var/lib/penguindome/keys/admin_log\.acts/[^/]+\.act")
    assert [name for name in differences(before, root.files()) if not told.fullmatch(name)] == []


@pytest.fixture(scope="module")
def previous(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The packages as if they were of an older version, with other libraries."""
    target = tmp_path_factory.mktemp("previous")
    older = [repacked(file, target, version="0.0.9-1", mark="older") for file in (packages.client, packages.server)]
    return Packages(*older)


def test_an_upgrade_keeps_settings_keys_and_data(packages: Packages, previous: Packages, ready: Root) -> None:
    ready.preseed("penguindome-server", port="9443")
    ready.apt("install", str(previous.client), str(previous.server))
    ready.shell("printf 'metrics:\\n  enabled: false\\n' > /etc/penguindome/server.d/90-site.yml")
    ready.shell("echo '# mine' >> /etc/penguindome/server.yml")
    ready.run("penguindome", "enrolment", "token")
    key, old_venv = fingerprint(ready), venv(ready, "server")
    kept = ("/etc/penguindome", "/var/lib/penguindome/keys", "/var/lib/penguindome/releases")
    before = ready.run("find", *kept, "-type", "f", "-exec", "sha256sum", "{}", "+").stdout.splitlines()

    ready.apt("install", str(packages.client), str(packages.server))

    after = ready.run("find", *kept, "-type", "f", "-exec", "sha256sum", "{}", "+").stdout.splitlines()
    assert set(before) - set(after) == set()
    assert fingerprint(ready) == key
    assert answers(ready)["port"] == "9443"
    assert len(ready.run("penguindome", "enrolment", "list", "--json").stdout.split("created_at")) == 2
    assert venv(ready, "server") != old_venv
    assert ready.shell("ls -d /usr/lib/penguindome/*/venv-*").stdout.count("\n") == 2
    assert_works(ready)


def processes_of(root: Root) -> Iterator[tuple[int, str]]:
    """Numbers and command lines of what runs in the tree."""
    ours = root.path.stat()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            there = (directory / "root/").stat()
            words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
            yield int(directory.name), words


@pytest.mark.parametrize("package", ["penguindome-server", pytest.param("penguindome-client", marks=pytest.mark.long)])
def test_an_installation_that_was_killed_is_finished_by_dpkg(packages: Packages, ready: Root, package: str) -> None:
    file = packages.client if package == "penguindome-client" else packages.server
    words = ready.command("apt-get", "--yes", "install", ready.take(file))
    installing = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def in_the_middle() -> bool:
        return any("-m pip" in words or ".whl/pip" in words for _, words in processes_of(ready))

    eventually("the package's script makes its environment", in_the_middle)
    for process, words_of_it in processes_of(ready):
        if words_of_it.startswith(("/usr/bin/dpkg ", "dpkg ")):
            os.kill(process, signal.SIGKILL)
    assert installing.wait(60) != 0
    assert status(ready, package) == "half-configured"
    ready.run("dpkg", "--configure", "-a")
    assert status(ready, package) == "installed"
    program = "penguindome-client" if package == "penguindome-client" else "penguindome"
    assert answers(ready, program)


def test_without_python_nothing_is_installed(packages: Packages) -> None:
    with fresh_root("debian12") as root:
        refused = root.run("dpkg", "--install", root.take(packages.client), check=False)
        assert "depends on python3" in refused.output
        assert not root.at("/usr/lib/penguindome/client/venv").is_symlink()


def test_a_package_that_does_not_fit_this_python_leaves_the_old_environment(
    packages: Packages, root: Root, tmp_path: Path
) -> None:
    unfit = repacked(packages.client, tmp_path, version="9-1", without="usr/lib/penguindome/*/wheels/*cp311*", mark="x")
    before = venv(root, "client")
    refused = root.apt("install", str(unfit), check=False)
    assert refused.status != 0
    (line,) = (line for line in refused.output.splitlines() if line.startswith("pkg-setup: "))
    assert "3.11" in line
    assert "stays" in line
    assert venv(root, "client") == before
    assert_works(root)
    root.apt("install", "--allow-downgrades", str(packages.client))
    assert status(root, "penguindome-client") == "installed"


def test_another_python_makes_the_environment_anew(root: Root) -> None:
    before = venv(root, "client")
    root.shell("rm -r /usr/lib/penguindome/client/venv-*")
    root.shell("dpkg-trigger --by-package=python3-minimal --no-await /usr/bin/python3; dpkg --configure --pending")
    assert venv(root, "client") == before
    assert_works(root)


def test_removing_keeps_what_is_the_administrators_and_reinstalling_finds_it(packages: Packages, root: Root) -> None:
    root.shell("echo 'listen: {port: 7443}' > /etc/penguindome/server.d/90-site.yml")
    key = fingerprint(root)
    root.apt("remove", *BOTH)
    assert not root.at("/usr/lib/penguindome").exists()
    assert root.at("/etc/penguindome/server.d/90-site.yml").exists()
    root.apt("install", str(packages.client), str(packages.server))
    assert fingerprint(root) == key
    assert answers(root)["port"] == "7443"


ACCOUNTS = re.compile(r"etc/(passwd|group|shadow|gshadow)-?$")


@pytest.mark.parametrize("debian", ["debian12", pytest.param("debian13", marks=pytest.mark.long)])
def test_purging_leaves_the_system_user_and_a_backup_of_keys_and_data(packages: Packages, debian: str) -> None:
    with fresh_root(f"{debian}-ready") as root:
        root.run("true")
        before = root.files()
        root.apt("install", str(packages.client), str(packages.server))
        root.run("penguindome", "enrolment", "token")
        root.run("install", "-Dm600", "/dev/null", "/var/lib/penguindome/replaced-1/keys/old")
        root.apt("purge", *BOTH)
        left = {name for name in differences(before, root.files()) if not ACCOUNTS.match(name)}
        (backup,) = (name for name in left if re.fullmatch(r"var/backups/penguindome-server-[^/]+", name))
        assert {name for name in left if not name.startswith("var/backups")} == set()
        assert root.run("stat", "--format=%a %U", f"/{backup}").stdout == "700 root\n"
        assert {
            f"{backup}/{name}" for name in ("keys/enrolment.key", "server/store.sqlite", "replaced-1/keys/old")
        } <= left
        assert "penguindome" in root.run("getent", "passwd", "penguindome").stdout

        root.apt("install", str(packages.client), str(packages.server))
        assert_works(root)


def test_purging_deletes_keys_and_data_where_the_administrator_said_so(root: Root) -> None:
    root.run("install", "-Dm600", "/dev/null", "/var/lib/penguindome/replaced-1/keys/old")
    root.run("debconf-set-selections", stdin="penguindome-server penguindome-server/purge-data boolean true\n")
    root.apt("purge", *BOTH)
    assert root.shell("find / -xdev -name '*penguindome*' -path '/var/*' -not -path '/var/tmp/*'").stdout == ""


@pytest.mark.long
def test_cron_runs_the_client_where_there_is_no_systemd(packages: Packages, root: Root) -> None:
    root.run("penguindome", "enrolment", "export", "/root/bundle.json")
    root.run("penguindome-client", "setup", "--bundle", "/root/bundle.json")
    root.apt("install", "cron")
    # Setting up writes none; the first minute does.
    state = root.at("/var/lib/penguindome/client/state.json")
    assert not state.exists()
    cron = subprocess.Popen(root.command("cron", "-f"), stdin=subprocess.DEVNULL)
    try:
        eventually("cron starts a minute of the client", state.exists, 130)
    finally:
        cron.terminate()
        cron.wait()
