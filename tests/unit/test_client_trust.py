"""Which manifest may take the place of which."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from penguindome import manifest
from penguindome.client import installed, trust
from penguindome.errors import ManifestError, PenguinDomeError, SignatureError
from penguindome.manifest import Manifest
from penguindome.openpgp import DeviceKey

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Signer:
    tree: Path
    key: DeviceKey

    def make(
        self, *, release: int = 0, age: timedelta = DAY, life: timedelta = 10 * DAY, kind: str = "release"
    ) -> bytes:
        issued = NOW - age
        return manifest.build(self.tree, [], kind=kind, release=release, issued_at=issued, expires_at=issued + life)

    def held(self, *, release: int = 0, age: timedelta = DAY) -> Manifest:
        data = self.make(release=release, age=age)
        return Manifest.load(data, self.key.sign(data), self.key.certificate)

    def accept(self, data: bytes, held: Manifest | None = None, *, highest: int = 0, now: datetime = NOW) -> Manifest:
        return trust.accept(
            data, self.key.sign(data), self.key.certificate, held=held, highest_release=highest, now=now
        )  # fmt: skip


@pytest.fixture(scope="module")
def key() -> DeviceKey:
    return DeviceKey.generate("server")


@pytest.fixture
def signer(key: DeviceKey, tmp_path: Path) -> Signer:
    return Signer(tmp_path, key)


def test_the_first_manifest_is_taken(signer: Signer) -> None:
    assert signer.accept(signer.make()).release == 0


def test_a_newer_one_replaces_an_older_one_of_the_same_release(signer: Signer) -> None:
    assert signer.accept(signer.make(age=DAY), signer.held(age=2 * DAY)).issued_at == NOW - DAY


def test_an_older_one_of_the_same_release_is_refused(signer: Signer) -> None:
    with pytest.raises(ManifestError, match="came after"):
        signer.accept(signer.make(age=3 * DAY), signer.held(age=DAY))


def test_a_higher_release_may_have_been_issued_earlier(signer: Signer) -> None:
    assert signer.accept(signer.make(release=2, age=3 * DAY), signer.held(release=1)).release == 2


def test_a_lower_release_than_the_one_in_force_is_refused(signer: Signer) -> None:
    with pytest.raises(ManifestError, match="release 1"):
        signer.accept(signer.make(release=1), signer.held(release=2))


def test_a_lower_release_than_the_highest_ever_seen_is_refused_even_when_nothing_is_in_force(signer: Signer) -> None:
    with pytest.raises(ManifestError, match="release 4"):
        signer.accept(signer.make(release=4), highest=5)


def test_one_that_has_expired_is_refused(signer: Signer) -> None:
    with pytest.raises(ManifestError, match="expired"):
        signer.accept(signer.make(age=11 * DAY))


def test_a_clock_that_was_set_back_does_not_bring_an_expired_one_back(signer: Signer) -> None:
    now = trust.later(NOW - 365 * DAY, NOW)
    assert now == NOW
    with pytest.raises(ManifestError, match="expired"):
        signer.accept(signer.make(age=11 * DAY), now=now)


def test_a_signed_text_of_another_kind_is_no_release(signer: Signer) -> None:
    with pytest.raises(ManifestError, match="kind 'command'"):
        signer.accept(signer.make(kind="command"))


def test_one_by_another_key_is_refused_before_anything_in_it_is_looked_at(signer: Signer) -> None:
    data = b"not even JSON"
    other = DeviceKey.generate("other")
    with pytest.raises(SignatureError):
        trust.accept(data, other.sign(data), signer.key.certificate, held=None, highest_release=0, now=NOW)


def test_a_signature_over_other_bytes_is_refused(signer: Signer) -> None:
    data = signer.make()
    with pytest.raises(SignatureError):
        trust.accept(
            data + b" ", signer.key.sign(data), signer.key.certificate, held=None, highest_release=0, now=NOW
        )  # fmt: skip


def test_without_a_manifest_nothing_may_run_and_that_is_said(signer: Signer, tmp_path: Path) -> None:
    found = installed.inspect(tmp_path, tmp_path, signer.key.certificate, now=NOW, done=())
    assert found.manifest is None
    assert found.condition == "missing"
    assert "nothing runs" in found.complaints()[0]


@pytest.mark.parametrize("contents", ["", "{}", "[]", '{"text":"{}","signature":"x"}'])
def test_a_damaged_manifest_lets_nothing_run(signer: Signer, tmp_path: Path, contents: str) -> None:
    (tmp_path / installed.NAME).write_text(contents)
    found = installed.inspect(tmp_path, tmp_path, signer.key.certificate, now=NOW, done=())
    assert (found.manifest, found.condition) == (None, "invalid")
    with pytest.raises(PenguinDomeError):
        installed.load(tmp_path, signer.key.certificate)


def test_one_in_force_that_expires_stays_in_force_and_is_reported(signer: Signer, tmp_path: Path) -> None:
    data = signer.make()
    installed.keep(tmp_path, data.decode(), signer.key.sign(data).decode())
    found = installed.inspect(tmp_path, tmp_path, signer.key.certificate, now=NOW + 365 * DAY, done=())
    assert found.manifest is not None
    assert found.condition == "expired"
    assert "has expired" in found.complaints()[0]


def test_a_one_time_command_that_ran_and_is_gone_is_no_problem_but_a_changed_one_is(
    signer: Signer, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "commands").mkdir(parents=True)
    (tree / "commands/once.sh").write_text("#!/bin/sh\n")
    data = manifest.build(
        tree, ["commands/once.sh"], kind="release", release=0, issued_at=NOW - DAY, expires_at=NOW + DAY
    )  # fmt: skip
    installed.keep(tmp_path, data.decode(), signer.key.sign(data).decode())
    digest = signer.accept(data).files["commands/once.sh"].sha256
    (tree / "commands/once.sh").unlink()

    def problems(*done: tuple[str, str]) -> list[str]:
        found = installed.inspect(tmp_path, tree, signer.key.certificate, now=NOW, done=done)
        return [problem.reason for problem in found.problems]

    assert problems(("commands/once.sh", "1" * 64), ("commands/once.sh", digest)) == []
    assert problems() == ["missing"]
    assert problems(("commands/once.sh", "0" * 64)) == ["missing"]
    (tree / "commands/once.sh").write_text("#!/bin/sh\necho other\n")
    assert problems(("commands/once.sh", "1" * 64), ("commands/once.sh", digest)) == ["changed"]


def test_after_going_back_the_release_that_was_gone_back_to_may_be_signed_anew_and_no_other(signer: Signer) -> None:
    def accept(number: int, age: timedelta) -> Manifest:
        data = signer.make(release=number, age=age)
        return trust.accept(
            data, signer.key.sign(data), signer.key.certificate, held=signer.held(release=4, age=2 * DAY),
            highest_release=5, now=NOW, went_back_to=4,
        )  # fmt: skip

    assert accept(4, DAY).release == 4
    for number, age in ((3, DAY), (4, 3 * DAY)):
        with pytest.raises(ManifestError, match="came after"):
            accept(number, age)
    assert accept(5, DAY).release == 5
    assert accept(6, DAY).release == 6
