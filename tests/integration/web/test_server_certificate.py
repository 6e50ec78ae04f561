"""`GET server_certificate`, and what a running server does when root gives it another key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import requests

from penguindome import json, manifest, rotation
from penguindome.files import write_atomically
from penguindome.openpgp import Certificate, DeviceKey
from penguindome.times import utc_now
from web_server import PREFIX, Server, refused, until

AUTOMATIC: dict[str, Any] = {"enrolment__policy": "automatic", "enrolment__automatic_ranges": ["127.0.0.0/8"]}


def shown(server: Server) -> dict[str, Any]:
    return dict(requests.get(f"{server.url}{PREFIX}server_certificate", timeout=60).json())


def rotate(server: Server) -> None:
    """What `penguindome keys rotate server` leaves in `releases/`."""
    old, server.server_key = server.server_key, DeviceKey.generate("server")
    text = rotation.build(old.certificate, server.server_key.certificate, issued_at=utc_now())
    path = server.paths.releases / "statements.json"
    known = json.loads_plain(path.read_bytes())["statements"] if path.exists() else []
    added = {"text": text.decode(), "signature": old.sign(text).decode()}
    write_atomically(path, json.dumps({"statements": [*known, added]}), mode=0o644)
    write_atomically(server.paths.releases / "server.asc", server.server_key.certificate.text, mode=0o644)


def sign_manifest(server: Server, signer: DeviceKey) -> None:
    (server.paths.root / "tree/plugins").mkdir(parents=True, exist_ok=True)
    (server.paths.root / "tree/plugins/x").write_text(str(utc_now()))
    now = utc_now()
    text = manifest.build(
        server.paths.root / "tree", ["plugins/x"], kind="release", release=0, issued_at=now,
        expires_at=now + timedelta(days=9),
    )  # fmt: skip
    write_atomically(server.paths.releases / "manifest.json.asc", signer.sign(text), mode=0o644)
    write_atomically(server.paths.releases / "manifest.json", text, mode=0o644)


def test_anybody_is_shown_the_certificate_of_the_server_key_and_no_more(server: Server) -> None:
    server.start()
    answer = requests.get(f"{server.url}{PREFIX}server_certificate", timeout=60)
    assert answer.status_code == 200
    assert answer.json().keys() == {"server_certificate", "statements"}
    assert answer.json()["statements"] == []
    certificate = Certificate.from_text(answer.json()["server_certificate"])
    assert certificate.fingerprint == server.server_key.certificate.fingerprint
    assert "PRIVATE" not in answer.text
    refused(requests.post(f"{server.url}{PREFIX}server_certificate", timeout=60), 405, "method-not-allowed")


def test_every_worker_notices_a_new_key_without_a_restart_and_shows_the_whole_chain(server: Server) -> None:
    first = server.server_key.certificate
    server.start(workers=2, **AUTOMATIC)
    device = server.enrolled()
    assert device.update().json()["server_key"] == first.fingerprint
    rotate(server)
    rotate(server)
    newest = server.server_key.certificate.fingerprint
    # Each request may come to another worker; that all of them know it shows in many that agree.
    until(lambda: all(device.update().json()["server_key"] == newest for _ in range(20)), what="the new key")
    answers = [shown(server) for _ in range(20)]
    assert {Certificate.from_text(answer["server_certificate"]).fingerprint for answer in answers} == {newest}
    assert {rotation.follow(first, answer["statements"]).fingerprint for answer in answers} == {newest}
    assert device.submit().json()["update"]["server_key"] == newest
    assert len(server.workers()) == 2
    assert "ERROR" not in server.log()


def test_a_manifest_is_handed_out_only_with_the_signature_of_the_key_of_now(server: Server) -> None:
    old = server.server_key
    server.start(workers=1, **AUTOMATIC)
    device = server.enrolled()
    rotate(server)
    until(lambda: device.update().json()["server_key"] == server.server_key.certificate.fingerprint, what="the key")
    sign_manifest(server, old)
    until(lambda: device.update() and "is not handed to clients" in server.log(), what="refusal")
    assert "manifest" not in device.update().json()
    sign_manifest(server, server.server_key)
    signed = until(lambda: device.update().json().get("manifest"), what="the manifest")
    server.server_key.certificate.verify(signed["text"].encode(), signed["signature"].encode())


def test_a_damaged_certificate_or_chain_leaves_what_was_read_before(server: Server) -> None:
    server.start(workers=1, **AUTOMATIC)
    rotate(server)
    before = until(lambda: (answer := shown(server))["statements"] and answer, what="the chain")
    write_atomically(server.paths.releases / "server.asc", "nonsense", mode=0o644)
    write_atomically(server.paths.releases / "statements.json", '{"statements": [7]}', mode=0o644)
    until(lambda: shown(server) and server.log().count("stays in force") >= 2, what="the complaints")
    assert shown(server) == before


def test_a_new_enrolment_key_ends_the_old_one_without_a_restart(server: Server) -> None:
    server.start(workers=1, **AUTOMATIC)
    old, server.enrolment_key = server.enrolment_key, DeviceKey.generate("enrolment")
    write_atomically(server.paths.releases / "enrolment.asc", server.enrolment_key.certificate.text, mode=0o644)
    device = server.device()
    until(lambda: device.enroll().status_code == 200, what="the new enrolment key")
    assert server.device("other").enroll(signer=old).status_code == 401
