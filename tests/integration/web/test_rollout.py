"""What a running server tells clients about releases: the one that is theirs, as it was signed, and none that fails."""

from __future__ import annotations

import secrets
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from penguindome import json, manifest, release
from penguindome.manifest import Manifest
from penguindome.openpgp import DeviceKey
from penguindome.release import Description, PackageFile
from penguindome.times import utc_now
from web_server import Device, Server, until

FUTURE = timedelta(days=100)


def sign(path: Path, text: bytes, key: DeviceKey) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.asc").write_bytes(key.sign(text))
    path.write_bytes(text)


def manifest_text(server: Server, number: int) -> bytes:
    tree = server.paths.root / secrets.token_hex(4)
    (tree / "plugins").mkdir(parents=True)
    (tree / "plugins/one").write_text(f"{number}")
    now = utc_now()
    return manifest.build(
        tree, ["plugins/one"], kind="release", release=number, issued_at=now, expires_at=now + FUTURE
    )  # fmt: skip


def put(server: Server, number: int, *, key: DeviceKey | None = None, stored: bool = True, **values: Any) -> None:
    """A signed release, for everybody unless `values` say otherwise."""
    key, now = key or server.server_key, utc_now()
    directory = server.paths.releases / str(number)
    text = manifest_text(server, number)
    package = PackageFile(f"penguindome-client_{number}_amd64.deb", "0" * 64, 1)
    sign(directory / "manifest.json", text, key)
    described = release.build(
        release=number, version=f"{number}+0.1.0", machine="x86_64", issued_at=now, expires_at=now + FUTURE,
        manifest_sha256=sha256(text).hexdigest(), packages={"deb": package},
    )  # fmt: skip
    sign(directory / "release.json", described, key)
    if not stored:
        return
    document = {
        "_id": f"{number:09d}", "release": number, "created_at": now, "stage": {"percent": 0, "clients": []},
        "promoted_at": now, "halted_at": None, "pruned_at": None, **values,
    }  # fmt: skip
    server.store.collection("releases").insert(document)


@pytest.fixture
def device(any_server: Server) -> Device:
    any_server.start(enrolment__policy="automatic", enrolment__automatic_ranges=["127.0.0.0/8"])
    return any_server.enrolled("laptop")


def polled(device: Device, held: int = 0, **values: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(device.update(old_release=held, **values).content)
    return answer


def offered(device: Device, held: int = 0) -> int | None:
    found = polled(device, held)["release"]
    return None if found is None else int(found["number"])


def test_a_client_is_told_its_release_as_root_signed_it(device: Device) -> None:
    server = device.server
    put(server, 3)
    until(lambda: offered(device) == 3)
    answer = polled(device)
    assert (answer["status"], answer["current_release"]) == ("out-of-date", 3)
    told = answer["release"]
    description = Description.load(told["text"].encode(), told["signature"].encode(), server.server_key.certificate)
    assert description.release == 3
    assert answer["server_key"] == server.server_key.certificate.fingerprint
    assert polled(device, 3)["status"] == "current"
    assert [offered(device, held) for held in (2, 3, 4)] == [3, None, None]


def test_reports_are_answered_alike(device: Device) -> None:
    put(device.server, 3)
    until(lambda: offered(device) == 3)
    assert device.submit(old_release=0, manifest_sha256=None).json()["update"] == device.update().json()


def test_a_canary_is_told_to_its_clients_alone(device: Device) -> None:
    other = device.server.enrolled("other")
    put(device.server, 1)
    put(device.server, 2, promoted_at=None, stage={"percent": 0, "clients": [device.client_id]})
    until(lambda: offered(device) == 2)
    assert offered(other) == 1


def test_a_release_that_is_not_here_or_not_signed_by_the_server_key_is_not_told(device: Device) -> None:
    server = device.server
    put(server, 1)
    named = {"promoted_at": None, "stage": {"percent": 0, "clients": [device.client_id]}}
    put(server, 2, key=DeviceKey.generate("somebody who has the database and the disk"), **named)
    server.store.collection("releases").insert({"_id": "000000003", "release": 3, "created_at": utc_now(), **named})
    until(lambda: offered(device) == 1)
    put(server, 3, stored=False)
    until(lambda: offered(device) == 3)


def test_the_description_of_another_release_is_not_handed_out_as_this_one(device: Device) -> None:
    put(device.server, 1)
    put(device.server, 5)
    until(lambda: offered(device) == 5)
    (device.server.paths.releases / "5").rename(device.server.paths.releases / "9")
    device.server.store.collection("releases").insert(
        {"_id": "000000009", "release": 9, "created_at": utc_now(), "promoted_at": utc_now()}
    )
    until(lambda: "describes release 5" in device.server.log() if offered(device) else True)
    assert polled(device)["current_release"] != 9


def test_a_client_is_handed_the_manifest_of_exactly_its_release_when_it_has_another(device: Device) -> None:
    server = device.server
    base = manifest_text(server, 0)
    sign(server.paths.releases / "manifest.json", base, server.server_key)
    for number in (1, 2):
        put(server, number)
    until(lambda: offered(device) == 2)
    held = sha256((server.paths.releases / "1/manifest.json").read_bytes()).hexdigest()
    assert "manifest" not in polled(device, 1, manifest_sha256=held)
    assert Manifest.from_content(*parsed(polled(device, 1))).release == 1
    assert Manifest.from_content(*parsed(polled(device, 0))).release == 0
    assert "manifest" not in polled(device, 7)
    assert "manifest" not in polled(device, (1 << 63) - 1)


def test_a_manifest_that_was_signed_anew_is_handed_out_in_place_of_the_first(device: Device) -> None:
    server = device.server
    put(server, 1)
    held = sha256((server.paths.releases / "1/manifest.json").read_bytes()).hexdigest()
    assert "manifest" not in polled(device, 1, manifest_sha256=held)
    renewed = manifest_text(server, 1)
    sign(server.paths.releases / "renewed/1/manifest.json", renewed, server.server_key)
    told = until(lambda: polled(device, 1, manifest_sha256=held).get("manifest"))
    assert told["text"] == renewed.decode()
    # Of several processes each looks for itself, twice a second.
    until(lambda: "manifest" not in polled(device, 1, manifest_sha256=sha256(renewed).hexdigest()))


def parsed(answer: dict[str, Any]) -> tuple[Any, bytes]:
    text = answer["manifest"]["text"]
    return json.loads(text), text.encode()


def failed(number: int) -> dict[str, Any]:
    update = {"release": number, "status": "failed", "reason": "dpkg: error", "finished_at": utc_now()}
    return {"penguindome": {"release": number - 1, "manifest": "ok", "update": update}}


def test_a_release_that_fails_on_its_canaries_is_halted_before_anybody_else_gets_it(device: Device) -> None:
    server = device.server
    devices = [device, *(server.enrolled(f"canary-{number}") for number in range(3))]
    put(server, 1)
    stage = {"percent": 0, "clients": [each.client_id for each in devices]}
    put(server, 2, promoted_at=None, stage=stage)
    until(lambda: offered(device) == 2)
    devices[0].submit(plugins=failed(2))
    assert offered(devices[3]) == 2
    answer = devices[1].submit(plugins=failed(2))
    assert answer.json()["update"]["current_release"] == 1
    # Other processes learn of it within a second.
    until(lambda: all(offered(each) == 1 for each in devices for _ in range(5)))
    document = server.store.collection("releases").get("000000002")
    assert document is not None
    assert document["halted_by"] == "server"
    assert "release 2 is halted: it failed on 2 of the 2 clients that tried it" in server.log()
    opened = server.store.collection("issues").find({"client_id": devices[0].client_id, "state": "open"})
    assert [issue["name"] for issue in opened] == ["update-failed"]
