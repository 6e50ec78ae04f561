"""Following a chain of statements from the pinned server key to the newest."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pysequoia
import pytest

from needs import require_program
from penguindome import json
from penguindome.openpgp import Certificate, DeviceKey
from penguindome.rotation import LARGEST, MOST, ChainRefused, build, follow
from penguindome.times import utc_now


@lru_cache
def key(name: str) -> DeviceKey:
    return DeviceKey.generate(name)


def signed(text: bytes, signer: DeviceKey) -> dict[str, Any]:
    return {"text": text.decode(), "signature": signer.sign(text).decode()}


def statement(old: str, new: str, *, signer: str | None = None) -> dict[str, Any]:
    text = build(key(old).certificate, key(new).certificate, issued_at=utc_now())
    return signed(text, key(signer or old))


def changed(old: str, new: str, /, **changes: Any) -> dict[str, Any]:
    content = json.loads(build(key(old).certificate, key(new).certificate, issued_at=utc_now()))
    content = {name: value for name, value in {**content, **changes}.items() if value is not ...}
    return signed(json.dumps(content).encode(), key(old))


def end(start: str, *statements: dict[str, Any]) -> str:
    found = follow(key(start).certificate, statements).fingerprint
    return next(name for name in "ABCDE" if key(name).certificate.fingerprint == found)


CHAIN = (("A", "B"), ("B", "C"), ("C", "D"))


@pytest.mark.parametrize("start", ["A", "B", "C", "D"])
def test_the_chain_leads_from_every_key_of_it_to_the_newest(start: str) -> None:
    assert end(start, *(statement(*pair) for pair in CHAIN)) == "D"


def test_without_a_statement_that_begins_at_ours_ours_stays_the_newest() -> None:
    assert end("E", *(statement(*pair) for pair in CHAIN)) == "E"
    assert end("E") == "E"


def test_what_is_not_signed_by_the_key_before_it_is_refused_wherever_it_comes() -> None:
    for forged in (statement("B", "E", signer="E"), statement("A", "C")):
        with pytest.raises(ChainRefused, match="not signed by the key before it"):
            end("A", statement("A", "B"), forged)


def test_a_forged_statement_in_our_name_is_refused() -> None:
    """Its signature says that it is by ours, and is over another text."""
    forged = {**statement("A", "B"), "text": statement("A", "E")["text"]}
    with pytest.raises(ChainRefused, match="not signed"):
        end("A", forged)


def test_a_chain_with_a_gap_is_refused() -> None:
    with pytest.raises(ChainRefused, match="not signed by the key before it"):
        end("A", statement("A", "B"), statement("C", "D"))


def test_a_loop_is_refused() -> None:
    with pytest.raises(ChainRefused, match="leads back"):
        end("A", statement("A", "B"), statement("B", "A"))


def test_what_the_key_before_ours_said_of_ours_changes_nothing() -> None:
    """The old key may be in wrong hands: whoever has followed already is not led elsewhere by it."""
    assert end("B", statement("A", "B"), statement("A", "E")) == "B"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"old": "0" * 40}, "about another key"),
        ({"new": "0" * 40}, "another than the one that it names"),
        ({"certificate": "no certificate"}, "cannot be used"),
        ({"certificate": 1}, "no text"),
        ({"format": 2}, "format"),
        ({"format": True}, "format"),
        ({"kind": "release"}, "another kind"),
        ({"issued_at": "yesterday"}, "point in time"),
        ({"issued_at": ...}, "keys"),
        ({"more": 1}, "keys"),
    ],
)
def test_a_signed_statement_that_is_not_as_it_must_be_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ChainRefused, match=reason):
        end("A", changed("A", "B", **changes))


def test_a_private_key_in_the_place_of_a_certificate_is_refused() -> None:
    with pytest.raises(ChainRefused, match="cannot be used"):
        end("A", changed("A", "B", certificate=key("B").text))


@pytest.mark.parametrize(
    "broken",
    [{}, {"text": "x"}, {"text": 1, "signature": "x"}, "x", None, {"text": "x" * (LARGEST + 1), "signature": ""}],
)
def test_what_is_no_statement_at_all_is_refused(broken: Any) -> None:
    with pytest.raises(ChainRefused):
        end("A", broken)


def test_more_statements_than_there_can_be_are_refused_unread() -> None:
    with pytest.raises(ChainRefused, match="more than"):
        end("A", *[{}] * (MOST + 1))


def dead_certificate(kind: str, home: Path) -> Certificate:
    """A certificate that has expired, or was revoked, by now."""
    home.mkdir(mode=0o700)
    past = ["--faked-system-time", f"{utc_now() - timedelta(days=10):%Y%m%dT%H%M%S}!"] if kind == "expired" else []

    def gpg(*words: str, data: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", "--pinentry-mode", "loopback", *past]
        return subprocess.run([*command, *words], input=data, capture_output=True, check=True, timeout=30).stdout

    gpg("--quick-generate-key", "gone", "ed25519", "sign", "1d" if kind == "expired" else "0")
    if kind == "revoked":
        (revocation,) = (home / "openpgp-revocs.d").glob("*.rev")
        gpg("--import", data=revocation.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))
    certificate = Certificate(pysequoia.Cert.from_bytes(gpg("--export")))
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, timeout=30)
    return certificate


@pytest.mark.parametrize("kind", ["expired", "revoked"])
def test_a_chain_that_leads_to_or_through_a_dead_certificate_is_refused(kind: str, tmp_path: Path) -> None:
    require_program("gpg")
    dead = dead_certificate(kind, tmp_path / "gnupg")
    through = changed("A", "B", new=dead.fingerprint, certificate=dead.text)
    with pytest.raises(ChainRefused, match=f"cannot be used.*{kind}"):
        end("A", through, statement("B", "C"))
    # Nor does what its own key signed count, where it is the pinned one.
    with pytest.raises(ChainRefused, match=f"not signed by the key before it.*{kind}"):
        follow(_With(dead, key("A").certificate), [statement("A", "B")])


class _With(Certificate):
    """A dead certificate that claims the signing keys of another, so that its own state is what decides."""

    def __init__(self, dead: Certificate, claimed: Certificate) -> None:
        super().__init__(dead._cert)
        self._claimed = claimed.signing_fingerprints

    __slots__ = ("_claimed",)

    @property
    def signing_fingerprints(self) -> tuple[str, ...]:
        return self._claimed
