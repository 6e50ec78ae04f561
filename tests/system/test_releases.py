"""The life of a site, as its administrator and its laptops see it: releases that arrive by themselves, one that does
not work, canaries, new keys, patches, commands, a wipe. Booted machines with the real packages and the real server, on
which timers alone are at work.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from arch_stand_ins import pacman, stand_ins
from built import debian_packages, pacman_packages
from containers import Machine, Site
from fleet import BUNDLE, URL, Fleet, boot, clients, follow, hand_over, prepare, shown
from needs import require, require_program
from penguindome_server.rollout import bucket
from release_packages import rebuilt
from roots import CHECKOUT, require_roots

pytestmark = pytest.mark.timeout(2400)

ALL_AT_ONCE = "update.spread: 0s\n"
OFTEN = "schedule.collect_interval: 1m\n"
BADGE = "#!/bin/sh\necho '{{\"badge\": {}}}'\n"
GREETING = "#!/bin/sh\necho hello from $(cat /etc/hostname)\n"
NO_MODULE = {"client/minute.py": "import nothing_of_this_name\n"}

CERTIFICATE = "/root/penguindome.asc"
AUTHORITY = "/root/penguindome-tls.pem"
KEYRING = "/etc/apt/keyrings/penguindome.asc"
SOURCES = "/etc/apt/sources.list.d/penguindome.sources"
APT_CONF = "/etc/apt/apt.conf.d/60penguindome"
PACMAN_CONF = "[options]\nArchitecture = x86_64\nSigLevel = Required\nLocalFileSigLevel = Optional\n\n[penguindome]\n"
PEOPLE = """
useradd --create-home alice
mkdir /home/alice/cloud /home/alice/papers
echo secret > /home/alice/papers/file
chown -R alice /home/alice
"""
SHARE_LOG = "/srv/share.log"


@pytest.fixture
def site() -> Iterator[Site]:
    require_roots()
    for program in ("dpkg-deb", "bsdtar", "zstd"):
        require_program(program)
    with Site() as made:
        yield made


def fingerprint(fleet: Fleet) -> str:
    """That of the server key in use."""
    rows = fleet.told("keys", "list")["keys"]
    (found,) = (row["fingerprint"] for row in rows if row["key"] == "server")
    return str(found)


def export_certificates(fleet: Fleet, *machines: Machine) -> None:
    """Hand the public certificates of the server, of its key and for TLS, to machines."""
    for which in ("keys export server", "penguindome-tls.pem"):
        follow(fleet.server, "server", which=which)
    for machine in machines:
        for name in (CERTIFICATE, AUTHORITY):
            hand_over(fleet.server, machine, name, 0o644)


def install_by_apt(fleet: Fleet, laptop: Machine) -> None:
    """From the site's own repository, by the commands of the README."""
    for name in (SOURCES, APT_CONF):
        laptop.root.write(name, shown(f"# {name}"))
    hand_over(fleet.server, laptop)
    follow(laptop, "debian")


def install_by_pacman(fleet: Fleet, laptop: Machine) -> None:
    """Likewise, but for `trust`, which Debian has not, and pacman's keyring, which Arch's installation makes."""
    laptop.root.write("/usr/local/share/ca-certificates/penguindome.crt", laptop.root.at(AUTHORITY).read_text())
    laptop.run("update-ca-certificates")
    laptop.root.write("/etc/pacman.conf", PACMAN_CONF + shown("[penguindome]"))
    laptop.run("pacman-key", "--init")
    hand_over(fleet.server, laptop)
    for which in ("pacman-key", "pacman -S", "setup"):
        follow(laptop, "archlinux", which=which)


def test_releases_keys_patches_and_commands_reach_a_fleet_of_debian_and_pacman_machines_by_themselves(
    site: Site, tmp_path: Path
) -> None:
    server = prepare(site, "server", "debian12-ready", (debian_packages().server,))
    laptops = {
        "laptop12": prepare(site, "laptop12", "debian12-ready", ()),
        "laptop13": prepare(site, "laptop13", "debian13-ready", ()),
        "archlaptop": prepare(site, "archlaptop", "pacman", ()),
    }
    pacman(laptops["archlaptop"].root, "-U", *stand_ins(tmp_path))
    fleet = Fleet(server, laptops)
    boot(fleet.machines)
    fleet.install_server()

    first_release_is_installed_from_the_repositories(fleet)
    second_release_changes_what_is_collected(fleet)
    broken_release_goes_back_and_is_halted(fleet)
    canaries_come_first_and_a_rollback_is_a_release(fleet)
    patch_is_on_one_machine_until_the_next_release(fleet)
    keys_are_followed_also_by_who_slept(fleet)
    command_runs_everywhere(fleet)
    fleet.assert_well()


def first_release_is_installed_from_the_repositories(fleet: Fleet) -> None:
    fleet.write("client-release.d/50-fleet.yml", ALL_AT_ONCE)
    fleet.publish("the first")
    export_certificates(fleet, *fleet.laptops.values())
    with ThreadPoolExecutor() as pool:
        by_apt = [pool.submit(install_by_apt, fleet, fleet.laptops[name]) for name in ("laptop12", "laptop13")]
        by_pacman = pool.submit(install_by_pacman, fleet, fleet.laptops["archlaptop"])
        for each in (*by_apt, by_pacman):
            each.result()
    fleet.enrol()
    fleet.arrives(1)
    assert_kinds(fleet, {"laptop12": "deb", "laptop13": "deb", "archlaptop": "pacman"})
    assert "ip_addresses" in fleet.plugins("laptop12")


def assert_kinds(fleet: Fleet, kinds: dict[str, str]) -> None:
    """The server knows, from the next minute on, how each client was installed."""
    fleet.eventually(
        "each says how it was installed",
        lambda: {name: row["package_kind"] for name, row in clients(fleet.server).items()} == kinds,
    )


def second_release_changes_what_is_collected(fleet: Fleet) -> None:
    fleet.write("plugins.d/badge.sh", BADGE.format(2), 0o755)
    fleet.write("plugins.d/ip_addresses.disabled", "a collective agreement forbids it\n")
    fleet.write("commands.d/greet", GREETING, 0o755)
    fleet.write("client-release.d/60-interval.yml", OFTEN)
    fleet.publish("badges")
    fleet.arrives(2)
    for name in fleet.laptops:
        plugins = fleet.plugins(name)
        assert plugins["badge"] == {"badge": 2}
        assert "ip_addresses" not in plugins
        assert fleet.own(name)["update"]["status"] == "done"
        fleet.eventually(f"{name} ran the command", lambda name=name: "greet" in fleet.client(name)["commands"])
        assert f"hello from {name}" in str(fleet.client(name)["commands"]["greet"])
    # The setting is in force: reports come although nothing has happened.
    before = {name: row["reported_at"] for name, row in clients(fleet.server).items()}
    fleet.eventually(
        "all report again",
        lambda: all(row["reported_at"] > before[name] for name, row in clients(fleet.server).items()),
    )
    fleet.remove("commands.d/greet")


def broken_release_goes_back_and_is_halted(fleet: Fleet) -> None:
    place = fleet.server.root.at("/root/broken")
    place.mkdir()
    for base in (debian_packages().client, pacman_packages().client):
        rebuilt(base, place, NO_MODULE)
    fleet.publish("broken", "--packages", "/root/broken", "--canary", "laptop12", "--canary", "archlaptop")

    def has_gone_back(name: str) -> bool:
        own = fleet.own(name)
        update = own.get("update") or {}
        return fleet.reported(name, 2) and (update.get("release"), update.get("status")) == (3, "failed")

    for name in ("laptop12", "archlaptop"):
        fleet.eventually(f"{name} goes back", lambda name=name: has_gone_back(name))
        assert "nothing_of_this_name" in fleet.own(name)["update"]["reason"]
        assert fleet.plugins(name)["badge"] == {"badge": 2}
    fleet.eventually("the server halts it", lambda: fleet.told("release", "show", "3")["halted_by"] == "server")
    known = {(issue["client"], issue["issue"]) for issue in fleet.told("issues", "list", "--all", "--state", "all")}
    # Two failures halt it, no fewer: each of them told its own while the release was offered to it still.
    assert {("laptop12", "update-failed"), ("archlaptop", "update-failed")} <= known
    fleet.stays(2, "laptop13")
    assert "release 3" not in fleet.laptops["laptop13"].journal()

    fleet.write("plugins.d/badge.sh", BADGE.format(4), 0o755)
    fleet.publish("mended")
    fleet.arrives(4)
    fleet.eventually(
        "the issues close", lambda: not [issue for issue in fleet.open_issues() if issue[1] == "update-failed"]
    )


def canaries_come_first_and_a_rollback_is_a_release(fleet: Fleet) -> None:
    fleet.write("plugins.d/badge.sh", BADGE.format(5), 0o755)
    fleet.publish("for laptop13 first", "--canary", "laptop13")
    fleet.arrives(5, "laptop13")
    others = sorted((bucket(row["client_id"], 5), name) for name, row in clients(fleet.server).items())
    share, chosen = next((place + 1, name) for place, name in others if name != "laptop13")
    (last,) = {"laptop12", "archlaptop"} - {chosen}
    fleet.stays(4, chosen, last)
    fleet.penguindome("release", "promote", "5", "--canary", f"{share}%", "--yes")
    fleet.arrives(5, chosen)
    fleet.stays(4, last)
    fleet.penguindome("release", "promote", "--yes")
    fleet.arrives(5, last)
    fleet.penguindome("release", "rollback", "--yes")
    fleet.arrives(6)
    assert [fleet.plugins(name)["badge"]["badge"] for name in fleet.laptops] == [4, 4, 4]


def patch_is_on_one_machine_until_the_next_release(fleet: Fleet) -> None:
    fleet.server.root.write("/root/shelf.sh", "#!/bin/sh\necho '{\"shelf\": 9}'\n", 0o755)
    words = ("patch", "add", "/root/shelf.sh", "--path", "plugins/shelf.sh", "--host", "laptop12", "--yes")
    patch = fleet.penguindome(*words).stdout.strip()
    fleet.eventually("the patch is at work", lambda: fleet.plugins("laptop12").get("shelf") == {"shelf": 9})
    (delivery,) = fleet.told("patch", "show", patch)["clients"]
    assert (delivery["client"], delivery["state"]) == ("laptop12", "done")
    assert fleet.own("laptop12")["patches"] == ["plugins/shelf.sh"]
    assert "shelf" not in fleet.plugins("archlaptop")


def keys_are_followed_also_by_who_slept(fleet: Fleet) -> None:
    sleeper = fleet.laptops["laptop13"]
    awake = ("laptop12", "archlaptop")
    sleeper.power_off()

    def rotate() -> None:
        before = fingerprint(fleet)
        fleet.penguindome("keys", "rotate", "server", "--yes")
        newest = fingerprint(fleet)
        assert newest != before
        for name in awake:
            fleet.eventually(f"{name} follows", lambda name=name: fleet.own(name).get("server_key") == newest)

    rotate()
    fleet.write("plugins.d/badge.sh", BADGE.format(7), 0o755)
    fleet.publish("signed by the new key")
    fleet.arrives(7, *awake)
    assert "shelf" not in fleet.plugins("laptop12")
    assert fleet.own("laptop12")["patches"] == []
    rotate()

    # What it finds when it wakes was made between the two: its package holds a signature of a key that it never knew.
    sleeper.start()
    fleet.arrives(7, "laptop13")
    assert fleet.own("laptop13")["server_key"] == fingerprint(fleet)
    for name in ("laptop12", "laptop13"):
        laptop = fleet.laptops[name]
        export_certificates(fleet, laptop)
        renewed = laptop.root.at(CERTIFICATE).read_text()
        keyring = laptop.root.at(KEYRING)
        fleet.eventually(f"apt of {name} knows", lambda at=keyring, text=renewed: at.read_text() == text)
        laptop.run("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
        laptop.run("apt-get", "install", "--yes", "penguindome-client")
    export_certificates(fleet, fleet.laptops["archlaptop"])
    for which in ("pacman-key", "pacman -S"):
        follow(fleet.laptops["archlaptop"], "archlinux", which=which)
    fleet.arrives(7)


def command_runs_everywhere(fleet: Fleet) -> None:
    done = fleet.penguindome("command", "run", "--all", "--wait", "--timeout", "5m", "--yes", "--",
                             "echo done on $(cat /etc/hostname)")  # fmt: skip
    for name in fleet.laptops:
        assert f"| done on {name}" in done.stdout
    assert done.stdout.count("exit status 0") == len(fleet.laptops)


def test_a_machine_of_another_distribution_is_moved_by_the_tar_and_a_stolen_one_is_wiped(site: Site) -> None:
    require(Path("/dev/fuse").exists(), "the kernel has no FUSE")
    server = prepare(site, "server", "debian12-ready", (debian_packages().server,))
    laptops = {
        "tarlaptop": prepare(site, "tarlaptop", "debian13-ready", ()),
        "stolen": prepare(site, "stolen", "debian12-ready", (), "--bind=/dev/fuse"),
    }
    fleet = Fleet(server, laptops)
    boot(fleet.machines)
    fleet.install_server()
    fleet.write("client-release.d/50-fleet.yml", ALL_AT_ONCE)
    fleet.publish("the first")
    fleet.penguindome("password", "installer", "--endpoint", "download_release", "--stdin", stdin="correct horse\n")
    install_from_the_tar(fleet, laptops["tarlaptop"])
    install_the_downloaded_package(fleet, laptops["stolen"])
    fleet.enrol()
    fleet.arrives(1)
    assert_kinds(fleet, {"tarlaptop": "tar", "stolen": "deb"})

    people_work_on(laptops["stolen"])
    fleet.penguindome("wipe", "stolen", "--reason", "left in a train", "--confirm", "stolen")
    fleet.write("plugins.d/badge.sh", BADGE.format(2), 0o755)
    fleet.publish("badges")
    fleet.arrives(2, "tarlaptop")
    assert_was_wiped(fleet, laptops["stolen"])
    fleet.write("plugins.d/badge.sh", BADGE.format(3), 0o755)
    fleet.publish("newer badges")
    fleet.arrives(3)
    assert {name: fleet.plugins(name)["badge"] for name in laptops} == {name: {"badge": 3} for name in laptops}
    assert str(laptops["tarlaptop"].root.at("/usr/lib/penguindome/client").readlink()) == "releases/client-3"
    fleet.assert_well()


def download(fleet: Fleet, laptop: Machine, *formats: str) -> list[str]:
    """What an administrator fetches with his password; returns the names of the files."""
    export_certificates(fleet, laptop)
    asked = "; ".join(
        f"curl --silent --show-error --fail --cacert penguindome-tls.pem --user 'installer:correct horse' -OJ "
        f"--write-out '%{{filename_effective}}\\n' '{URL}/download_release?format={each}'"
        for each in formats
    )
    return laptop.shell(f"cd /root; {asked}").stdout.split()


def install_from_the_tar(fleet: Fleet, laptop: Machine) -> None:
    status = "curl --silent --output /dev/null --write-out '%{http_code}' --cacert penguindome-tls.pem"
    download(fleet, laptop, "tar", "tar.asc")
    assert laptop.shell(f"cd /root; {status} '{URL}/download_release?format=tar'").stdout == "401"
    for which in ("gpg", "tar xf", "/setup"):
        follow(laptop, "other", which=which)


def install_the_downloaded_package(fleet: Fleet, laptop: Machine) -> None:
    (package,) = download(fleet, laptop, "deb")
    laptop.shell(f"cd /root; apt-get install --yes ./{package}")
    hand_over(fleet.server, laptop)
    laptop.run("penguindome-client", "setup", "--bundle", BUNDLE)


def people_work_on(laptop: Machine) -> None:
    """Somebody with a home, in which a file system of the network is mounted (as far as the kernel can tell)."""
    laptop.shell(PEOPLE)
    laptop.root.write("/root/fuse_share.py", (CHECKOUT / "tests/fuse_share.py").read_text())
    laptop.shell(f"systemd-run --quiet --unit=share python3 /root/fuse_share.py /home/alice/cloud {SHARE_LOG}")


def assert_was_wiped(fleet: Fleet, laptop: Machine) -> None:
    def ended() -> bool:
        (delivery,) = fleet.told("wipe", "show", "stolen")["clients"]
        return delivery["state"] in ("done", "failed")

    fleet.eventually("the wipe is over", ended)
    (delivery,) = fleet.told("wipe", "show", "stolen")["clients"]
    steps: dict[str, dict[str, Any]] = {step["name"]: step for step in delivery["result"]["steps"]}
    assert (delivery["state"], {step["outcome"] for step in steps.values()}) == ("done", {"done"}), steps
    assert "/home/alice/cloud (fuse.share)" in steps["network and FUSE mounts"]["detail"]
    assert {"home of alice", "account alice"} <= set(steps)
    assert "home of alice: done" in fleet.penguindome("wipe", "show", "stolen").stdout
    assert not laptop.root.at("/home/alice").exists()
    assert "alice" not in laptop.root.at("/etc/passwd").read_text()
    fleet.eventually("the share is detached", lambda: "unmounted" in laptop.root.at(SHARE_LOG).read_text())
    assert laptop.root.at(SHARE_LOG).read_text().splitlines() == ["mounted", "unmounted with deep kept"]
