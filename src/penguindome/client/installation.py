"""What `setup` makes of a bundle: the device key (once), the pinned certificates, and the setting that names the
server.

Running it again changes nothing needlessly. The device key is never overwritten; another server certificate than the
one that is pinned takes `force`, because whoever holds that server's key decides what runs here.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from penguindome.bundle import MAXIMUM_BYTES, Bundle
from penguindome.client.context import Client, refuse_plain_http
from penguindome.client.errors import NeedsRoot
from penguindome.client.identity import KEY_LIMIT
from penguindome.client.state import ClientState, StateFile
from penguindome.errors import InvalidData, PenguinDomeError, UsageError
from penguindome.files import FileLock, ensure_directory, read_limited, write_atomically
from penguindome.openpgp import Certificate, DeviceKey
from penguindome.settings import write_fragment

FRAGMENT = "client.d/10-setup.yml"


@dataclass(frozen=True)
class SetUp:
    """What there is after `setup`: fingerprints to compare, and what was done."""

    client_id: str
    server_fingerprint: str
    server_url: str
    made_key: bool
    changed_server: bool
    enrolled: bool
    overridden: str = ""


def read_bundle(name: str) -> Bundle:
    """The bundle in a file that nobody else may read or write, or on standard input (`-`). Raises InvalidData or
    UsageError.
    """
    return Bundle.from_text(_read_secret(name, "name the file that `penguindome enrolment export` wrote"))


def with_token(bundle: Bundle, name: str, *, beside: str) -> Bundle:
    """The bundle with the one-time token in a file that nobody else may read or write, or on standard input (`-`).

    `beside` is where the bundle came from: standard input can be read but once. Raises UsageError.
    """
    if name == beside == "-":
        raise UsageError("bundle and token cannot both come from standard input", hint="put one into a file")
    words = _read_secret(name, "it holds the line that `penguindome enrolment token` printed").split()
    try:
        (token,) = (word.decode("ascii") for word in words)
    except ValueError as error:
        raise UsageError(
            f"{name} does not hold one token", hint="it holds the line that `penguindome enrolment token` printed"
        ) from error
    return replace(bundle, token=token)


def _read_secret(name: str, hint: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(MAXIMUM_BYTES + 1)
    path = Path(name)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_uid not in (0, os.geteuid()):
            raise UsageError(
                f"{name} belongs to somebody else, who could have changed it", hint="chown it to root first"
            )
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
            raise UsageError(
                f"others on this machine can read or change {name}, which holds a secret", hint=f"run: chmod 600 {name}"
            )
        return read_limited(path, MAXIMUM_BYTES)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", hint=hint) from error


def set_up(client: Client, bundle: Bundle, *, force: bool) -> SetUp:
    """Make this machine a client of the bundle's server. Raises UsageError, SettingsError, InvalidData,
    KeyMaterialError or NeedsRoot.
    """
    paths = client.paths
    refuse_plain_http(bundle.server_url, allowed=client.settings["allow_plain_http"])
    _check_authorities(bundle)
    certificate = Certificate.from_text(bundle.server_certificate)
    try:
        ensure_directory(paths.client_state, 0o700)
        ensure_directory(paths.settings, 0o755)
        ensure_directory(paths.settings / "client.d", 0o755)
        with FileLock(paths.client_state / "lock"):
            changed = _is_another_server(paths.client_state, certificate, force=force)
            key, made = _device_key(paths.client_state)
            state_file = StateFile(paths.client_state / "state.json")
            state = state_file.load()
            if changed:
                state = _forget_server(client, state)
                state_file.save(state)
            _write_trust(paths.client_state, bundle, certificate, enrolled=state.enrolment == "enrolled")
            write_fragment(paths.settings / FRAGMENT, {"server.url": bundle.server_url}, mode=0o644)
    except PermissionError as error:
        raise NeedsRoot(f"{error.filename} cannot be written", hint="run this with sudo") from error
    return SetUp(
        client_id=key.certificate.fingerprint,
        server_fingerprint=certificate.fingerprint,
        server_url=bundle.server_url,
        made_key=made,
        changed_server=changed,
        enrolled=state.enrolment == "enrolled",
        overridden=_overridden(client, bundle.server_url),
    )


def _check_authorities(bundle: Bundle) -> None:
    if bundle.ca_certificate is None:
        return
    import ssl

    try:
        ssl.create_default_context(cadata=bundle.ca_certificate)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidData(
            f"this is not a usable enrolment bundle: its ca_certificate cannot be read ({error})",
            hint="export it again: penguindome enrolment export FILE",
        ) from error


def _is_another_server(directory: Path, certificate: Certificate, *, force: bool) -> bool:
    """Whether another server was trusted until now. Raises UsageError unless `force`."""
    try:
        pinned = Certificate.from_text(read_limited(directory / "server.asc", KEY_LIMIT)).fingerprint
    except FileNotFoundError:
        return False
    except (PenguinDomeError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        pinned = "unreadable"
    if pinned == certificate.fingerprint:
        return False
    if not force:
        raise UsageError(
            f"this machine trusts another server (key {pinned}), and the bundle is of key {certificate.fingerprint}",
            hint="if that is right, add --force: reports that wait for the old server are then deleted",
        )
    return True


def _device_key(directory: Path) -> tuple[DeviceKey, bool]:
    """The key that is there, or a new one; and whether it is new."""
    path = directory / "device.key"
    try:
        return DeviceKey.from_text(read_limited(path, KEY_LIMIT)), False
    except FileNotFoundError:
        key = DeviceKey.generate("PenguinDome client")
        write_atomically(path, key.text, mode=0o600)
        return key, True


def _forget_server(client: Client, state: ClientState) -> ClientState:
    """What belonged to the old server is no business of the new one."""
    client.spool.clear()
    for name in ("manifest.signed.json", "last-report.json", "repository.json", "last-contact"):
        (client.paths.client_state / name).unlink(missing_ok=True)
    return ClientState(sequence=state.sequence)


def _write_trust(directory: Path, bundle: Bundle, certificate: Certificate, *, enrolled: bool) -> None:
    """Write what is trusted, and what enrolment needs unless that is done already."""
    _write_or_remove(directory / "ca.pem", bundle.ca_certificate)
    _write_or_remove(directory / "enrolment.key", None if enrolled else bundle.enrolment_key)
    _write_or_remove(directory / "enrolment.token", None if enrolled else bundle.token)
    write_atomically(directory / "server.asc", certificate.text, mode=0o600)


def _write_or_remove(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, text, mode=0o600)


def _overridden(client: Client, url: str) -> str:
    """Where the administrator's own file says another server, if it does: it has the last word."""
    from penguindome.client.settings import load_client_settings

    settings = load_client_settings(client.paths)
    return "" if settings["server.url"] == url else f"{settings.origin('server.url')} says {settings['server.url']}"
