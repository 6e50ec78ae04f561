"""What to do with a release that the server offers: taken when it is signed and new, refused aloud otherwise."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penguindome.client import trust, update_record
from penguindome.client.update_record import UpdateRecord
from penguindome.client.version import package_kind
from penguindome.errors import PenguinDomeError
from penguindome.files import AlreadyRunning
from penguindome.logging import get_logger
from penguindome.release import REFUSED, Description

if TYPE_CHECKING:
    from penguindome.client.context import Client

log = get_logger(__name__)


def take(client: Client, offered: object, *, held_release: int) -> None:
    """Look at what the field `release` of an answer holds, and begin the move to it if it may be moved to.

    While the watcher is at work nothing changes. Where a person installs releases, its description is kept all the
    same: it vouches for what is in the package. Raises NoSpace.
    """
    try:
        with update_record.lock(client.paths):
            before = update_record.load(client.paths) or UpdateRecord()
            judge = _judge if client.settings["update.automatic"] else _note
            after = judge(client, replace(before, waiting_release=0), offered, held_release)
            if after != before:
                update_record.save(client.paths, after)
    except AlreadyRunning:
        log.debug("an update is under way: what is offered is looked at later")


def _note(client: Client, record: UpdateRecord, offered: object, held_release: int) -> UpdateRecord:
    """The record with the description of what is offered, and that it waits, if it may be moved to."""
    try:
        description = _verified(client, offered, held_release)
    except PenguinDomeError as error:
        log.debug("what the server offers is left alone: {}", error.message)
        return record
    return replace(_described(record, description, offered), waiting_release=description.release)


def _described(record: UpdateRecord, description: Description, offered: object) -> UpdateRecord:
    signature = offered["signature"] if isinstance(offered, dict) else ""
    return replace(record, description=description.data.decode(), description_signature=signature)


def _judge(client: Client, record: UpdateRecord, offered: object, held_release: int) -> UpdateRecord:
    if record.phase in ("installing", "proving", "going-back"):
        return record
    if offered is None:
        # Withdrawn, or taken already: what was not installed yet is not going to be.
        withdrawn = record.phase in ("offered", "ready")
        phase = "done" if withdrawn else record.phase
        release = 0 if withdrawn else record.release
        return replace(record, phase=phase, release=release, refused_reason="", refused_release=0, refused_at=None)
    try:
        description = _verified(client, offered, held_release)
    except PenguinDomeError as error:
        return _refused(client, record, offered, error.message)
    package = description.packages[package_kind(client.paths.client_code)]
    record = _described(record, description, offered)
    record = replace(record, refused_reason="", refused_release=0, refused_at=None)
    if str(description.release) in record.failed:
        return record
    if record.phase in ("offered", "ready") and (record.release, record.sha256) == (
        description.release,
        package.sha256,
    ):
        return record
    log.info("release {} is offered, and will be moved to", description.release)
    signed = client.state.newest_signed_at
    client.state.newest_signed_at = max(description.issued_at, signed or description.issued_at)
    return UpdateRecord(
        phase="offered",
        release=description.release,
        version=description.version,
        kind=package_kind(client.paths.client_code),
        package=package.name,
        sha256=package.sha256,
        size=package.size,
        from_release=held_release,
        offered_at=client.clock(),
        failed=record.failed,
        kept_release=record.kept_release,
        kept_package=record.kept_package,
        kept_sha256=record.kept_sha256,
        description=record.description,
        description_signature=record.description_signature,
    )


def _verified(client: Client, offered: object, held_release: int) -> Description:
    parts: dict[str, Any] = offered if isinstance(offered, dict) else {}
    text, signature = parts.get("text"), parts.get("signature")
    if not isinstance(text, str) or not isinstance(signature, str):
        raise PenguinDomeError("it is not in a form that this version knows")
    return trust.accept_offer(
        text.encode(), signature.encode(), client.identity.server_certificate, held_release=held_release,
        highest_release=client.state.highest_release, machine=os.uname().machine,
        kind=package_kind(client.paths.client_code), now=trust.later(client.clock(), client.state.newest_signed_at),
    )  # fmt: skip


def _refused(client: Client, record: UpdateRecord, offered: object, why: str) -> UpdateRecord:
    number = offered.get("number") if isinstance(offered, dict) else None
    release = number if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 31 else 0
    reason = f"{REFUSED}{why}"
    if (record.refused_release, record.refused_reason) == (release, reason):
        return record
    log.error("the release that the server offers was refused: {}", why)
    client.state.collect_requested = True
    phase, own = (record.phase, record.release) if record.phase not in ("offered", "ready") else ("done", 0)
    return replace(
        record, phase=phase, release=own, refused_release=release, refused_reason=reason, refused_at=client.clock()
    )
