"""Publishing: old or new, never a mixture, and nothing that apt or pacman would refuse."""

from __future__ import annotations

import gzip
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

import needs
from penguindome.errors import PenguinDomeError, SignatureError
from penguindome.paths import Paths
from penguindome.release import InvalidRelease
from penguindome.server_keyring import ServerKeyring
from penguindome_server.repository_index import index_times
from penguindome_tools.releases.published import verify_publication
from publication_material import NOW, Publisher, tree

INDEX = "apt/dists/stable"
PACKAGES = f"{INDEX}/main/binary-amd64"
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerKeyring, str]]:
    """A server key; making one takes longer than all else."""
    with ServerKeyring(tmp_path_factory.mktemp("keys") / "gnupg") as made:
        yield made, made.generate("PenguinDome server")


@pytest.fixture
def publisher(paths: Paths, keyring: tuple[ServerKeyring, str]) -> Publisher:
    """A server without releases."""
    return Publisher.of(paths, *keyring)


def names(publisher: Publisher, pattern: str) -> list[str]:
    return sorted(path.name for path in publisher.current.glob(pattern))


def versions(publication_directory: Path) -> tuple[list[str], list[str]]:
    """What the indices of apt and of pacman name."""
    apt = re.findall("^Version: (.*)$", (publication_directory / PACKAGES / "Packages").read_text(), re.MULTILINE)
    with tarfile.open(publication_directory / "arch/penguindome.db") as database:
        pacman = [name.partition("/")[0].removeprefix("penguindome-client-") for name in database.getnames()]
    return apt, sorted(set(pacman))


def test_a_release_is_published_whole_and_signed(publisher: Publisher) -> None:
    made = publisher.publish_release(publisher.stage(1), 1)
    assert publisher.current.resolve() == made
    verify_publication(publisher.current, publisher.certificate)
    assert versions(publisher.current) == (["1:1+0.1.0"], ["1:1+0.1.0-1"])
    assert not (publisher.paths.releases / ".staged-1").exists()
    times = index_times(publisher.current)
    assert times is not None
    assert times.expires_at - times.signed_at == timedelta(days=30)


def test_all_that_is_published_can_be_read_by_the_service_and_is_no_secret(publisher: Publisher) -> None:
    staged, before = publisher.stage(1), os.umask(0o077)
    try:
        publisher.publish_release(staged, 1)
    finally:
        os.umask(before)
    for path in publisher.current.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    assert not list(publisher.current.rglob("*.tar"))


def test_packages_are_not_copied(publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    (inside,) = (publisher.current / "apt/pool/main").iterdir()
    assert inside.samefile(publisher.paths.releases / "1" / inside.name)


def test_before_the_first_release_the_repositories_are_empty(publisher: Publisher) -> None:
    publisher.publish()
    verify_publication(publisher.current, publisher.certificate)
    assert versions(publisher.current) == ([], [])


def test_the_indices_name_the_newest_release_and_earlier_packages_can_still_be_fetched(publisher: Publisher) -> None:
    for number in (1, 2):
        publisher.install(number)
    publisher.publish(2, 1)
    assert versions(publisher.current) == (["1:2+0.1.0"], ["1:2+0.1.0-1"])
    assert len(names(publisher, "apt/pool/main/*.deb")) == 2
    assert len(names(publisher, "arch/*.zst")) == len(names(publisher, "arch/*.zst.sig")) == 2


def test_a_release_may_lack_a_kind_of_package(publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1, kinds=("deb", "tar")), 1)
    verify_publication(publisher.current, publisher.certificate)
    assert versions(publisher.current) == (["1:1+0.1.0"], [])


def test_a_canary_is_not_in_the_indices(publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    publisher.publish_release(publisher.stage(2), 1)
    assert versions(publisher.current) == (["1:1+0.1.0"], ["1:1+0.1.0-1"])
    assert (publisher.paths.releases / "2/release.json").exists()


def change_package(staged: Path) -> None:
    (package,) = staged.glob("*.deb")
    package.write_bytes(package.read_bytes()[:-1] + b"!")


def change_signature(staged: Path) -> None:
    (package,) = staged.glob("*.zst")
    (staged / f"{package.name}.sig").write_bytes(b"\x88u")


def change_description(staged: Path) -> None:
    text = (staged / "release.json").read_bytes()
    (staged / "release.json").write_bytes(text.replace(b"x86_64", b"x86_65"))


def remove_package(staged: Path) -> None:
    next(iter(staged.glob("*.deb"))).unlink()


def hide_package(staged: Path) -> None:
    next(iter(staged.glob("*.deb"))).chmod(0o600)


def show_bundle(staged: Path) -> None:
    next(iter(staged.glob("*.tar"))).chmod(0o644)


@pytest.mark.parametrize(
    "damage", [change_package, change_signature, change_description, remove_package, hide_package, show_bundle]
)
def test_a_staged_release_that_is_not_as_signed_is_not_published(
    publisher: Publisher, damage: Callable[[Path], None]
) -> None:
    publisher.publish()
    before = tree(publisher.paths.repository)
    staged = publisher.stage(1)
    damage(staged.directory)
    with pytest.raises(PenguinDomeError):
        publisher.publish_release(staged, 1)
    assert staged.directory.exists()
    assert not (publisher.paths.releases / "1").exists()
    assert tree(publisher.paths.repository) == before


def test_a_number_is_used_once(publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    with pytest.raises(InvalidRelease, match="there is a release 1 already"):
        publisher.publish_release(publisher.stage(1), 1)


def test_a_release_that_was_changed_afterwards_is_not_published_again(publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    in_force = publisher.current.resolve()
    package = next(iter((publisher.paths.releases / "1").glob("*.deb")))
    text = package.read_bytes()
    package.unlink()
    package.write_bytes(text + b"!")
    with pytest.raises(InvalidRelease, match="not what was signed"):
        publisher.publish(1)
    assert publisher.current.resolve() == in_force
    verify_publication(in_force, publisher.certificate)


@pytest.mark.parametrize(
    "name",
    [
        *(f"{INDEX}/{name}" for name in ("InRelease", "Release", "Release.gpg")),
        *(f"{PACKAGES}/{name}" for name in ("Packages", "Packages.gz")),
        *(f"arch/penguindome.{name}" for name in ("db", "db.sig", "files", "files.sig")),
        "apt/pool/main/penguindome-client_1+0.1.0_amd64.deb",
        "arch/penguindome-client-1:1+0.1.0-1-x86_64.pkg.tar.zst",
        "arch/penguindome-client-1:1+0.1.0-1-x86_64.pkg.tar.zst.sig",
    ],
)
def test_verification_sees_any_change(publisher: Publisher, name: str) -> None:
    made = publisher.publish_release(publisher.stage(1), 1)
    contents = (made / name).read_bytes()
    (made / name).unlink()
    with pytest.raises(PenguinDomeError):
        verify_publication(made, publisher.certificate)
    (made / name).write_bytes(contents[:-40] + bytes([contents[-40] ^ 1]) + contents[-39:])
    with pytest.raises(PenguinDomeError):
        verify_publication(made, publisher.certificate)


def test_verification_wants_this_key(publisher: Publisher, keyring: tuple[ServerKeyring, str]) -> None:
    other = Publisher.of(publisher.paths, keyring[0], keyring[0].generate("somebody else"))
    publisher.publish()
    with pytest.raises(SignatureError):
        verify_publication(publisher.current, other.certificate)


def test_two_publications_within_a_second_have_different_dates(publisher: Publisher) -> None:
    dates = []
    for _ in range(3):
        publisher.publish(now=NOW)
        times = index_times(publisher.current)
        assert times is not None
        dates.append(times.signed_at)
    assert dates == [NOW, NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)]


def test_indices_have_the_date_that_is_written_in_them(publisher: Publisher) -> None:
    """Readers ask for what is newer than what they have: see `publication._date_files`."""
    publisher.install(1)
    for _ in range(2):
        publisher.publish(1, now=NOW)
    times = index_times(publisher.current)
    assert times is not None
    for name in (f"{INDEX}/InRelease", f"{INDEX}/Release.gpg", f"{PACKAGES}/Packages", "arch/penguindome.db.sig"):
        assert (publisher.current / name).stat().st_mtime == times.signed_at.timestamp(), name
    assert (publisher.paths.repository / "publications/1" / PACKAGES / "Packages").stat().st_mtime == NOW.timestamp()


def test_a_clock_that_was_wrong_once_does_not_date_indices_into_the_future(publisher: Publisher) -> None:
    publisher.publish(now=NOW + 400 * DAY)
    publisher.publish(now=NOW)
    times = index_times(publisher.current)
    assert times is not None
    assert times.signed_at == NOW


def test_a_reader_with_the_index_of_before_finds_what_it_names(publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    old = (publisher.current / INDEX / "InRelease").read_text()
    publisher.publish_release(publisher.stage(2), 2, 1, now=NOW + timedelta(minutes=5))
    hashes = re.findall(r"^ ([0-9a-f]{64}) \d+ (main/\S+)$", old, re.MULTILINE)
    assert len(hashes) == 2
    for digest, name in hashes:
        by_hash = (publisher.current / INDEX / name).parent / "by-hash/SHA256" / digest
        data = by_hash.read_bytes()
        assert sha256(data).hexdigest() == digest
        plain = gzip.decompress(data) if name.endswith(".gz") else data
        filename = re.findall(b"^Filename: (.*)$", plain, re.MULTILINE)[0].decode()
        assert (publisher.current / "apt" / filename).exists()


def test_publications_stay_for_an_hour_after_they_were_replaced(publisher: Publisher) -> None:
    publications = publisher.paths.repository / "publications"
    for minutes in (0, 600, 630, 655, 665):
        publisher.publish(now=NOW + timedelta(minutes=minutes))
    # The first was replaced at 600, the second at 630.
    assert sorted(path.name for path in publications.iterdir()) == ["2", "3", "4", "5"]
    publisher.publish(now=NOW + timedelta(minutes=700))
    assert sorted(path.name for path in publications.iterdir()) == ["3", "4", "5", "6"]


def test_a_failure_leaves_what_was_in_force(publisher: Publisher) -> None:
    publisher.publish_release(publisher.stage(1), 1)
    before = publisher.current.resolve()
    with pytest.raises(InvalidRelease, match="release 2 is not whole"):
        publisher.publish(2, 1)
    assert publisher.current.resolve() == before
    publisher.publish(1)
    assert sorted(path.name for path in (publisher.paths.repository / "publications").iterdir()) == ["1", "2"]


def test_two_publish_one_after_the_other(publisher: Publisher) -> None:
    publisher.install(1)
    failures: list[BaseException] = []

    def publish() -> None:
        try:
            publisher.publish(1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert publisher.current.resolve().name == "4"
    verify_publication(publisher.current, publisher.certificate)


PUBLISH_FOR_EVER = """
import sys
from pathlib import Path
from datetime import datetime, timezone
from penguindome.server_keyring import ServerKeyring
from penguindome.paths import Paths
from penguindome_tools.releases.publication import publish
paths = Paths(Path(sys.argv[1]))
keyring = ServerKeyring(Path(sys.argv[2]))
while True:
    publish(paths, keyring, sys.argv[3], releases=[2, 1], now=datetime.now(timezone.utc))
    publish(paths, keyring, sys.argv[3], releases=[1, 2], now=datetime.now(timezone.utc))
    print(flush=True)
"""


def publishing_process(publisher: Publisher) -> subprocess.Popen[bytes]:
    words = [str(publisher.paths.root), str(publisher.keyring.home), publisher.fingerprint]
    return subprocess.Popen([sys.executable, "-c", PUBLISH_FOR_EVER, *words], stdout=subprocess.PIPE)


def test_killed_at_any_instant_one_publication_is_in_force_and_the_next_run_cleans_up(publisher: Publisher) -> None:
    for number in (1, 2):
        publisher.install(number)
    publisher.publish(1)
    chance = random.Random(5)
    for _ in range(50 if needs.testing_all() else 6):
        with publishing_process(publisher) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        verify_publication(publisher.current, publisher.certificate)
    publisher.publish(2, 1)
    verify_publication(publisher.current, publisher.certificate)
    assert versions(publisher.current) == (["1:2+0.1.0"], ["1:2+0.1.0-1"])
    left = {path.name for path in publisher.paths.repository.iterdir()}
    assert left == {"current", "publications"}
    assert all(path.name.isdigit() for path in (publisher.paths.repository / "publications").iterdir())


def read_as_apt(publisher: Publisher) -> None:
    """InRelease, index and package by three looks at what is in force, as over three connections. All offers have the
    packages of one another, as those of releases that follow each other do: what is halted is gone at once.
    """
    index = publisher.certificate.verify_text((publisher.current / INDEX / "InRelease").read_bytes()).decode()
    found = re.search(r"^ ([0-9a-f]{64}) \d+ main/binary-amd64/Packages$", index, re.MULTILINE)
    assert found
    packages = (publisher.current / PACKAGES / "by-hash/SHA256" / found[1]).read_bytes()
    assert sha256(packages).hexdigest() == found[1]
    fields = dict(re.findall("^(Filename|SHA256): (.*)$", packages.decode(), re.MULTILINE))
    assert sha256((publisher.current / "apt" / fields["Filename"]).read_bytes()).hexdigest() == fields["SHA256"]


def read_as_pacman(publisher: Publisher) -> None:
    """All over one connection, for which the server looks once at what is in force."""
    repository = publisher.current.resolve() / "arch"
    database = (repository / "penguindome.db").read_bytes()
    publisher.certificate.verify_binary(database, (repository / "penguindome.db.sig").read_bytes())
    with tarfile.open(repository / "penguindome.db") as archive:
        files = [archive.extractfile(member) for member in archive if member.name.endswith("/desc")]
        text = "".join(file.read().decode() for file in files if file is not None)
    name, digest = (re.findall(f"%{key}%\n(.*)\n", text)[0] for key in ("FILENAME", "SHA256SUM"))
    package = (repository / name).read_bytes()
    assert sha256(package).hexdigest() == digest
    publisher.certificate.verify_binary(package, (repository / f"{name}.sig").read_bytes())


def test_readers_never_see_a_mixture_while_others_publish(publisher: Publisher) -> None:
    for number in (1, 2):
        publisher.install(number)
    publisher.publish(1)
    publications = publisher.paths.repository / "publications"
    seen: set[str] = set()
    with publishing_process(publisher) as process:
        try:
            while len(seen) < (100 if needs.testing_all() else 15):
                seen.add(publisher.current.resolve().name)
                read_as_apt(publisher)
                read_as_pacman(publisher)
            assert process.poll() is None
        finally:
            process.kill()
    assert len(list(publications.iterdir())) > 10
