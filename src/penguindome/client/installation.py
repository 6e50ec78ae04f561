"""What `setup` makes of a bundle, or of a URL and a fingerprint: the device key (once), the pinned certificates, and
the setting that names the server.

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
from penguindome.client import apt_sources
from penguindome.client.context import Client, refuse_plain_http
from penguindome.client.errors import NeedsRoot
from penguindome.client.identity import AWAITED, FORMER, KEY_LIMIT
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
    waits_because: str = ""
    """Why the server could not be met yet; empty when it was."""


@dataclass(frozen=True)
class Introduction:
    """A server that is known by its URL and the full fingerprint of its key, which a person typed; the certificate is
    fetched when the server can be reached. `ca_certificate` is PEM text.
    """

    server_url: str
    fingerprint: str
    ca_certificate: str | None
    token: str | None
    enrolment_key: None = None


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
    return replace(bundle, token=read_token(name))


def read_token(name: str) -> str:
    """The one-time token in a file that nobody else may read or write, or on standard input (`-`).

    Raises UsageError.
    """
    words = _read_secret(name, "it holds the line that `penguindome enrolment token` printed").split()
    try:
        (token,) = (word.decode("ascii") for word in words)
    except ValueError as error:
        raise UsageError(
            f"{name} does not hold one token", hint="it holds the line that `penguindome enrolment token` printed"
        ) from error
    return token


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


def set_up(client: Client, source: Bundle | Introduction, *, force: bool) -> SetUp:
    """Make this machine a client of the server of a bundle, or of one that is fetched later (see `introduction`).

    Raises UsageError, SettingsError, InvalidData, KeyMaterialError or NeedsRoot.
    """
    paths = client.paths
    refuse_plain_http(source.server_url, allowed=client.settings["allow_plain_http"])
    check_authorities(source.ca_certificate)
    try:
        ensure_directory(paths.client_state, 0o700)
        ensure_directory(paths.settings, 0o755)
        ensure_directory(paths.settings / "client.d", 0o755)
        with FileLock(paths.client_state / "lock"):
            changed = require_same_server(client, source.fingerprint, force=force)
            key, made = _device_key(paths.client_state)
            state_file = StateFile(paths.client_state / "state.json")
            state = state_file.load()
            if changed:
                state = _forget_server(client, state)
                state_file.save(state)
            _write_trust(paths.client_state, source, enrolled=state.enrolment == "enrolled")
            write_fragment(paths.settings / FRAGMENT, {"server.url": source.server_url}, mode=0o644)
    except PermissionError as error:
        raise NeedsRoot(f"{error.filename} cannot be written", hint="run this with sudo") from error
    return SetUp(
        client_id=key.certificate.fingerprint,
        server_fingerprint=source.fingerprint,
        server_url=source.server_url,
        made_key=made,
        changed_server=changed,
        enrolled=state.enrolment == "enrolled",
        overridden=_overridden(client, source.server_url),
    )


def check_authorities(pem: str | None) -> None:
    """Raise InvalidData unless the text (None: no authorities of our own) holds certificates to trust for TLS."""
    if pem is None:
        return
    import ssl

    try:
        ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidData(
            f"this is not a usable enrolment bundle: its ca_certificate cannot be read ({error})",
            hint="export it again: penguindome enrolment export FILE",
        ) from error


def require_same_server(client: Client, fingerprint: str, *, force: bool) -> bool:
    """Whether another server was trusted until now. Raises UsageError unless `force`."""
    pinned = trusted_fingerprint(client)
    if pinned in (None, fingerprint):
        return False
    if not force:
        raise UsageError(
            f"this machine trusts another server (key {pinned}), and this one is of key {fingerprint}",
            hint="if that is right, add --force: reports that wait for the old server are then deleted",
        )
    return True


def trusted_fingerprint(client: Client) -> str | None:
    """The fingerprint of the server key that this machine trusts, or waits to meet; None before any setup."""
    directory = client.paths.client_state
    try:
        return Certificate.from_text(read_limited(directory / "server.asc", KEY_LIMIT)).fingerprint
    except FileNotFoundError:
        return client.identity.awaited_fingerprint
    except PermissionError as error:
        raise NeedsRoot(f"{error.filename} belongs to root", hint="run this with sudo") from error
    except (PenguinDomeError, OSError):
        return "unreadable"


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
    import shutil

    from penguindome.client import generations

    client.spool.clear()
    generations.clear(client.paths.client_state)
    shutil.rmtree(client.records.directory, ignore_errors=True)
    names = ("manifest.signed.json", "last-report.json", "repository.json", "last-contact", "update.json")
    for name in (FORMER, *names):
        (client.paths.client_state / name).unlink(missing_ok=True)
    apt_sources.remove(client.paths)
    return ClientState(sequence=state.sequence)


def _write_trust(directory: Path, source: Bundle | Introduction, *, enrolled: bool) -> None:
    """Write what is trusted, and what enrolment needs unless that is done already."""
    _write_or_remove(directory / "ca.pem", source.ca_certificate)
    _write_or_remove(directory / "enrolment.key", None if enrolled else source.enrolment_key)
    _write_or_remove(directory / "enrolment.token", None if enrolled else source.token)
    if isinstance(source, Introduction):
        write_atomically(directory / AWAITED, f"{source.fingerprint}\n", mode=0o600)
        (directory / "server.asc").unlink(missing_ok=True)
    else:
        write_atomically(directory / "server.asc", source.server_certificate, mode=0o600)
        (directory / AWAITED).unlink(missing_ok=True)


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
