"""Who may use an endpoint: addresses, users and groups of the settings, passwords of the endpoint's own, and, where
they are asked for, clients by their credentials. Any one that fits lets in.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from penguindome.settings import Settings
from penguindome_server.addresses import Networks
from penguindome_server.client_secrets import ClientSecrets
from penguindome_server.password_checks import PasswordChecks
from penguindome_server.refusals import Refusal

LONGEST = 2048


class EndpointAccess:
    """Decides on one request after another, by the settings below `section` (such as `server_auth.pipe_create`).

    An endpoint that nothing is configured for is open to all, unless it is `mandatory`; then it is closed.
    """

    def __init__(
        self,
        settings: Settings,
        section: str,
        *,
        mandatory: bool,
        passwords: PasswordChecks,
        clients: ClientSecrets | None = None,
    ) -> None:
        own = settings.section(section)
        self._section = section
        self._mandatory = mandatory
        self._networks = Networks(own["ipranges"])
        self._hashes = _hashes(settings, own)
        self._decoy = next((stored for hashes in self._hashes.values() for stored in hashes), None)
        self._passwords = passwords
        self._clients = clients
        self.is_configured = bool(self._networks or self._hashes)

    def require(self, environ: Mapping[str, Any], address: str, *, mandatory: bool | None = None) -> None:
        """Raise Refusal unless this request is let in: 401 where a password could help, 403 where none can.

        `mandatory` says otherwise for this request than for the endpoint. Raises StoreUnavailable.
        """
        mandatory = self._mandatory if mandatory is None else mandatory
        if address in self._networks or not (self.is_configured or mandatory):
            return
        given = credentials(environ)
        if given is not None and self._right(*given, address=address):
            return
        if self._hashes or (self._clients is not None and (self.is_configured or given is not None)):
            raise Refusal("unauthorised", "this needs a user and a password")
        if not self.is_configured:
            raise Refusal("not-allowed", f"nobody may have this until {self._section} is configured on the server")
        raise Refusal("not-allowed", "this is not for your address")

    def _right(self, user: str, password: str, *, address: str) -> bool:
        if self._clients is not None and self._clients.right(user, password):
            return True
        hashes = self._hashes.get(user, ())
        if self._decoy is None or (not hashes and self._clients is not None and self._clients.could_be(user)):
            return False
        return self._passwords.right(user, password, hashes, decoy=self._decoy, address=address)


def _hashes(settings: Settings, own: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    """The hashes of each user that may be let in: of the server-wide password, the endpoint's own, or both."""
    names = [*own.get("users", ())]
    for group in own.get("groups", ()):
        names += settings["groups"][group]
    found = {name: (settings["users"][name],) for name in names}
    for name, stored in own["passwords"].items():
        found[name] = (*found.get(name, ()), stored)
    return found


def credentials(environ: Mapping[str, Any]) -> tuple[str, str] | None:
    """User and password of a request (RFC 7617), or None."""
    scheme, _, encoded = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() != "basic" or len(encoded) > LONGEST:
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:  # not base64, or not UTF-8
        return None
    return (user, password) if colon and "\0" not in password else None
