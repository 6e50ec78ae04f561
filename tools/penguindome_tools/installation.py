"""What makes a machine a server: directories, keys, settings, a certificate, and the signed manifest of the plugins."""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penguindome import json, manifest, processes, systemd
from penguindome.errors import InvalidData, PenguinDomeError, UsageError
from penguindome.files import ensure_directory, write_atomically
from penguindome.openpgp import Certificate, DeviceKey
from penguindome.paths import Paths
from penguindome.server_keyring import ServerKeyring
from penguindome.settings import Settings, read_fragment, write_fragment
from penguindome_server.settings import load_server_settings
from penguindome_tools import units
from penguindome_tools.answers import FRAGMENT, self_signed_files
from penguindome_tools.releases import publication

SERVICE_USER = "penguindome"
MANIFEST_LIFE = timedelta(days=365)
CERTIFICATE_DAYS = 825  # what TLS libraries accept of a certificate at the most


@dataclass(frozen=True)
class Identity:
    """The server's public identity after setup: what an administrator reads aloud to check a bundle."""

    server_fingerprint: str
    enrolment_fingerprint: str


def service_user_ids() -> tuple[int, int] | None:
    """User and group id of the service user; None where there is no such user or we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid


def make_directories(paths: Paths) -> None:
    """Make the server's directories with their final modes; an existing one keeps its contents."""
    for directory, mode in (
        (paths.settings, 0o755),
        (paths.settings / "server.d", 0o750),
        (paths.settings / "checks.d", 0o755),
        (paths.settings / "plugins.d", 0o755),
        (paths.settings / "commands.d", 0o755),
        (paths.settings / "client-release.d", 0o750),
        (paths.releases, 0o755),
        (paths.keys, 0o700),
        (paths.server_state, 0o750),
        (paths.logs, 0o755),
        (paths.logs / "server", 0o750),
        (paths.logs / "admin", 0o700),
        (paths.runtime, 0o755),
    ):
        ensure_directory(directory, mode)
    owner = service_user_ids()
    if owner is not None:
        for directory in (paths.server_state, paths.logs / "server"):
            os.chown(directory, *owner, follow_symlinks=False)
        os.chown(paths.settings / "server.d", 0, owner[1], follow_symlinks=False)
        _close_main_file(paths, owner[1])


def _close_main_file(paths: Paths, group: int) -> None:
    """Before the first setup: the administrator's file may come to hold a password, so nobody else reads it."""
    main = paths.settings / "server.yml"
    if main.exists() and not (paths.settings / FRAGMENT).exists():
        os.chown(main, 0, group, follow_symlinks=False)
        main.chmod(0o640)


def make_keys(paths: Paths) -> Identity:
    """Make server and enrolment key unless they exist, and publish their certificates for the service to read.

    Raises KeyMaterialError when a key is there but cannot be used.
    """
    server_certificate = paths.releases / "server.asc"
    with ServerKeyring(paths.keys / "gnupg") as keyring:
        fingerprint = recorded_fingerprint(paths) or keyring.generate("PenguinDome server")
        write_atomically(paths.keys / "server.fingerprint", fingerprint + "\n", mode=0o600)
        write_atomically(server_certificate, keyring.certificate(fingerprint), mode=0o644)
    enrolment_file = paths.keys / "enrolment.key"
    if enrolment_file.exists():
        enrolment_key = DeviceKey.from_text(enrolment_file.read_text())
    else:
        enrolment_key = DeviceKey.generate("PenguinDome enrolment")
        write_atomically(enrolment_file, enrolment_key.text, mode=0o600)
    write_atomically(paths.releases / "enrolment.asc", enrolment_key.certificate.text, mode=0o644)
    return Identity(fingerprint, enrolment_key.certificate.fingerprint)


def require_valid(settings: Settings, values: Mapping[str, Any]) -> None:
    """Raise SettingsError for a value that its setting cannot have, before anything is written."""
    Settings.of(settings.schema, {name: value for name, value in values.items() if value is not None})


def write_settings(paths: Paths, values: Mapping[str, Any], *, self_signed: bool) -> Settings:
    """Lay `values` (None: to be removed) over those of the last setup; returns the settings that are in force then.

    With `self_signed`, a certificate for the URL's host is made unless there is one. What systemd has to know of the
    settings is written beside them.
    """
    fragment = paths.settings / FRAGMENT
    present = load_server_settings(paths)
    merged = {**read_fragment(fragment), **values}
    written = {name: value for name, value in merged.items() if value is not None}
    if not (written.get("server.url") or present["server.url"]):
        written["server.url"] = f"https://{socket.getfqdn()}:{written.get('listen.port', present['listen.port'])}"
    if self_signed:
        written.update(make_self_signed_certificate(paths, url_host(written.get("server.url", present["server.url"]))))
    owner = service_user_ids()
    write_fragment(fragment, written, mode=0o640 if owner else 0o600, owner=(0, owner[1]) if owner else None)
    settings = load_server_settings(paths)
    if systemd.has_unit(paths, units.SERVER) and units.write_drop_ins(settings, paths):
        systemd.reread()
    return settings


def warnings(paths: Paths, settings: Settings, values: Mapping[str, Any]) -> Iterator[str]:
    """What an administrator should know: unknown settings, answers that his own file overrides, a certificate for
    another host.
    """
    yield from settings.warnings
    for name, value in values.items():
        origin = settings.origin(name)
        overridden = origin.file not in (None, paths.settings / FRAGMENT)
        if overridden and (value is None or settings[name] != settings.schema[name].convert(value)):
            yield f"{name} stays {settings.shown(name)!r}: {origin} has the last word"
    certificate = self_signed_files(paths)[0]
    if settings["tls.certificate"] == certificate:
        host = url_host(settings["server.url"])
        option = "-checkip" if _is_address(host) else "-checkhost"
        words = ["openssl", "x509", "-in", str(certificate), "-noout", option, host]
        # Newer versions of openssl also say it by their exit status.
        if b"NOT match" in processes.run(words, timeout=30, check=False).stdout:
            yield (
                f"{certificate} is for another host than {host}: clients will refuse it; to have one for that: "
                "penguindome certificate renew"
            )


def url_host(url: str) -> str:
    """The host of a URL. Raises UsageError when there is none."""
    host = urlsplit(url).hostname
    if not host:
        raise UsageError(f"{url!r} is no URL", hint="it looks like https://host:port")
    return host


def client_tree(paths: Paths) -> Path:
    """The tree whose plugins are signed: what the server's package carries, else a client's own on this machine."""
    return paths.client_tree if (paths.client_tree / "plugins").is_dir() else paths.client_code


def recorded_fingerprint(paths: Paths) -> str | None:
    """The fingerprint of the server key that is in use; None before the first setup."""
    try:
        return (paths.keys / "server.fingerprint").read_text().strip()
    except FileNotFoundError:
        return None


def sign_manifest(paths: Paths, tree: Path, *, now: datetime, force: bool = False) -> bool:
    """Sign the manifest of the plugins in `tree`, if it would differ from the published one, if that is by another key
    or past half of its life, or with `force`; says whether it did.

    `tree` is what lies under `/usr/lib/penguindome/client` on clients; release 0 is what packages ship. Raises
    UsageError when the tree holds no plugins.
    """
    data = _manifest_to_sign(paths, tree, now=now, force=force)
    if data is None:
        return False
    with ServerKeyring(paths.keys / "gnupg") as keyring:
        signature = keyring.sign(data, recorded_fingerprint(paths) or "")
    published = paths.releases / "manifest.json"
    # The signature goes first: a server that starts in between sees a pair that does not fit, refuses it, and says so.
    write_atomically(published.with_name("manifest.json.asc"), signature, mode=0o644)
    write_atomically(published, data, mode=0o644)
    return True


def make_repositories(paths: Paths, settings: Settings, *, now: datetime) -> None:
    """Publish empty repositories unless there are any: `apt update` finds nothing wrong before the first release."""
    if publication.current(paths) is not None:
        return
    with ServerKeyring(paths.keys / "gnupg") as keyring:
        valid_for = settings["releases.valid_for"]
        publication.publish(
            paths, keyring, recorded_fingerprint(paths) or "", releases=(), now=now, valid_for=valid_for
        )


def manifest_is_due(paths: Paths, tree: Path, *, now: datetime, force: bool = False) -> bool:
    """Whether `sign_manifest` would sign. Raises UsageError when the tree holds no plugins."""
    return _manifest_to_sign(paths, tree, now=now, force=force) is not None


def _manifest_to_sign(paths: Paths, tree: Path, *, now: datetime, force: bool) -> bytes | None:
    names = sorted(
        str(path.relative_to(tree))
        for path in (tree / "plugins").glob("*")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    )
    if not names:
        raise UsageError(
            f"{tree / 'plugins'} holds no plugins", hint="name the client's tree with --client-tree DIRECTORY"
        )
    data = manifest.build(tree, names, kind="release", release=0, issued_at=now, expires_at=now + MANIFEST_LIFE)
    published = paths.releases / "manifest.json"
    return None if not force and _same_files(published, data) and _is_signed(paths, published) else data


def _is_signed(paths: Paths, published: Path) -> bool:
    """Whether its signature is there, and by the key in use."""
    try:
        signature = published.with_name("manifest.json.asc").read_bytes()
        Certificate.from_text((paths.releases / "server.asc").read_bytes()).verify(published.read_bytes(), signature)
    except (OSError, PenguinDomeError):
        return False
    return True


def _same_files(published: Path, data: bytes) -> bool:
    new = json.loads(data)
    try:
        old = json.loads(published.read_bytes())
        half_way: datetime = old["issued_at"] + (old["expires_at"] - old["issued_at"]) / 2
        return bool(old["files"] == new["files"] and new["issued_at"] < half_way)
    except (FileNotFoundError, InvalidData, KeyError, TypeError):
        # It is not there, or torn: whatever it was, it is to be made anew.
        return False


def make_self_signed_certificate(paths: Paths, host: str) -> Mapping[str, Any]:
    """Make a TLS key and a self-signed certificate for `host` (name or address) unless they exist; returns the settings
    that name them. Needs the program openssl. Raises ProcessError when it is missing or refuses.
    """
    certificate, key = self_signed_files(paths)
    ensure_directory(key.parent, 0o750)
    owner = service_user_ids()
    if owner is not None:
        os.chown(key.parent, 0, owner[1], follow_symlinks=False)
    if not (certificate.exists() and key.exists()):
        make_pair(paths, host, certificate, key)
    return {"tls.certificate": str(certificate), "tls.key": str(key)}


def make_pair(paths: Paths, host: str, certificate: Path, key: Path) -> None:
    """Write a new key, and then a self-signed certificate of it for `host`, in the place of any that are there."""
    owner = service_user_ids()
    key_text = processes.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], timeout=30
    ).stdout
    if systemd.has_unit(paths, units.SERVER):
        # systemd hands the key to the service: the service user cannot read the file.
        write_atomically(key, key_text, mode=0o600)
    else:
        write_atomically(key, key_text, mode=0o640, owner=(0, owner[1]) if owner else None)
    kind = "IP" if _is_address(host) else "DNS"
    certificate_text = processes.run(
        [
            "openssl", "req", "-x509", "-key", str(key), "-sha256", "-days", str(CERTIFICATE_DAYS),
            "-subj", f"/CN={host}"[:67], "-addext", f"subjectAltName={kind}:{host}",
        ],
        timeout=30,
    ).stdout  # fmt: skip
    if b"BEGIN CERTIFICATE" not in certificate_text:
        raise PenguinDomeError("openssl made no certificate", hint="run it by hand: openssl req -x509 ...")
    write_atomically(certificate, certificate_text, mode=0o644)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
