"""`GET server_certificate`: what a machine without a bundle compares with a typed fingerprint."""

from __future__ import annotations

import requests

from penguindome.openpgp import Certificate
from web_server import PREFIX, Server, refused


def test_anybody_is_shown_the_certificate_of_the_server_key_and_no_more(server: Server) -> None:
    server.start()
    answer = requests.get(f"{server.url}{PREFIX}server_certificate", timeout=10)
    assert answer.status_code == 200
    assert answer.json().keys() == {"server_certificate"}
    shown = Certificate.from_text(answer.json()["server_certificate"])
    assert shown.fingerprint == server.server_key.certificate.fingerprint
    assert "PRIVATE" not in answer.text
    refused(requests.post(f"{server.url}{PREFIX}server_certificate", timeout=10), 405, "method-not-allowed")
