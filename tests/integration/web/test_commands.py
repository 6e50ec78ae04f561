"""`penguindome enrolment` and `penguindome clients`, typed as an administrator types them, beside a site's store."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from needs import require_program
from penguindome import json
from penguindome.bundle import Bundle
from penguindome.openpgp import DeviceKey
from penguindome.paths import ROOT_VARIABLE
from penguindome.times import utc_now
from penguindome_server.addresses import Networks
from penguindome_server.enrolment_requests import Applicant, Policy, request
from web_server import Server


@pytest.fixture
def site(server: Server) -> Server:
    """A site whose server does not run."""
    server.write_settings()
    server.paths.keys.mkdir(parents=True)
    (server.paths.keys / "enrolment.key").write_text(server.enrolment_key.text)
    return server


def type_command(site: Server, *words: str, status: int = 0, typed: str = "") -> str:
    """Run `penguindome`, which must end with `status`; what it said (stdout, or stderr if it failed)."""
    environment = {**os.environ, ROOT_VARIABLE: str(site.paths.root)}
    done = subprocess.run(
        [sys.executable, "-m", "penguindome_tools.cli", *words],
        env=environment, input=typed, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def ask(site: Server, hostname: str, mode: str = "approve", **values: Any) -> str:
    """Let a machine ask for enrolment; its client id."""
    key = DeviceKey.generate("device").certificate
    own = {"machine_id": os.urandom(16).hex(), "token": None, "by_token_alone": False, "sent_at": utc_now(), **values}
    applicant = Applicant(
        client_id=key.fingerprint, signing_key=key.fingerprint[::-1], public_key=key.text, hostname=hostname, **own
    )
    policy = Policy(mode, Networks(["127.0.0.0/8"]), 100, 100)
    request(site.store, policy, applicant, address="127.0.0.1", now=utc_now())
    return key.fingerprint


def test_the_bundle_is_the_owners_alone_and_holds_what_a_machine_needs(site: Server, tmp_path: Path) -> None:
    file = tmp_path / "site.bundle"
    type_command(site, "enrolment", "export", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    bundle = Bundle.from_text(file.read_bytes())
    assert bundle.server_url == site.url
    assert bundle.server_certificate == site.server_key.certificate.text
    assert bundle.enrolment_key == site.enrolment_key.text
    assert (bundle.token, bundle.ca_certificate) == (None, None)


def test_a_bundle_with_a_token_holds_no_key_and_the_token_is_listed_until_used(site: Server) -> None:
    bundle = Bundle.from_text(type_command(site, "enrolment", "export", "--token", "-"))
    assert bundle.enrolment_key is None
    assert bundle.token is not None
    (row,) = json.loads(type_command(site, "enrolment", "list", "--json"))
    assert (row["state"], row["used_by"]) == ("good", None)
    client_id = ask(site, "one", token=bundle.token, by_token_alone=True)
    (row,) = json.loads(type_command(site, "enrolment", "list", "--json"))
    assert (row["state"], row["used_by"]) == ("used", client_id)
    assert bundle.token not in type_command(site, "enrolment", "list")


def test_a_token_is_printed_once_and_lives_as_long_as_asked(site: Server) -> None:
    assert len(type_command(site, "enrolment", "token", "--expires", "2d").strip()) >= 40
    for lifetime in ("0s", "91d", "soon"):
        type_command(site, "enrolment", "token", "--expires", lifetime, status=2)


def test_a_self_signed_tls_certificate_goes_into_the_bundle_and_its_key_does_not(site: Server, tmp_path: Path) -> None:
    openssl, both = require_program("openssl"), tmp_path / "both.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", both,
         "-out", tmp_path / "tls.crt", "-subj", "/CN=site", "-days", "2"],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    both.write_bytes(both.read_bytes() + (tmp_path / "tls.crt").read_bytes())
    site.write_settings(tls__certificate=str(both))
    bundle = Bundle.from_text(type_command(site, "enrolment", "export", "-"))
    assert bundle.ca_certificate is not None
    assert "BEGIN CERTIFICATE" in bundle.ca_certificate
    assert "PRIVATE KEY" not in bundle.ca_certificate


def test_a_site_that_was_not_set_up_is_one_line_that_says_what_to_do(site: Server) -> None:
    (site.paths.keys / "enrolment.key").unlink()
    said = type_command(site, "enrolment", "export", "-", status=2)
    assert "penguindome setup" in said
    assert said.count("\n") == 1


def test_clients_are_listed_approved_and_revoked(site: Server) -> None:
    first, second = ask(site, "laptop7"), ask(site, "laptop8")
    rows = json.loads(type_command(site, "clients", "list", "--state", "pending", "--json"))
    assert [(row["hostname"], row["client_id"]) for row in rows] == [("laptop7", first), ("laptop8", second)]
    type_command(site, "clients", "approve", "laptop7")
    type_command(site, "clients", "reject", second[:10], "--yes")
    assert site.client(first)["state"] == "enrolled"
    assert site.client(second)["state"] == "rejected"
    type_command(site, "clients", "revoke", "laptop7", status=2)
    assert site.client(first)["state"] == "enrolled"
    type_command(site, "clients", "revoke", "laptop7", "--yes")
    shown = json.loads(type_command(site, "clients", "show", "laptop7", "--json"))
    assert (shown["client_id"], shown["state"]) == (first, "revoked")
    assert "repository_secret_hash" not in shown


def test_approving_a_second_machine_of_one_name_asks_first(site: Server) -> None:
    first = ask(site, "laptop7", "automatic")
    second = ask(site, "laptop7")
    said = type_command(site, "clients", "approve", "laptop7", status=2)
    assert first in said
    assert site.client(second)["state"] == "pending"
    type_command(site, "clients", "approve", "laptop7", "--yes")
    assert site.client(second)["state"] == "enrolled"


def test_a_reinstalled_machine_is_approved_in_place_of_the_old_one(site: Server) -> None:
    old = ask(site, "laptop7", "automatic")
    new = ask(site, "laptop7")
    type_command(site, "clients", "approve", "laptop7", "--replaces", "laptop7", "--yes")
    assert site.client(old)["state"] == "replaced"
    assert site.client(new)["state"] == "enrolled"
    shown = json.loads(type_command(site, "clients", "show", "laptop7", "--json"))
    assert (shown["client_id"], shown["predecessors"]) == (new, [old])


def test_an_ambiguous_name_is_refused_with_the_list(site: Server) -> None:
    ids = [ask(site, "laptop7"), ask(site, "laptop7")]
    said = type_command(site, "clients", "show", "laptop7", status=2)
    assert all(one in said for one in ids)


def test_hostile_text_cannot_move_the_cursor(site: Server) -> None:
    client_id = ask(site, "laptop7")
    evil = {"x": "\x1b[2J\x1b]0;title\x07\u202eevil\nname: forged"}
    site.store.collection("clients").update(client_id, lambda document: {**(document or {}), "plugins": evil})
    said = type_command(site, "clients", "show", "laptop7")
    assert not set("\x1b\x07\u202e") & set(said)
    assert "\nname: forged" not in said


def test_help_shows_examples(site: Server) -> None:
    for group in ("clients", "enrolment"):
        assert "Examples:" in type_command(site, group, "--help")
