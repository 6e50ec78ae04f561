"""The published repositories, as the real apt and the real pacman see them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from needs import require_program
from penguindome.paths import Paths
from penguindome.server_keyring import ServerKeyring
from publication_material import CONTENTS, NAME, NOW, Publisher
from roots import Finished, Root, fresh_root

pytestmark = pytest.mark.timeout(300)

PORT = 8899
PLACE = "/srv/site"
SERVE = f"cd {PLACE}; exec python3 -m http.server --bind 127.0.0.1 {PORT} >/dev/null 2>&1"
KEY = "/etc/apt/keyrings/penguindome.asc"
SOURCES = f"""\
Types: deb
URIs: http://127.0.0.1:{PORT}/apt
Suites: stable
Components: main
Signed-By: {KEY}
"""
SECTION = f"""
[penguindome]
SigLevel = Required TrustedOnly
Server = http://127.0.0.1:{PORT}/arch
"""
LISTS = "/var/lib/apt/lists/127.0.0.1:8899_apt_dists_stable_InRelease"


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerKeyring]:
    with ServerKeyring(tmp_path_factory.mktemp("keys") / "gnupg") as made:
        yield made


@pytest.fixture
def publisher(paths: Paths, keyring: ServerKeyring) -> Publisher:
    return Publisher.of(paths, keyring, keyring.generate("PenguinDome server"))


def serve(root: Root, publisher: Publisher) -> None:
    """What is in force is what the machine is served from now on."""
    place = root.at(PLACE)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(publisher.current, place)


def online(root: Root, script: str, *, check: bool = True) -> Finished:
    """Run a script while the site is served over loopback."""
    wait = f"until (exec 3<>/dev/tcp/127.0.0.1/{PORT}) 2>/dev/null; do :; done"
    return root.shell(
        f"({SERVE}) & server=$!\n{wait}\nset +e\n({script})\nstatus=$?\nkill $server\nexit $status", check=check
    )


def update(root: Root, *, check: bool = True) -> Finished:
    return online(root, "apt-get update -o APT::Update::Error-Mode=any", check=check)


@pytest.fixture(params=["debian12-ready", "debian13-ready"])
def debian(request: pytest.FixtureRequest, publisher: Publisher) -> Iterator[Root]:
    """A machine that has the site's sources, as the client puts them there."""
    with fresh_root(request.param) as root:
        root.write("/etc/apt/sources.list.d/penguindome.sources", SOURCES)
        root.write(KEY, publisher.keyring.certificate(publisher.fingerprint))
        yield root


def installed(root: Root) -> str:
    return root.at(CONTENTS).read_text().strip()


def test_apt_installs_and_upgrades_from_the_repository(debian: Root, publisher: Publisher) -> None:
    publisher.publish()
    serve(debian, publisher)
    update(debian)
    for number in (1, 2):
        # All within the same second: apt must see that something is new.
        publisher.publish_release(publisher.stage(number), number)
        serve(debian, publisher)
        said = update(debian).output
        assert "Hit:" not in "".join(line for line in said.splitlines() if str(PORT) in line)
        online(debian, f"apt-get --yes install {NAME}")
        assert installed(debian) == str(number)
    assert "W:" not in update(debian).output


def test_apt_finds_an_index_that_was_replaced_meanwhile_by_its_hash(debian: Root, publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    old = (publisher.current / "apt/dists/stable/InRelease").read_bytes()
    publisher.publish_release(publisher.stage(2), 2, 1, now=NOW + timedelta(seconds=1))
    serve(debian, publisher)
    # What a reader sees who began before the publication, and goes on after it.
    debian.at(f"{PLACE}/apt/dists/stable/InRelease").write_bytes(old)
    update(debian)
    online(debian, f"apt-get --yes install {NAME}")
    assert installed(debian) == "1"


@pytest.mark.parametrize("name", ["InRelease", "main/binary-amd64/by-hash/SHA256/*"])
def test_apt_refuses_a_tampered_index(debian: Root, publisher: Publisher, name: str) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    serve(debian, publisher)
    for path in debian.at(f"{PLACE}/apt/dists/stable").glob(name):
        path.write_bytes(path.read_bytes().replace(b"penguindome-client", b"penguindome-cliemt")[:-1] + b"!")
    if name == "InRelease":
        path = debian.at(f"{PLACE}/apt/dists/stable/{name}")
        path.write_bytes(path.read_bytes().replace(b"Suite: stable", b"Suite: stablE"))
    assert update(debian, check=False).status == 100
    assert online(debian, f"apt-get --yes install {NAME}", check=False).status == 100
    assert not debian.at(CONTENTS).exists()


def test_apt_refuses_a_tampered_package(debian: Root, publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    serve(debian, publisher)
    (package,) = debian.at(f"{PLACE}/apt/pool/main").iterdir()
    package.write_bytes(package.read_bytes()[:-1] + b"!")
    update(debian)
    assert online(debian, f"apt-get --yes install {NAME}", check=False).status == 100
    assert not debian.at(CONTENTS).exists()


def test_apt_refuses_another_key(debian: Root, publisher: Publisher) -> None:
    other = publisher.keyring.generate("somebody else")
    Publisher.of(publisher.paths, publisher.keyring, other).publish()
    serve(debian, publisher)
    done = update(debian, check=False)
    assert done.status == 100
    assert other[-16:] in done.output


def test_apt_refuses_an_index_that_expired(debian: Root, publisher: Publisher) -> None:
    publisher.publish(now=NOW - timedelta(days=31))
    serve(debian, publisher)
    done = update(debian, check=False)
    assert done.status == 100
    assert "expired" in done.output
    publisher.publish(now=NOW)
    serve(debian, publisher)
    update(debian)


@pytest.fixture
def arch(publisher: Publisher) -> Iterator[Root]:
    """A machine that has the site's section, and trusts the site's key."""
    with fresh_root("pacman") as root:
        root.write("/etc/pacman.conf", f"[options]\nArchitecture = x86_64\nSigLevel = Required\n{SECTION}")
        root.write("/root/key.asc", publisher.keyring.certificate(publisher.fingerprint))
        root.shell(
            "ln -sf /proc/mounts /etc/mtab; pacman-key --init; pacman-key --add /root/key.asc; "
            f"pacman-key --lsign-key {publisher.fingerprint}"
        )
        yield root


def sync(root: Root, *words: str, check: bool = True) -> Finished:
    return online(root, " ".join(("pacman", "--noconfirm", "-Sy", *words)), check=check)


def test_pacman_installs_and_upgrades_from_the_repository(arch: Root, publisher: Publisher) -> None:
    publisher.publish()
    serve(arch, publisher)
    sync(arch)
    for number in (1, 2):
        publisher.publish_release(publisher.stage(number), number)
        serve(arch, publisher)
        sync(arch, "--refresh", NAME)
        assert installed(arch) == str(number)
    assert f"{NAME} 1:2+0.1.0-1" in arch.run("pacman", "-Q").stdout
    assert CONTENTS.lstrip("/") in online(arch, f"pacman -Fy; pacman -Fl {NAME}").stdout
    assert "a release for a test" in arch.run("pacman", "-Si", NAME).stdout


@pytest.mark.parametrize("name", ["penguindome.db", "penguindome.db.sig", f"{NAME}-1:1+0.1.0-1-x86_64.pkg.tar.zst"])
def test_pacman_refuses_what_was_tampered_with(arch: Root, publisher: Publisher, name: str) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    serve(arch, publisher)
    path = arch.at(f"{PLACE}/arch/{name}")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert sync(arch, NAME, check=False).status == 1
    assert not arch.at(CONTENTS).exists()


def test_pacman_refuses_another_key(arch: Root, publisher: Publisher) -> None:
    other = Publisher.of(publisher.paths, publisher.keyring, publisher.keyring.generate("somebody else"))
    other.publish_release(other.stage(1), 1)
    serve(arch, publisher)
    assert sync(arch, NAME, check=False).status == 1
    assert not arch.at(CONTENTS).exists()


def test_the_databases_are_what_repo_add_makes_of_the_same_package(publisher: Publisher, tmp_path: Path) -> None:
    """Without the sums of MD5, which newer versions leave out, and the signature, which they leave beside it."""
    import subprocess
    import tarfile

    repo_add = require_program("repo-add")
    publisher.publish_release(publisher.stage(1), 1)
    (package,) = (publisher.current / "arch").glob("*.zst")
    copy = shutil.copy(package, tmp_path)
    subprocess.run([repo_add, "--quiet", tmp_path / "penguindome.db.tar.gz", copy], check=True, capture_output=True)
    for database in ("penguindome.db", "penguindome.files"):
        made = []
        for place in (publisher.current / "arch", tmp_path):
            with tarfile.open(place / f"{database}.tar.gz") as archive:
                files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
                made.append({name: sections(file.read().decode()) for name, file in files.items() if file is not None})
        assert made[0] == made[1]


def sections(text: str) -> dict[str, str]:
    found = dict(part.split("\n", 1) for part in text.strip("\n").split("\n\n"))
    return {name: value for name, value in found.items() if name not in ("%MD5SUM%", "%PGPSIG%")}
