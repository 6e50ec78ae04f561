"""Signed actions over the wire, and what an attacker who may write whatever he likes into the database makes of them.

`taken` is the judge: what it takes, a client would carry out.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from action_material import KINDS, Signer, taken
from penguindome import json
from penguindome.actions import Action, ActionRefused, Target
from penguindome.errors import SignatureError
from penguindome.openpgp import DeviceKey
from penguindome.times import utc_now
from penguindome_server.action_ends import cancel, tidy
from penguindome_server.action_records import deliveries_of, find_batch
from penguindome_server.enrolment import revoke
from web_server import Device, Server, refused, until

HOUR = timedelta(hours=1)


@dataclass
class Machine:
    """A device, as the client on it would judge what it is handed."""

    device: Device
    signer: Signer

    @property
    def target(self) -> Target:
        return Target(self.device.client_id, self.device.hostname)

    def offers(self) -> list[dict[str, Any]]:
        """What it is handed with its next poll."""
        answer = self.device.update()
        assert answer.status_code == 200, answer.text
        found = json.loads(answer.content)["patches"]
        assert isinstance(found, list)
        return found

    def handed(self, action_id: str) -> dict[str, Any]:
        """The offer of this action, which must come."""

        def wanted() -> dict[str, Any] | None:
            return next((offer for offer in self.offers() if offer["id"] == action_id), None)

        found = until(wanted, what="delivery")
        assert isinstance(found, dict)
        return found

    def all_handed(self) -> list[dict[str, Any]]:
        """All that it is handed. Something must be: a worker may not know yet that anything waits, and then says so."""
        found = until(self.offers, what="delivery")
        assert isinstance(found, list)
        return found

    def takes(self, offer: Mapping[str, Any], *, after: timedelta = timedelta(0)) -> Action:
        """The action, if the client takes it."""
        return taken(offer, self.signer.key.certificate, self.target, utc_now() + after)[0]

    def tell(self, action_id: Any, **result: Any) -> Any:
        data = self.device.data("acknowledge_patch", id=action_id, result={"status": "done", **result})
        return self.device.send("acknowledge_patch", data)

    def overwrite(self, collection: str, key: str, **values: Any) -> None:
        """As the attacker: change a document in the database."""
        found = self.signer.store.collection(collection)
        after = found.update(key, lambda document: None if document is None else {**document, **values}).after
        assert after is not None, f"there is no {key} in {collection}"

    def put(self, collection: str, document: dict[str, Any]) -> None:
        """As the attacker: add a document."""
        self.signer.store.collection(collection).insert({k: v for k, v in document.items() if k != "_version"})

    def record(self, action_id: str) -> dict[str, Any]:
        found = self.signer.store.collection("patches").get(action_id)
        assert found is not None
        return found


@pytest.fixture
def signer(shared_server: Server) -> Signer:
    return Signer(shared_server.store, utc_now(), shared_server.server_key)


@pytest.fixture
def machine(shared_server: Server, signer: Signer) -> Machine:
    return Machine(shared_server.enrolled(f"host-{secrets.token_hex(4)}"), signer)


@pytest.fixture
def other(shared_server: Server, signer: Signer) -> Machine:
    return Machine(shared_server.enrolled(f"host-{secrets.token_hex(4)}"), signer)


@pytest.mark.parametrize("kind", KINDS)
def test_an_action_is_handed_out_with_polls_and_reports_until_its_result_is_told(machine: Machine, kind: str) -> None:
    action_id = machine.signer.queue(machine.target, kind=kind)
    assert machine.takes(machine.handed(action_id)).kind == kind
    (offer,) = until(lambda: machine.device.submit().json()["update"]["patches"], what="delivery with a report")
    assert machine.takes(offer).id == action_id
    assert machine.tell(action_id).json() == {"status": "ok"}
    assert machine.tell(action_id).json() == {"status": "ok"}
    until(lambda: machine.offers() == [], what="the end of the delivery")
    assert machine.signer.delivery(action_id, machine.device.client_id)["result"] == {"status": "done"}


def test_contents_of_eight_megabytes_travel(machine: Machine) -> None:
    content = secrets.token_bytes(8 << 20)
    offer = machine.handed(machine.signer.queue(machine.target, files={"plugins/large": (content, 0o755)}))
    _action, contents = taken(offer, machine.signer.key.certificate, machine.target, utc_now())
    assert contents == {"plugins/large": content}


def test_a_command_is_tried_again_until_it_has_ended(machine: Machine) -> None:
    action_id = machine.signer.queue(machine.target, kind="command")
    machine.handed(action_id)
    assert machine.tell(action_id, status="trying", attempt=1, exit_status=3, output="no\n").status_code == 200
    assert machine.offers() == []
    assert machine.tell(action_id, attempt=2, exit_status=0, output="yes\n").status_code == 200
    delivery = machine.signer.delivery(action_id, machine.device.client_id)
    assert (delivery["state"], delivery["result"]["output"]) == ("done", "yes\n")


@pytest.mark.parametrize(
    "result", [None, [], "done", {}, {"status": "delivered"}, {"status": ["done"]}, {"status": {}}]
)
def test_a_result_that_is_none_is_refused(machine: Machine, result: Any) -> None:
    action_id = machine.signer.queue(machine.target)
    data = machine.device.data("acknowledge_patch", id=action_id, result=result)
    refused(machine.device.send("acknowledge_patch", data), 422, "invalid")
    assert machine.signer.delivery(action_id, machine.device.client_id)["state"] == "pending"


@pytest.mark.parametrize("name", [{"$gt": ""}, {"$ne": 1}, ["x"], None, "", "x\0", "*"])
def test_no_operator_in_place_of_an_id_ends_somebodys_action(machine: Machine, other: Machine, name: Any) -> None:
    mine, his = machine.signer.queue(machine.target), machine.signer.queue(other.target)
    assert machine.tell(name).status_code in (404, 422)
    assert machine.tell(his).status_code == 404
    for action_id, owner in ((mine, machine), (his, other)):
        assert machine.signer.delivery(action_id, owner.device.client_id)["state"] == "pending"


def test_a_client_that_is_revoked_is_handed_nothing_any_more(machine: Machine) -> None:
    action_id = machine.signer.queue(machine.target)
    machine.handed(action_id)
    revoke(machine.signer.store, machine.device.client_id, who="tester", now=utc_now())
    until(lambda: machine.device.update().status_code == 403, what="the revocation")
    assert machine.signer.delivery(action_id, machine.device.client_id)["state"] == "cancelled"


# The attacker, who writes into the database.

Changes = Mapping[str, Any]


def retold(machine: Machine, action_id: str, **changes: Any) -> str:
    """The text of an action with other words in it."""
    return json.dumps({**json.loads(machine.record(action_id)["text"]), **changes})


def later_expiry(machine: Machine, _other: Machine, action_id: str) -> str:
    return retold(machine, action_id, expires_at=utc_now() + timedelta(days=80))


def more_targets(machine: Machine, other: Machine, action_id: str) -> str:
    both = [{"client_id": one.target.client_id, "hostname": one.target.hostname} for one in (machine, other)]
    return retold(machine, action_id, targets=both)


def another_path(machine: Machine, _other: Machine, action_id: str) -> str:
    text = json.loads(machine.record(action_id)["text"])
    return json.dumps({**text, "files": {"plugins/firewall": text["files"]["plugins/x"]}})


def path_above(machine: Machine, _other: Machine, action_id: str) -> str:
    text = json.loads(machine.record(action_id)["text"])
    return json.dumps({**text, "files": {"plugins/../../../../etc/cron.d/x": text["files"]["plugins/x"]}})


def another_mode(machine: Machine, _other: Machine, action_id: str) -> str:
    text = json.loads(machine.record(action_id)["text"])
    return json.dumps({**text, "files": {"plugins/x": {**text["files"]["plugins/x"], "mode": "0777"}}})


def another_hash(machine: Machine, _other: Machine, action_id: str) -> str:
    text = json.loads(machine.record(action_id)["text"])
    evil = b"#!/bin/sh\nevil\n"
    entry = {"sha256": sha256(evil).hexdigest(), "size": len(evil), "mode": "0755"}
    key = f"{action_id}:{entry['sha256']}:0000"
    piece = {"_id": key, "action_id": action_id, "data": base64.b64encode(evil).decode()}
    machine.put("action_contents", piece)
    return json.dumps({**text, "files": {"plugins/x": entry}})


def another_kind(machine: Machine, _other: Machine, action_id: str) -> str:
    return retold(machine, action_id, kind="wipe", files={}, parameters={"reason": "evil", "luks": True})


def one_space(machine: Machine, _other: Machine, action_id: str) -> str:
    return str(machine.record(action_id)["text"]) + " "


@pytest.mark.parametrize(
    "forge",
    [later_expiry, more_targets, another_path, path_above, another_mode, another_hash, another_kind, one_space],
)
def test_no_word_of_an_action_can_be_changed_in_the_database(
    machine: Machine, other: Machine, forge: Callable[[Machine, Machine, str], str]
) -> None:
    action_id = machine.signer.queue(machine.target)
    offer = machine.handed(action_id)
    text = forge(machine, other, action_id)
    machine.overwrite("patches", action_id, text=text)
    control = machine.signer.queue(machine.target, kind="command")
    handed = {found["id"]: found for found in machine.all_handed()}
    assert machine.takes(handed.pop(control)).id == control
    for found in handed.values():
        with pytest.raises(SignatureError):
            machine.takes(found)
    # A server that was taken over as well hands out what it likes.
    with pytest.raises(SignatureError):
        machine.takes({**offer, "text": text})


@pytest.mark.parametrize("evil", [b"#!/bin/sh\nevil\n", b"#!/bin/zsh", b""])
def test_no_byte_of_the_contents_can_be_changed_in_the_database(machine: Machine, evil: bytes) -> None:
    action_id = machine.signer.queue(machine.target)
    offer = machine.handed(action_id)
    (piece,) = machine.signer.store.collection("action_contents").find({"action_id": action_id})
    machine.overwrite("action_contents", piece["_id"], data=base64.b64encode(evil).decode())
    control = machine.signer.queue(machine.target, kind="command")
    assert [found["id"] for found in machine.all_handed()] == [control]
    with pytest.raises(ActionRefused):
        machine.takes({**offer, "contents": {"plugins/x": base64.b64encode(evil).decode()}})


def test_contents_of_one_action_do_not_pass_for_those_of_another(machine: Machine) -> None:
    files = {"plugins/one": (b"1", 0o644)}
    one = machine.handed(machine.signer.queue(machine.target, files=files))
    two = machine.handed(machine.signer.queue(machine.target, files={"plugins/two": (b"2", 0o644)}))
    for contents in (two["contents"], {"plugins/one": two["contents"]["plugins/two"]}, {}):
        with pytest.raises(ActionRefused):
            machine.takes({**one, "contents": contents})


def test_an_action_cannot_be_redirected_to_another_machine(machine: Machine, other: Machine) -> None:
    action_id = machine.signer.queue(machine.target)
    delivery = machine.signer.delivery(action_id, machine.device.client_id)
    stolen = {"_id": f"{action_id}:{other.device.client_id}", "client_id": other.device.client_id}
    other.put("deliveries", {**delivery, **stolen, "hostname": other.device.hostname})
    offer = other.handed(action_id)
    with pytest.raises(ActionRefused, match="another machine"):
        other.takes(offer)


def test_a_machine_that_takes_the_name_of_another_takes_none_of_its_actions(machine: Machine, other: Machine) -> None:
    action_id = machine.signer.queue(machine.target)
    delivery = machine.signer.delivery(action_id, machine.device.client_id)
    other.device.hostname = machine.device.hostname
    assert other.device.submit().status_code == 200
    stolen = {"_id": f"{action_id}:{other.device.client_id}", "client_id": other.device.client_id}
    other.put("deliveries", {**delivery, **stolen})
    with pytest.raises(ActionRefused, match="another machine"):
        other.takes(other.handed(action_id))


def test_a_host_name_forged_in_the_database_makes_what_is_signed_for_it_useless(
    machine: Machine, other: Machine
) -> None:
    """An administrator means `victim`; the attacker wrote that name over the one of another machine."""
    machine.overwrite("clients", machine.device.client_id, hostname=other.device.hostname)
    forged = Target(machine.device.client_id, other.device.hostname)
    offer = machine.handed(machine.signer.queue(forged, kind="wipe"))
    with pytest.raises(ActionRefused, match="is for this machine under the name"):
        machine.takes(offer)


def test_an_action_of_one_kind_does_not_become_one_of_another(machine: Machine) -> None:
    command = machine.signer.queue(machine.target, kind="command")
    offer = machine.handed(command)
    machine.overwrite("patches", command, kind="patch", title="patch", paths=["plugins/x"])
    machine.overwrite("deliveries", f"{command}:{machine.device.client_id}", kind="patch", paths=["plugins/x"])
    assert machine.takes(machine.handed(command)).kind == "command"
    content = offer["contents"]["command"]
    with pytest.raises(ActionRefused):
        machine.takes({**offer, "contents": {"plugins/x": content}})


def test_the_signature_of_one_action_does_not_fit_another(machine: Machine) -> None:
    one = machine.handed(machine.signer.queue(machine.target, kind="command"))
    two = machine.handed(machine.signer.queue(machine.target, kind="wipe"))
    machine.overwrite("patches", one["id"], signature=two["signature"])
    offers = {offer["id"]: offer for offer in machine.all_handed()}
    assert machine.takes(offers[two["id"]]).kind == "wipe"
    with pytest.raises(SignatureError):
        machine.takes(offers[one["id"]])


def test_an_action_of_the_attackers_own_is_not_taken(machine: Machine) -> None:
    attacker = Signer(machine.signer.store, machine.signer.now, DeviceKey.generate("attacker"))
    offer = machine.handed(attacker.queue(machine.target, kind="command"))
    with pytest.raises(SignatureError):
        machine.takes(offer)


def test_nothing_that_a_device_signed_passes_for_an_action(machine: Machine) -> None:
    forger = Signer(machine.signer.store, machine.signer.now, machine.device.key)
    offer = machine.handed(forger.queue(machine.target, kind="command"))
    with pytest.raises(SignatureError):
        machine.takes(offer)


def test_a_cancelled_action_can_be_revived_until_it_expires_and_no_longer(machine: Machine) -> None:
    action_id = machine.signer.queue(machine.target, expires_at=machine.signer.now + HOUR)
    store, key = machine.signer.store, f"{action_id}:{machine.device.client_id}"
    cancel(store, deliveries_of(store, find_batch(store, action_id, "patch")), who="tester", now=utc_now())
    machine.overwrite("deliveries", key, state="pending")
    offer = machine.handed(action_id)
    assert machine.takes(offer).id == action_id
    for collection, name in (("deliveries", key), ("patches", action_id)):
        machine.overwrite(collection, name, expires_at=utc_now() + timedelta(days=300))
    with pytest.raises(ActionRefused, match="expired"):
        machine.takes(machine.handed(action_id), after=HOUR)


def test_what_has_expired_is_not_handed_out_whatever_the_database_says(machine: Machine) -> None:
    machine.signer.now -= 2 * HOUR
    action_id = machine.signer.queue(machine.target, expires_at=machine.signer.now + HOUR)
    key = f"{action_id}:{machine.device.client_id}"
    tidy(machine.signer.store, now=utc_now())
    assert machine.signer.delivery(action_id, machine.device.client_id)["state"] == "expired"
    machine.overwrite("deliveries", key, state="pending", expires_at=utc_now() + HOUR)
    machine.overwrite("patches", action_id, state="queued", expires_at=utc_now() + HOUR)
    machine.signer.now = utc_now()
    control = machine.signer.queue(machine.target, kind="command")
    assert [offer["id"] for offer in machine.all_handed()] == [control]


def test_an_action_that_is_replayed_to_its_client_still_has_the_id_that_it_remembers(machine: Machine) -> None:
    action_id = machine.signer.queue(machine.target, kind="command")
    first = machine.handed(action_id)
    machine.tell(action_id)
    machine.overwrite("deliveries", f"{action_id}:{machine.device.client_id}", state="pending", result=None)
    assert machine.takes(machine.handed(action_id)).id == machine.takes(first).id
    # Under another id in the database it is not handed out, and under another id in the answer it is the same action.
    renamed = secrets.token_hex(16)
    record = machine.record(action_id)
    machine.put("patches", {**record, "_id": renamed, "batch": renamed, "actions": [renamed]})
    delivery = machine.signer.delivery(action_id, machine.device.client_id)
    machine.put("deliveries", {**delivery, "_id": f"{renamed}:{machine.device.client_id}", "action_id": renamed})
    assert [offer["id"] for offer in machine.all_handed()] == [action_id]
    assert machine.takes({**first, "id": renamed}).id == action_id


GARBAGE: list[Changes] = [
    {"text": None}, {"text": {"gt": ""}}, {"text": "["}, {"text": "\u20ac"}, {"text": "[" * 50_000},
    {"signature": None}, {"signature": 7}, {"state": None}, {"state": "part", "batch": "gone"},
    {"state": "part", "batch": 7},
]  # fmt: skip


@pytest.mark.parametrize("changes", GARBAGE, ids=range(len(GARBAGE)))
def test_rubbish_in_the_database_breaks_no_poll(machine: Machine, changes: Changes) -> None:
    broken = machine.signer.queue(machine.target)
    machine.overwrite("patches", broken, **changes)
    good = machine.signer.queue(machine.target, kind="command")
    assert [offer["id"] for offer in machine.all_handed()] == [good]
