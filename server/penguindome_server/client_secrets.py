"""The repository credentials of clients: the user is the client's id, the password what it was given at enrolment."""

from __future__ import annotations

import hashlib
import hmac
import re

from penguindome_server.store import Store

_CLIENT_ID = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")


class ClientSecrets:
    """Looks credentials up in the store each time, so that they end with the client's enrolment.

    They are too long to be guessed, and a look is quick, so that nothing is limited here.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def could_be(self, user: str) -> bool:
        """Whether a user's name looks like the id of a client."""
        return _CLIENT_ID.fullmatch(user) is not None

    def right(self, user: str, password: str) -> bool:
        """Whether these are the credentials of an enrolled client. Raises StoreUnavailable."""
        if not self.could_be(user):
            return False
        document = self._store.collection("clients").get(user, fields=("state", "repository_secret_hash"))
        stored = document.get("repository_secret_hash") if document and document["state"] == "enrolled" else None
        given = hashlib.sha256(password.encode()).hexdigest()
        known = stored if isinstance(stored, str) else ""
        return hmac.compare_digest(given, known)
