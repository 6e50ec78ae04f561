"""Following the server to its new key, by the chain of statements that begins at the pinned one (`rotation.py`).

Called for each answer before anything signed in it is looked at. What makes this look for a chain is a hint, and proves
nothing: the fingerprint that the answer gives as the server's key, or a signature that names a signer other than the
pinned key. What the chain proves is pinned; the keys before stay good for what is in force (`Identity.former`), and for
nothing that is new. A chain that does not lead on leaves all as it was, is logged, reported, shown by `status`, and
asked for again ten minutes later at the earliest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from penguindome.client.errors import NoSpace, ServerError
from penguindome.client.state import no_space
from penguindome.errors import PenguinDomeError, SignatureError
from penguindome.logging import get_logger
from penguindome.openpgp import Certificate, issuer_fingerprint

if TYPE_CHECKING:
    from penguindome.client.context import Client

PAUSE = timedelta(minutes=10)
_FINGERPRINT = re.compile("[0-9A-F]{40}")

log = get_logger(__name__)


def follow(client: Client, answer: dict[str, Any]) -> bool:
    """Pin the newest key that the chain leads to, if the answer hints at another than ours; says whether one was.

    Raises NoSpace when it cannot be written; then nothing was changed.
    """
    pinned, state = client.identity.server_certificate, client.state
    hint = _hint(answer, pinned)
    if hint is None:
        if answer.get("server_key") == pinned.fingerprint:
            state.rotation_problem, state.rotation_hint, state.rotation_problem_at = "", "", None
        return False
    if _is_too_soon(client, hint):
        return False
    try:
        newest = _newest(client, pinned)
    except ServerError as error:
        log.warning("the server has another key, and its statements could not be fetched: {}", error.message)
        return False
    except PenguinDomeError as error:
        _refuse(client, hint, error.message)
        return False
    _pin(client, newest)
    return True


def _hint(answer: dict[str, Any], pinned: Certificate) -> str | None:
    """The key that the server seems to have instead of ours; None when nothing points to another."""
    named = answer.get("server_key")
    if isinstance(named, str) and _FINGERPRINT.fullmatch(named) and named != pinned.fingerprint:
        return named
    ours: set[str] = set()
    for signature in _signatures(answer):
        try:
            signer = issuer_fingerprint(signature.encode("utf-8", "replace"))
        except SignatureError:
            continue
        ours = ours or {pinned.fingerprint, *pinned.signing_fingerprints}
        if signer not in ours:
            return signer
    return None


def _signatures(answer: dict[str, Any]) -> Iterator[str]:
    """The signatures of all that an answer brings."""
    patches = answer.get("patches")
    for part in (answer.get("manifest"), answer.get("release"), *(patches if isinstance(patches, list) else ())):
        signature = part.get("signature") if isinstance(part, dict) else None
        if isinstance(signature, str):
            yield signature


def _is_too_soon(client: Client, hint: str) -> bool:
    refused_at = client.state.rotation_problem_at
    if client.state.rotation_hint != hint or refused_at is None:
        return False
    return timedelta(0) <= client.clock() - refused_at < PAUSE


def _newest(client: Client, pinned: Certificate) -> Certificate:
    """Where the server's statements lead. Raises ServerError, KeyMaterialError or ChainRefused."""
    # Imported when there is something to follow: an idle minute does without.
    from penguindome import rotation

    answer = client.exchange.look_up("server_certificate")
    statements = answer.get("statements")
    newest = rotation.follow(pinned, statements if isinstance(statements, list) else [])
    if newest.fingerprint == pinned.fingerprint:
        raise rotation.ChainRefused(f"no chain of statements leads from {pinned.fingerprint} to it")
    shown = answer.get("server_certificate")
    if isinstance(shown, str):
        # The one that is served may be newer than the statement's, and say that the key was revoked since.
        Certificate.from_text(shown)
    return newest


def _refuse(client: Client, hint: str, why: str) -> None:
    state = client.state
    state.rotation_hint, state.rotation_problem, state.rotation_problem_at = hint, why, client.clock()
    log.error("the server seems to have another key, {}, which was refused: {}", hint, why)


def _pin(client: Client, newest: Certificate) -> None:
    before, state = client.identity.server_certificate.fingerprint, client.state
    try:
        client.identity.repin(newest)
    except OSError as error:
        problem = no_space(error, client.identity.directory)
        log.error("the server's new key cannot be kept: {}", problem)
        if isinstance(problem, NoSpace):
            raise problem from error
        return
    state.rotation_problem, state.rotation_hint, state.rotation_problem_at = "", "", None
    state.collect_requested = True
    client.save()
    log.warning("the server's key {} was followed to its new key {}", before, newest.fingerprint)
