"""What a client does when its server has another key: follow the chain, or refuse and say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from client_peer import Fault, Machine, Peer
from penguindome.openpgp import DeviceKey
from penguindome.times import utc_now


def pinned(machine: Machine) -> str:
    return machine.client().identity.server_certificate.fingerprint


def now(peer: Peer) -> str:
    return peer.server_key.certificate.fingerprint


def publish_changed(machine: Machine, *, signer: DeviceKey | None = None) -> None:
    machine.plugin("hello.sh", f'#!/bin/sh\necho \'{{"said": "{utc_now()}"}}\'\n')
    machine.peer.publish(machine.paths.client_code, signer=signer)


def last_report(peer: Peer) -> dict[str, Any]:
    return dict(peer.reports[-1]["plugins"]["penguindome"])


def test_a_hint_in_an_answer_leads_to_the_new_key_within_the_same_exchange(enrolled: Machine, peer: Peer) -> None:
    peer.rotate()
    publish_changed(enrolled)
    enrolled.minute()
    assert pinned(enrolled) == now(peer)
    assert (peer.endpoints(), peer.looked_up) == (["update", "submit"], ["server_certificate"])
    assert last_report(peer) == {**last_report(peer), "server_key": now(peer), "manifest": "ok", "verification": []}


def test_a_machine_that_slept_through_two_rotations_follows(enrolled: Machine, peer: Peer) -> None:
    peer.rotate()
    peer.rotate()
    enrolled.minute()
    assert pinned(enrolled) == now(peer)
    assert peer.looked_up == ["server_certificate"]


def test_a_signature_by_an_unknown_key_is_reason_enough_to_look_for_a_chain(enrolled: Machine, peer: Peer) -> None:
    peer.rotate()
    peer.server_key_hint = None
    enrolled.minute()
    assert pinned(enrolled) == now(peer)


def test_what_was_in_force_stays_so_without_the_old_signature_being_good_for_anything_new(
    enrolled: Machine, peer: Peer
) -> None:
    old = peer.rotate()
    peer.signed_manifest = None
    enrolled.minute()
    assert pinned(enrolled) == now(peer)
    enrolled.minute(now=True)
    assert last_report(peer)["manifest"] == "ok"
    assert peer.reports[-1]["plugins"]["hello"] == {"said": "hello"}
    before = (enrolled.paths.client_state / "manifest.signed.json").read_bytes()
    publish_changed(enrolled, signer=old)
    client = enrolled.minute()
    assert "manifest was refused" in client.state.last_error
    assert (enrolled.paths.client_state / "manifest.signed.json").read_bytes() == before


def test_nothing_is_fetched_while_the_key_is_the_pinned_one(enrolled: Machine, peer: Peer) -> None:
    peer.server_key_hint = now(peer)
    publish_changed(enrolled)
    enrolled.minute()
    assert peer.looked_up == []


def _with_a_gap(peer: Peer) -> None:
    for _ in range(3):
        peer.rotate()
    del peer.statements[1]


def _forged(peer: Peer) -> None:
    peer.rotate(signer=DeviceKey.generate("thief"))


def _without_statements(peer: Peer) -> None:
    peer.rotate()
    peer.statements.clear()


def _leading_back(peer: Peer) -> None:
    first = peer.rotate()
    second, peer.server_key = peer.server_key, first
    peer.rotate()
    peer.statements.pop()
    from penguindome import rotation

    text = rotation.build(second.certificate, first.certificate, issued_at=utc_now())
    peer.statements.append({"text": text.decode(), "signature": second.sign(text).decode()})


def _nonsense(peer: Peer) -> None:
    peer.rotate()
    peer.statements[:] = [None, 7, {"text": 1}]


@pytest.mark.parametrize("spoil", [_with_a_gap, _forged, _without_statements, _leading_back, _nonsense])
def test_a_chain_that_does_not_hold_changes_nothing_is_reported_and_shown(
    enrolled: Machine, peer: Peer, spoil: Callable[[Peer], None]
) -> None:
    before = pinned(enrolled)
    files = {path.name for path in enrolled.paths.client_state.iterdir()}
    spoil(peer)
    enrolled.minute(now=True)
    assert pinned(enrolled) == before
    assert {path.name for path in enrolled.paths.client_state.iterdir()} == files
    assert last_report(peer)["server_key"] == before
    assert last_report(peer)["server_key_problem"]
    status = enrolled.run("status").stdout.decode()
    assert f"another key ({peer.server_key_hint})" in status
    assert "Reports are delivered all the same" in status


def test_a_chain_that_was_refused_is_not_asked_for_every_minute_and_is_followed_once_it_is_whole(
    enrolled: Machine, peer: Peer
) -> None:
    peer.rotate()
    statement = peer.statements.pop()
    for _ in range(3):
        enrolled.minute()
        enrolled.later(minutes=1)
    assert peer.looked_up == ["server_certificate"]
    peer.statements.append(statement)
    enrolled.later(minutes=10)
    assert enrolled.minute().state.rotation_problem == ""
    assert pinned(enrolled) == now(peer)
    assert "another key" not in enrolled.run("status").stdout.decode()


def test_a_hint_that_was_a_lie_is_forgotten_when_the_server_names_our_key_again(enrolled: Machine, peer: Peer) -> None:
    peer.server_key_hint = "A" * 40
    assert enrolled.minute().state.rotation_problem
    peer.server_key_hint = now(peer)
    assert enrolled.minute().state.rotation_problem == ""


def test_a_server_that_went_back_to_an_older_key_is_not_followed(enrolled: Machine, peer: Peer) -> None:
    """As after a restore from a backup that is older than the rotation."""
    old = peer.rotate()
    enrolled.minute()
    newest = pinned(enrolled)
    peer.server_key, peer.server_key_hint, peer.statements = old, old.certificate.fingerprint, []
    peer.signed_manifest = None
    client = enrolled.minute(now=True)
    assert pinned(enrolled) == newest
    assert "no chain of statements leads" in client.state.rotation_problem
    assert last_report(peer)["manifest"] == "ok"


@pytest.mark.parametrize("fault", [Fault(503), Fault(drop=True), Fault(200, b"<html>")])
def test_statements_that_cannot_be_fetched_are_fetched_in_the_next_minute(
    enrolled: Machine, peer: Peer, fault: Fault
) -> None:
    peer.rotate()
    peer.on_request = lambda endpoint: peer.faults.append(fault) if endpoint == "server_certificate" else None
    before = pinned(enrolled)
    enrolled.collect()
    assert enrolled.minute().spool.waiting() == []
    assert pinned(enrolled) == before
    peer.on_request = lambda endpoint: None
    enrolled.minute()
    assert pinned(enrolled) == now(peer)


def test_a_crash_between_the_two_files_leaves_the_old_key_pinned_and_the_next_minute_follows(
    enrolled: Machine, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import penguindome.client.identity as module

    peer.rotate()
    real = module.write_atomically

    def dies(path: Any, *arguments: Any, **keywords: Any) -> None:
        if path.name == "server.asc":
            raise KeyboardInterrupt
        real(path, *arguments, **keywords)

    before = pinned(enrolled)
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_atomically", dies)
        with pytest.raises(KeyboardInterrupt):
            enrolled.minute()
    assert pinned(enrolled) == before
    enrolled.minute(now=True)
    assert pinned(enrolled) == now(peer)
    assert last_report(peer)["manifest"] == "ok"


def test_another_server_by_force_leaves_nothing_of_the_old_ones_keys(enrolled: Machine, peer: Peer) -> None:
    peer.rotate()
    enrolled.minute()
    former = enrolled.paths.client_state / "server-former.json"
    assert former.exists()
    from penguindome.client.installation import set_up

    bundle = peer.bundle(server_certificate=DeviceKey.generate("other").certificate.text)
    set_up(enrolled.client(), bundle, force=True)
    assert not former.exists()
