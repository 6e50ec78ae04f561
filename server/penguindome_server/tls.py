"""The server's side of TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

from penguindome.errors import SettingsError


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """A context for TLS 1.2 and later with this certificate (and chain) and key, both PEM. Raises SettingsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key)
    except FileNotFoundError as error:
        raise SettingsError(f"tls.certificate or tls.key is missing: {certificate}, {key}") from error
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"tls.certificate and tls.key cannot be used: {certificate}, {key}: {reason}") from error
    return context
