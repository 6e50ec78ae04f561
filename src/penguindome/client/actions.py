"""Taking signed actions: what this machine accepts, once, and what it answers.

Each action that the server offers is held to these rules, in this order:
1. size, signature by the pinned certificate, and form (`Action.load`);
2. one whose id is known was accepted before: it is not done again, and its result is told again;
3. it names this machine, by id and host name both, and has not expired, judged by the later of the local clock and the
   newest signed time (`require_for`); where the clock or the host name alone say so, it waits, unanswered, and is
   looked at again when it is offered again;
4. what came beside it is exactly what it names (`require_contents`).
What breaks a rule is logged and remembered for `status`. The server is answered `failed` only when the signature was
right and the action names this client: nobody can make us speak about an action that is not ours. Patches are applied
at once; commands and wipes are accepted, which means that they are on disk, and are run by `runner`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from penguindome.actions import (
    COMMAND_FILE,
    LARGEST_CONTENTS,
    Action,
    ActionRefused,
    ActionWaits,
    require_contents,
    require_for,
)
from penguindome.client import held_back, overlay
from penguindome.client.action_records import Record, Records
from penguindome.client.errors import NoSpace
from penguindome.errors import InvalidData, PenguinDomeError, SettingsError, SignatureError
from penguindome.logging import get_logger
from penguindome.openpgp import ClockSkew

if TYPE_CHECKING:
    from penguindome.client.context import Client

MOST_AT_ONCE = 500

log = get_logger(__name__)


def take(client: Client, offered: object) -> bool:
    """Take the actions of an answer; says whether a patch was applied. For the holder of the client's lock.

    One that cannot be taken does not keep the others from being taken. Raises nothing for what is offered.
    """
    offers = offered[:MOST_AT_ONCE] if isinstance(offered, list) else []
    records = client.records
    records.prune(client.state.newest_signed_at)
    patched = False
    for offer in offers:
        shown = _shown_id(offer)
        try:
            patched = _take_one(client, records, offer) or patched
        except NoSpace as error:
            log.error("the action {} waits: {}", shown, error.message)
        except ClockSkew as error:
            # Nothing is wrong with it but the time: it is looked at again when the clock is right.
            log.warning("the action {} waits: {}; is this machine's clock right?", shown, error.message)
        except PenguinDomeError as error:
            log.error("the action {} was refused: {}", shown, error.message)
            records.note_refusal(shown, error.message, client.clock())
        except OSError as error:
            log.error("the action {} waits: {}", shown, error)
    unknown = {shown for shown in map(_shown_id, offers) if shown in client.state.actions_held_back}
    held_back.keep_only(client, {*records.open_ids(), *(each for each in unknown if not records.knows(each))})
    return patched


def _take_one(client: Client, records: Records, offer: object) -> bool:
    """Take one action. Raises what the rules refuse, when the server is not to be answered."""
    text, signature = _parts(offer)
    try:
        action = Action.load(text, signature, client.identity.server_certificate)
    except ActionRefused as error:
        # Its signature is right, so it may be of a newer server's kind.
        action_id = _addressed(client, text)
        if action_id is None or records.knows(action_id):
            raise
        _answer_failed(client, records, Record(action_id, "unknown", client.clock()), error)
        return False
    if _shown_id(offer) != action.id:
        raise ActionRefused(f"the {action.kind} {action.id} was offered under another id")
    state = client.state
    state.newest_signed_at = max(action.issued_at, state.newest_signed_at or action.issued_at)
    if records.knows(action.id):
        _answer_again(client, records, action)
        return False
    record = _record(client, action, signature)
    try:
        require_for(
            action, client_id=client.identity.client_id, hostname=client.identity.hostname,
            now=client.clock(), newest_signed_at=state.newest_signed_at,
        )  # fmt: skip
        contents = _contents(action, offer)
        require_contents(action, contents)
        return _accept(client, records, record, action, contents)
    except ActionWaits as error:
        held_back.hold(client, action.id, error.message)
        return False
    except (ActionRefused, SettingsError) as error:
        if all(target.client_id != client.identity.client_id for target in action.targets):
            raise
        _answer_failed(client, records, record, error)
        return False


def _accept(client: Client, records: Records, record: Record, action: Action, contents: Mapping[str, bytes]) -> bool:
    if action.kind == "patch":
        applied = _patch(client, action, record.signature.encode(), contents)
        # The overlay keeps its text.
        record.text = record.signature = ""
        record.conclude("done", None, finished_at=client.clock())
        records.save(record)
        return applied
    if action.kind == "command":
        records.keep_file(action.id, contents[COMMAND_FILE])
    records.save(record)
    log.info("the {} {} was accepted", action.kind, action.id)
    return False


def _patch(client: Client, action: Action, signature: bytes, contents: Mapping[str, bytes]) -> bool:
    from penguindome.client import installed

    state_directory = client.paths.client_state
    manifest = installed.load(state_directory, client.identity.server_certificate)
    if manifest is None:
        raise PenguinDomeError("there is no signed manifest yet over which it could be laid")
    present = overlay.load(state_directory, client.identity.accepted_by, client.identity.client_id)
    if present is not None and any(each.id == action.id for each in present.actions):
        # A crash came between the overlay and the record.
        client.state.collect_requested = True
        return False
    overlay.apply(
        state_directory, action, signature, contents, manifest=manifest, overlay=present,
        check=lambda generation: _check_settings(client, generation),
    )  # fmt: skip
    client.state.collect_requested = True
    client.reread_settings()
    client.save()
    log.info("the patch {} was applied: {}", action.id, ", ".join([*action.files, *action.parameters["remove"]]))
    return True


def _check_settings(client: Client, generation: Path) -> None:
    from penguindome.client.settings import check_overlay

    if (generation / "settings").is_dir():
        check_overlay(client.paths, generation)


def _answer_failed(client: Client, records: Records, record: Record, error: PenguinDomeError) -> None:
    log.error("the action {} was refused: {}", record.id, error.message)
    records.note_refusal(record.id, error.message, client.clock())
    record.text = record.signature = ""
    record.conclude("failed", error.message, finished_at=client.clock())
    records.save(record)


def _answer_again(client: Client, records: Records, action: Action) -> None:
    """The server offers what it was told about already, or what is being worked on."""
    if records.is_open(action.id):
        return
    record = records.load(action.id)
    if record is None:
        record = _record(client, action, b"")
        record.text = ""
        record.conclude("failed", "what became of it is not known any more: its record was damaged")
        records.save(record)
    else:
        records.reopen(record)


def _record(client: Client, action: Action, signature: bytes) -> Record:
    return Record(
        action.id, action.kind, client.clock(), expires_at=action.expires_at, text=action.data.decode(),
        signature=signature.decode(), title=action.parameters.get("name", action.kind),
        attempts=action.parameters.get("attempts"),
    )  # fmt: skip


def _parts(offer: object) -> tuple[bytes, bytes]:
    text = offer.get("text") if isinstance(offer, dict) else None
    signature = offer.get("signature") if isinstance(offer, dict) else None
    if not isinstance(text, str) or not isinstance(signature, str):
        raise InvalidData("it is not in a form that this version knows")
    try:
        return text.encode(), signature.encode("ascii")
    except UnicodeEncodeError as error:
        raise SignatureError("it holds characters that cannot have been signed") from error


def _contents(action: Action, offer: object) -> dict[str, bytes]:
    """The contents beside an action, each within the size that it names before it is decoded."""
    given = offer.get("contents") if isinstance(offer, dict) else None
    encoded = {} if given is None else given
    if not isinstance(encoded, dict) or set(encoded) != set(action.files):
        raise ActionRefused(f"the {action.kind} {action.id} came with other files than it names")
    if sum(len(text) for text in encoded.values() if isinstance(text, str)) > LARGEST_CONTENTS * 3 // 2:
        raise ActionRefused(f"the {action.kind} {action.id} came with contents larger than it may have")
    try:
        return {name: base64.b64decode(text, validate=True) for name, text in encoded.items()}
    except (binascii.Error, ValueError, TypeError) as error:
        raise ActionRefused(f"the {action.kind} {action.id} came with contents that are not base64") from error


def _addressed(client: Client, text: bytes) -> str | None:
    """The id of a signed text that is no action for this version, if it is one, and names this client."""
    from penguindome import json

    try:
        content = json.loads_plain(text)
        targets, action_id = content["targets"], content["id"]
        ours = any(target["client_id"] == client.identity.client_id for target in targets)
    except (InvalidData, LookupError, TypeError):
        return None
    right = isinstance(action_id, str) and len(action_id) == 32 and set(action_id) <= set("0123456789abcdef")
    return action_id if ours and right else None


def _shown_id(offer: object) -> str:
    name = offer.get("id") if isinstance(offer, dict) else None
    return ascii(name)[1:-1][:64] if isinstance(name, str) else "without id"
