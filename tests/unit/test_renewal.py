"""Signing anew before anything expires: when it is due, and that nothing but dates and signatures changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from penguindome import json
from penguindome.manifest import Manifest
from penguindome.paths import Paths
from penguindome.release import Description
from penguindome.server_keyring import ServerKeyring
from penguindome_server.published import PublishedFile, certificate
from penguindome_server.repository_index import index_times
from penguindome_server.signed_expiry import expiring
from penguindome_server.signed_files import SignedReleases
from penguindome_tools.releases.own_record import Standing
from penguindome_tools.releases.published import verify_publication
from penguindome_tools.releases.release_files import load_release
from penguindome_tools.releases.renewal import Renewal, _recover
from publication_material import NOW, Publisher, tree

DAY = timedelta(days=1)
TEXTS = ("release.json", "manifest.json")


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerKeyring, str]]:
    with ServerKeyring(tmp_path_factory.mktemp("keys") / "gnupg") as made:
        yield made, made.generate("PenguinDome server")


@pytest.fixture
def publisher(paths: Paths, keyring: tuple[ServerKeyring, str]) -> Publisher:
    return Publisher.of(paths, *keyring)


@pytest.fixture
def published(publisher: Publisher) -> Publisher:
    """A server that published release 1."""
    publisher.publish_release(publisher.stage(1), 1)
    return publisher


def renewal(
    publisher: Publisher,
    now: datetime,
    offered: Sequence[int] = (1,),
    canaries: Sequence[int] = (),
    withheld: Sequence[int] = (),
    **options: bool,
) -> Renewal:
    standing = Standing(list(offered), list(withheld), list(canaries))
    return Renewal(publisher.paths, publisher.signer, standing, now=now, valid_for=timedelta(days=30), **options)


def signed_anew(publisher: Publisher, now: datetime, **options: bool) -> list[str]:
    made = renewal(publisher, now, **options)
    done = made.run()
    assert made.problems == []
    return done


def handed_out(publisher: Publisher) -> tuple[Description, Manifest]:
    """What the server hands to clients of release 1."""
    server_key = PublishedFile(publisher.paths.releases / "server.asc", certificate)
    releases = SignedReleases(publisher.paths.releases, server_key)
    description, manifest = releases.description(1), releases.manifest(1)
    assert description is not None
    assert manifest is not None
    return description.description, Manifest.load(
        manifest.text.encode(), manifest.signature.encode(), publisher.certificate
    )


def test_nothing_is_signed_while_half_of_its_life_is_left(published: Publisher) -> None:
    before = tree(published.paths.root)
    assert not renewal(published, NOW + 14 * DAY).due()
    assert signed_anew(published, NOW + 14 * DAY) == []
    after = {name: data for name, data in tree(published.paths.root).items() if "publication.lock" not in name}
    assert after == {name: data for name, data in before.items() if "publication.lock" not in name}


def test_the_indices_are_signed_anew_at_half_of_their_life(published: Publisher) -> None:
    now = NOW + 15 * DAY
    assert renewal(published, now).due()
    assert signed_anew(published, now) == ["the indices of the repositories"]
    verify_publication(published.current, published.certificate)
    times = index_times(published.current)
    assert times is not None
    assert (times.signed_at, times.expires_at) == (now, now + 30 * DAY)
    assert not renewal(published, now).due()


def test_the_texts_of_a_release_are_dated_anew_at_half_of_their_life(published: Publisher) -> None:
    now = NOW + 183 * DAY
    before, packages = handed_out(published), tree(published.paths.releases / "1")
    assert signed_anew(published, now)[:2] == ["the description of release 1", "the manifest of release 1"]
    description, manifest = handed_out(published)
    for old, new in zip(before, (description, manifest), strict=True):
        assert new.issued_at == now
        assert new.expires_at == now + 365 * DAY
        assert {**json.loads(new.data), "issued_at": 0, "expires_at": 0} == {
            **json.loads(old.data), "issued_at": 0, "expires_at": 0,
        }  # fmt: skip
    # The packages, and the manifest that is in them, are what they were.
    after = tree(published.paths.releases / "1")
    assert {name for name in after if after[name] != packages.get(name)} == {"release.json", "release.json.asc"}
    load_release(published.paths.releases / "1", 1, published.certificate)
    assert not renewal(published, now).due()
    assert signed_anew(published, now + 183 * DAY)[:2] == ["the description of release 1", "the manifest of release 1"]


def test_a_canary_is_renewed_too(published: Publisher) -> None:
    published.install(2)
    made = renewal(published, NOW + 183 * DAY, canaries=[2, 1])
    assert "the manifest of release 2" in made.run()


def test_all_is_signed_anew_when_that_is_asked_for(published: Publisher) -> None:
    assert len(signed_anew(published, NOW + DAY, force=True)) == 3


def test_the_repositories_follow_the_store_when_the_server_halted_a_release(published: Publisher) -> None:
    published.publish_release(published.stage(2), 2, 1)
    made = renewal(published, NOW, offered=[1])
    assert made.due()
    assert made.run() == ["the indices of the repositories"]
    packages = (published.current / "apt/dists/stable/main/binary-amd64/Packages").read_text()
    assert "Version: 1:1+0.1.0\n" in packages
    assert "Version: 1:2+0.1.0\n" not in packages


@pytest.mark.parametrize(
    "name",
    ["arch/penguindome.db", "arch/penguindome.files.sig", "apt/dists/stable/Release.gpg", "apt/dists/stable/InRelease"],
)
def test_a_publication_that_is_damaged_is_made_anew(published: Publisher, name: str) -> None:
    (published.current / name).write_bytes(b"torn")
    assert renewal(published, NOW).due()
    assert signed_anew(published, NOW) == ["the indices of the repositories"]
    verify_publication(published.current, published.certificate)


def test_while_the_store_withholds_a_release_nothing_older_is_dated_anew(published: Publisher) -> None:
    published.install(3)
    before = handed_out(published)
    made = renewal(published, NOW + 183 * DAY, canaries=[3, 1], withheld=[2])
    assert made.run() == ["the description of release 3", "the manifest of release 3"]
    assert handed_out(published) == before
    assert renewal(published, NOW + 183 * DAY, canaries=[3, 1], withheld=[2], force=True).run() == [
        "the description of release 3", "the manifest of release 3",
    ]  # fmt: skip


def test_before_the_first_release_the_repositories_are_made(publisher: Publisher) -> None:
    made = renewal(publisher, NOW, offered=[])
    assert made.due()
    assert made.run() == ["the indices of the repositories"]
    verify_publication(publisher.current, publisher.certificate)
    assert not renewal(publisher, NOW, offered=[]).due()


def test_with_another_key_everything_is_signed_by_that(published: Publisher) -> None:
    keyring = published.keyring
    new = Publisher.of(published.paths, keyring, keyring.generate("the next server key"))
    renewal(published, NOW + 183 * DAY).run()
    done = renewal(new, NOW + 183 * DAY).run()
    assert sum("by the key in use" in name for name in done) == 5
    load_release(new.paths.releases / "1", 1, new.certificate)
    verify_publication(new.current, new.certificate)
    handed_out(new)


def test_what_no_key_of_this_server_signed_is_left_alone_and_told(published: Publisher) -> None:
    text = published.paths.releases / "1/release.json"
    text.write_bytes(text.read_bytes().replace(b"x86_64", b"x86_65"))
    before = text.read_bytes()
    made = renewal(published, NOW + 15 * DAY)
    assert made.due()
    assert made.run() == []
    assert text.read_bytes() == before
    assert all("was not signed by a key of this server" in problem or "not" in problem for problem in made.problems)
    assert "release 1" in made.problems[0]


def test_one_release_that_is_damaged_keeps_nothing_else_from_being_renewed(published: Publisher) -> None:
    published.install(2)
    (published.paths.releases / "2/release.json").unlink()
    made = renewal(published, NOW + 15 * DAY, canaries=[2, 1])
    assert made.run() == ["the indices of the repositories"]
    (problem,) = made.problems
    assert "release 2" in problem


@pytest.mark.parametrize("stop", range(5))
def test_interrupted_anywhere_a_text_and_its_signature_fit_again_afterwards(
    published: Publisher, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stop` counts the changes to the directory before the process dies."""
    from penguindome_tools.releases import renewal as module

    path = published.paths.releases / "1/release.json"
    old = path.read_bytes()
    text = old.replace(b"x86_64", b"x86_65")
    left = [stop]

    class Died(BaseException):
        pass

    def step() -> None:
        if not left[0]:
            raise Died
        left[0] -= 1

    write, rename = module.write_atomically, Path.rename
    monkeypatch.setattr(module, "write_atomically", lambda *words, **named: (step(), write(*words, **named)))
    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "rename", lambda self, target: (step(), rename(self, target))[1])
        try:
            module._replace_pair(path, text, published.signer.armoured(text))
        except Died:
            pass
    _recover(path, [published.certificate])
    published.certificate.verify(path.read_bytes(), path.with_name("release.json.asc").read_bytes())
    assert path.read_bytes() in (old, text)
    assert not list(path.parent.glob("*.new"))


def names(publisher: Publisher, now: datetime) -> list[str]:
    found = expiring(publisher.paths, [1], now=now)
    return [thing.name for thing in found.things] + list(found.broken)


def test_the_audit_sees_what_was_not_renewed_in_the_published_files(published: Publisher) -> None:
    assert names(published, NOW + 19 * DAY) == []
    assert names(published, NOW + 21 * DAY) == ["the indices of the repositories"]
    assert set(names(published, NOW + 250 * DAY)) == {
        "the indices of the repositories", "the description of release 1", "the manifest of release 1",
    }  # fmt: skip
    renewal(published, NOW + 250 * DAY).run()
    assert names(published, NOW + 250 * DAY) == []


def test_the_audit_sees_an_index_that_cannot_be_read(published: Publisher) -> None:
    index = published.current / "apt/dists/stable/InRelease"
    index.write_text("nothing of use")
    (problem,) = names(published, NOW)
    assert problem.startswith("the indices of the repositories: ")


def test_a_server_that_has_published_nothing_has_nothing_that_expires(publisher: Publisher) -> None:
    assert names(publisher, NOW + 1000 * DAY) == []
