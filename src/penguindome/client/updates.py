"""Asking the server what is new, and taking what is signed: a manifest, a release, and actions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from penguindome.client import installed, rotation_following, trust
from penguindome.client.enrolment import note_refusal
from penguindome.client.errors import Refused
from penguindome.client.exchange import note_failure, note_success
from penguindome.client.version import package_kind, package_version
from penguindome.errors import PenguinDomeError
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.context import Client

log = get_logger(__name__)


def holdings(client: Client) -> dict[str, Any]:
    """What this client has, for the server to say what is newer: with a poll, and with each report."""
    held = installed.in_force(client)
    return {"old_release": held.release if held else 0, "manifest_sha256": held.sha256 if held else None}


def question(client: Client, held: Mapping[str, Any]) -> dict[str, Any]:
    """The data of `update`, for a client that has what `holdings` said."""
    kind = package_kind(client.paths.client_code)
    return {**held, "package_version": package_version(), "package_kind": kind}


def ask(client: Client) -> bool:
    """Ask for news and take them; says whether something was updated.

    Raises ServerError when there was no answer, which is remembered. A manifest that may not be taken is logged,
    remembered, and leaves what is in force.
    """
    held = holdings(client)

    def body(_: datetime) -> dict[str, Any]:
        return question(client, held)

    try:
        answer = client.exchange.ask("update", body, client.identity.device_key.sign)
    except PenguinDomeError as error:
        note_failure(client.state, error, now=client.clock(), seed=client.identity.client_id)
        if isinstance(error, Refused):
            note_refusal(client.state, error)
        client.save()
        raise
    client.note_contact()
    note_success(client.state)
    client.state.enrolment, client.state.enrolment_message = "enrolled", ""
    updated = take(client, answer)
    client.save()
    return updated


def take(client: Client, answer: object) -> bool:
    """Take what an answer to `update`, or the `update` part of an answer to `submit`, holds; says whether something was
    updated.
    """
    if not isinstance(answer, dict):
        return False
    rotation_following.follow(client, answer)
    status = answer.get("status")
    client.state.update_status = status if status in ("current", "out-of-date") else ""
    updated = _take_offered_release(client, answer.get("release"))
    updated = updated or _take_offered_manifest(client, answer.get("manifest"))
    if not answer.get("patches") and not client.state.actions_held_back:
        return updated
    from penguindome.client import actions

    return actions.take(client, answer.get("patches")) or updated


def _take_offered_release(client: Client, offered: object) -> bool:
    """Begin the move to what is offered; says whether it turned out to be what is installed already, and is in force
    now.
    """
    if offered is None and not (client.paths.client_state / "update.json").exists():
        return False
    from penguindome.client import offers

    held = installed.in_force(client)
    offers.take(client, offered, held_release=held.release if held else 0)
    if offered is None:
        return False
    from penguindome.client import adoption

    if not adoption.adopt(client):
        return False
    offers.take(client, None, held_release=0)
    return True


def _take_offered_manifest(client: Client, offered: object) -> bool:
    if not isinstance(offered, dict):
        return False
    text, signature = offered.get("text"), offered.get("signature")
    if not isinstance(text, str) or not isinstance(signature, str):
        return _refuse(client, "it is not in a form that this version knows")
    return _take_manifest(client, text, signature)


def _take_manifest(client: Client, text: str, signature: str) -> bool:
    from penguindome.client import adoption

    state, held = client.state, installed.in_force(client)
    try:
        manifest = trust.accept(
            text.encode(), signature.encode(), client.identity.server_certificate, held=held,
            highest_release=state.highest_release, went_back_to=state.went_back_to,
            installed=adoption.installed_release(client.paths),
            now=trust.later(client.clock(), state.newest_signed_at),
        )  # fmt: skip
    except PenguinDomeError as error:
        return _refuse(client, error.message)
    if held is not None and manifest.sha256 == held.sha256:
        return False
    adoption.put_in_force(client, manifest, text, signature)
    return True


def _refuse(client: Client, why: str) -> bool:
    log.error("the server's manifest was refused: {}", why)
    client.state.last_error = f"the server's manifest was refused: {why}"
    client.state.last_error_hint = "tell the administrator; what was in force before stays so"
    client.state.last_error_at = client.clock()
    return False
