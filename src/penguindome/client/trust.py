"""Which signed manifest may take the place of which, and which release may be moved to. Pure: no files, no network, no
clock of its own.

The order of the rules, each of which refuses:
1. the signature is by the pinned server certificate, over exactly these bytes (`Manifest.load`, before anything is
   parsed);
2. the text is a manifest of a kind and format that this version knows, with paths that stay inside the tree
   (`Manifest.load`);
3. it is a release's, and not some other signed text (an action's) in the place of one;
4. its release is not below the highest that this client ever accepted, unless it is the one that the client went back
   to when a higher one did not work here; and one that came over the network is of the release that is installed:
   whoever hands it out cannot pair the files of one release with the manifest of another;
5. it was not issued before the one in force, if both are of the same release;
6. it has not expired, judged by the later of the local clock and the newest signed time seen.

In the place of its own signature, a manifest may have one over the description of its release, which names its SHA-256
(`load_described`): packages that were made before the server's key was rotated hold a signature of the key before.

The signed description of a release that the server offers is held to the same rules (`accept_offer`), and to some of
its own: it is above the release in force, for this kind of processor, and has a package of the kind that this
client was installed from.

What is installed keeps running when it expires: a client that stops reporting helps nobody. It says so in each report.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from penguindome.errors import ManifestError
from penguindome.manifest import Manifest
from penguindome.openpgp import Certificate
from penguindome.times import isoformat

if TYPE_CHECKING:
    from penguindome.release import Description

KIND = "release"


def accept(
    text: bytes,
    signature: bytes,
    certificate: Certificate,
    *,
    held: Manifest | None,
    highest_release: int,
    now: datetime,
    went_back_to: int | None = None,
    installed: int | None = None,
) -> Manifest:
    """The manifest in `text`, if it may replace `held`. Raises SignatureError, InvalidData or ManifestError.

    `installed` is the release whose files lie here, for a manifest that did not come with them.
    """
    candidate = Manifest.load(text, signature, certificate)
    return judge(
        candidate, held=held, highest_release=highest_release, now=now, went_back_to=went_back_to, installed=installed
    )


def load_described(text: bytes, description: bytes, signature: bytes, certificate: Certificate) -> Manifest:
    """The manifest that a signed description of its release names. Raises SignatureError, InvalidRelease or
    ManifestError.
    """
    from penguindome.release import Description

    described = Description.load(description, signature, certificate)
    if sha256(text).hexdigest() != described.manifest_sha256:
        raise ManifestError(f"the manifest is not the one of release {described.release} that was described")
    manifest = Manifest.of_trusted(text)
    if manifest.release != described.release:
        raise ManifestError(f"a manifest of release {manifest.release} came for release {described.release}: refused")
    return manifest


def judge(
    candidate: Manifest,
    *,
    held: Manifest | None,
    highest_release: int,
    now: datetime,
    went_back_to: int | None = None,
    installed: int | None = None,
) -> Manifest:
    """A manifest that is shown to be the server's, if it may replace `held` by rules 3 to 6. Raises ManifestError."""
    if candidate.kind != KIND:
        raise ManifestError(f"a manifest of the kind {candidate.kind[:40]!r} came in the place of a release's: refused")
    highest = max(highest_release, held.release if held else 0)
    if candidate.release < highest and candidate.release != went_back_to:
        raise ManifestError(f"a manifest of release {candidate.release} came after one of release {highest}: refused")
    if installed is not None and candidate.release not in (installed, held.release if held else installed):
        raise ManifestError(
            f"a manifest of release {candidate.release} came, and release {installed} is installed: refused"
        )
    if held is not None and candidate.release == held.release and candidate.issued_at < held.issued_at:
        raise ManifestError(
            f"a manifest of {isoformat(candidate.issued_at)} came after one of {isoformat(held.issued_at)}: refused"
        )
    if has_expired(candidate, now):
        raise ManifestError(f"a manifest that expired {isoformat(candidate.expires_at)} came: refused")
    return candidate


def accept_offer(
    text: bytes,
    signature: bytes,
    certificate: Certificate,
    *,
    held_release: int,
    highest_release: int,
    machine: str,
    kind: str,
    now: datetime,
) -> Description:
    """The description in `text`, if this client may move to the release. Raises SignatureError or InvalidRelease."""
    # Imported here: an idle minute is offered nothing.
    from penguindome.release import Description, InvalidRelease

    offer = Description.load(text, signature, certificate)
    if offer.release < highest_release or offer.release <= held_release:
        raise InvalidRelease(
            f"release {offer.release} was offered after release {max(highest_release, held_release)}: refused"
        )
    if has_expired(offer, now):
        raise InvalidRelease(f"release {offer.release}, whose description expired {isoformat(offer.expires_at)}, came")
    if offer.machine != machine:
        raise InvalidRelease(f"release {offer.release} is for {offer.machine}, and this machine is {machine}: refused")
    if kind not in offer.packages:
        raise InvalidRelease(f"release {offer.release} has no package of the kind {kind}")
    return offer


def has_expired(signed: Manifest | Description, now: datetime) -> bool:
    """Whether the time of a manifest or a description is over at `now`."""
    return signed.expires_at <= now


def later(clock: datetime, newest_signed: datetime | None) -> datetime:
    """The time by which expiry is judged: a clock that was set back does not bring old manifests back."""
    return clock if newest_signed is None or newest_signed < clock else newest_signed
