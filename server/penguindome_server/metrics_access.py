"""Who may read the metrics: addresses by settings, or a user with a password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
from collections.abc import Mapping
from typing import Any

from penguindome.settings import Settings
from penguindome_server.addresses import Networks
from penguindome_server.passwords import password_context
from penguindome_server.refusals import Refusal

LONGEST = 1024


class MetricsAccess:
    """Decides on one scrape after another.

    Password hashes are slow on purpose. So what was right once is remembered, as a hash under a key of this process,
    and only one password at a time is tried: guesses cannot keep the server busy. An unknown user takes as long as a
    wrong password.
    """

    def __init__(self, settings: Settings) -> None:
        self._networks = Networks(settings["metrics.ipranges"])
        self._passwords: Mapping[str, str] = dict(settings["metrics.passwords"])
        self._key = secrets.token_bytes(32)
        self._right: set[bytes] = set()
        self._one_at_a_time = threading.Lock()

    def require(self, environ: Mapping[str, Any], address: str) -> None:
        """Raise Refusal unless this request may read the metrics."""
        if address in self._networks:
            return
        if not self._passwords:
            raise Refusal("not-allowed", "the metrics are not for this address")
        if not self._verify(_credentials(environ)):
            raise Refusal("unauthorised", "the metrics need a user and a password")

    def _verify(self, credentials: tuple[str, str] | None) -> bool:
        if credentials is None:
            return False
        user, password = credentials
        seen = hmac.digest(self._key, f"{user}\0{password}".encode(), hashlib.sha256)
        if seen in self._right:
            return True
        if not self._one_at_a_time.acquire(blocking=False):
            raise Refusal("rate-limited", "another password is being checked", retry_after=1)
        try:
            stored = self._passwords.get(user)
            if stored is None:
                password_context().dummy_verify()
                return False
            if not password_context().verify(password, stored):
                return False
        finally:
            self._one_at_a_time.release()
        self._right.add(seen)
        return True


def _credentials(environ: Mapping[str, Any]) -> tuple[str, str] | None:
    scheme, _, encoded = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() != "basic" or len(encoded) > LONGEST:
        return None
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:  # not base64, or not UTF-8
        return None
    return (user, password) if colon and "\0" not in password else None
