"""Who this machine is, and whom it trusts: the files that `setup` made, read when they are first needed."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
from functools import cached_property
from pathlib import Path

from penguindome.client.errors import NeedsRoot, NotSetUp
from penguindome.files import read_limited
from penguindome.openpgp import Certificate, DeviceKey
from penguindome.paths import Paths

KEY_LIMIT = 64 << 10
AWAITED = "server.fingerprint"
_SET_UP = "run: sudo penguindome-client setup --bundle FILE"
_NOT_IN_A_HOST_NAME = re.compile(r"[^a-z0-9.-]+")


class Identity:
    """The device's own key, the pinned certificates, and what enrolment needs. All lie in the state directory."""

    def __init__(self, paths: Paths, *, hostname: str = "") -> None:
        self.directory = paths.client_state
        self._root = paths.root
        self._hostname = hostname

    @cached_property
    def device_key(self) -> DeviceKey:
        """This machine's own key; its private half never leaves the machine. Raises NotSetUp."""
        return DeviceKey.from_text(self._required("device.key"))

    @cached_property
    def client_id(self) -> str:
        """The full fingerprint of the device key: the identity everywhere."""
        return self.device_key.certificate.fingerprint

    @cached_property
    def server_certificate(self) -> Certificate:
        """The one certificate whose signatures may make something run here. Raises NotSetUp."""
        return Certificate.from_text(self._required("server.asc"))

    @property
    def accepted_by(self) -> tuple[Certificate, ...]:
        """The certificates by which what was accepted here may be signed, the one that is pinned now first."""
        return (self.server_certificate,)

    @property
    def awaited_fingerprint(self) -> str | None:
        """The fingerprint of a server key whose certificate is still to be fetched; None when there is none."""
        text = self._optional(AWAITED)
        return None if text is None else text.decode("ascii", "replace").strip()

    @property
    def enrolment_key(self) -> DeviceKey | None:
        """The shared key that may ask for enrolment; None once enrolled, or when the bundle had a token alone."""
        text = self._optional("enrolment.key")
        return None if text is None else DeviceKey.from_text(text)

    @property
    def token(self) -> str | None:
        """The one-time token of the bundle, while it may still be of use."""
        text = self._optional("enrolment.token")
        return None if text is None else text.decode("ascii", "replace").strip()

    @property
    def ca_file(self) -> Path | None:
        """The authorities that the bundle carried for TLS; None: those of the system."""
        path = self.directory / "ca.pem"
        return path if path.exists() else None

    @cached_property
    def hostname(self) -> str:
        """This machine's name, in the form that the server takes (RFC 1123, lower case)."""
        return acceptable_hostname(self._hostname or socket.gethostname())

    @property
    def machine_id(self) -> str:
        """An identifier of the installation (32 hex digits), made of machine-id(5) as that page asks: never the id
        itself.

        Without one it is made of the device key: then a reinstallation is not recognised.
        """
        for path in (self._root / "etc/machine-id", Path("/etc/machine-id")):
            try:
                text = path.read_bytes().strip()
            except OSError:
                continue
            if text and text != b"uninitialized":
                return _derived(text)
        return _derived(self.client_id.encode())

    @property
    def may_ask_for_enrolment(self) -> bool:
        """Whether there is still something to ask with: the shared key or a token. Both go once this machine is
        enrolled.
        """
        return any((self.directory / name).exists() for name in ("enrolment.key", "enrolment.token"))

    def forget_enrolment_secrets(self) -> None:
        """Delete the shared key and the token: they have done their work."""
        for name in ("enrolment.key", "enrolment.token"):
            (self.directory / name).unlink(missing_ok=True)

    def _required(self, name: str) -> bytes:
        text = self._optional(name)
        if text is None:
            raise NotSetUp(f"this machine is not set up: {self.directory / name} is missing", hint=_SET_UP)
        return text

    def _optional(self, name: str) -> bytes | None:
        path = self.directory / name
        try:
            return read_limited(path, KEY_LIMIT)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise NeedsRoot(f"{path} belongs to root", hint="run this with sudo") from error


def _derived(text: bytes) -> str:
    return hmac.new(text, b"penguindome", hashlib.sha256).hexdigest()[:32]


def acceptable_hostname(name: str) -> str:
    """A host name as RFC 1123 wants it: lower case, what does not belong there as `-`, at most 253 characters."""
    labels = _NOT_IN_A_HOST_NAME.sub("-", name.strip().lower()).split(".")
    cleaned = [label[:63].strip("-") for label in labels]
    return ".".join(label for label in cleaned if label)[:253].strip(".-") or "localhost"
