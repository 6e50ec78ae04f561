"""The server's side of TLS: a context for each port, from its files or from systemd's credentials.

Private keys that root alone may read come as credentials: copies that systemd made when the service started, in the
directory that $CREDENTIALS_DIRECTORY names, as `tls-PORT.crt` and `tls-PORT.key`. They go before the files.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from penguindome.errors import SettingsError
from penguindome.files import read_limited
from penguindome.logging import get_logger
from penguindome_server.ports import Port

log = get_logger(__name__)

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
CERTIFICATE_BYTES = 1 << 20


def port_context(port: Port) -> ssl.SSLContext | None:
    """The context of a port; None for plain HTTP. Raises SettingsError."""
    if port.certificate is None:
        return None
    certificate, key = _credential(port, "crt"), _credential(port, "key")
    if certificate is not None and _differ(certificate, port.certificate):
        log.warning("{} was changed; only a restart takes it: systemctl restart penguindome-server", port.certificate)
    try:
        return server_context(certificate or port.certificate, key or port.key, setting=port.setting)
    except SettingsError as error:
        if isinstance(error.__cause__, PermissionError):
            error.hint = "`penguindome setup` has systemd hand them to the service, when that is started again"
        raise


def server_context(certificate: Path, key: Path | None, *, setting: str = "tls") -> ssl.SSLContext:
    """A context for TLS 1.2 and later with this certificate (and chain) and key, both PEM; without a key, the
    certificate's file holds it too.

    Raises SettingsError, which names `setting`.certificate and `setting`.key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    files = str(certificate) if key is None else f"{certificate}, {key}"
    try:
        context.load_cert_chain(certificate, key)
    except FileNotFoundError as error:
        raise SettingsError(f"{setting}.certificate or {setting}.key is missing: {files}") from error
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"{setting}.certificate and {setting}.key cannot be used: {files}: {reason}") from error
    return context


def _credential(port: Port, kind: str) -> Path | None:
    directory = os.environ.get(CREDENTIALS_VARIABLE)
    if not directory:
        return None
    path = Path(directory) / f"tls-{port.number}.{kind}"
    return path if os.access(path, os.R_OK) else None


def _differ(copy: Path, original: Path) -> bool:
    """Whether the original, if it may be read at all, is not what it was at the start."""
    try:
        return read_limited(copy, CERTIFICATE_BYTES) != read_limited(original, CERTIFICATE_BYTES)
    except OSError:
        return False
