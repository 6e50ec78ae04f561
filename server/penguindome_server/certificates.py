"""The certificates that the server shows for TLS, as far as their files say: whose they are, and until when."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from penguindome import processes
from penguindome.errors import InvalidData, PenguinDomeError
from penguindome.files import read_limited
from penguindome.settings import Settings
from penguindome_server.ports import ports_of
from penguindome_server.server_issues import Expiring, SignedThing

CERTIFICATE_BYTES = 1 << 20
TOLD_BEFORE = 6
"""How many times what is left fits into the whole when it is told of: 4 months of the 27 that `setup` gives, so that
a fleet has time to follow; 15 days of 90, when what renews those by itself should have done so.
"""


@dataclass(frozen=True)
class TlsCertificate:
    """The first certificate of a PEM file; `fingerprint` is its SHA-256 in hexadecimal."""

    fingerprint: str
    not_before: datetime
    not_after: datetime


def read_certificate(path: Path) -> TlsCertificate:
    """What openssl says of a file. Raises OSError, ProcessError or InvalidData."""
    words = ["openssl", "x509", "-noout", "-startdate", "-enddate", "-fingerprint", "-sha256"]
    lines = processes.run(words, input=read_limited(path, CERTIFICATE_BYTES), timeout=30).text.splitlines()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    fingerprint = next((value for label, value in fields.items() if "ingerprint" in label), "")
    if "notBefore" not in fields or "notAfter" not in fields:
        raise InvalidData(f"{path} does not say until when it is good")
    return TlsCertificate(fingerprint.replace(":", ""), _time(fields["notBefore"]), _time(fields["notAfter"]))


def expiring(settings: Settings, *, now: datetime) -> Expiring:
    """The certificates of the ports that are about to expire. Those that only root may read are not looked at: what
    renews them by itself (certbot) keeps them so.
    """
    things, broken = [], []
    for path in dict.fromkeys(port.certificate for port in ports_of(settings)):
        if path is None:
            continue
        try:
            found = read_certificate(path)
        except PermissionError:
            continue
        except (OSError, PenguinDomeError) as error:
            broken.append(f"{path}: {error}")
            continue
        things.append(SignedThing(str(path), found.not_before, found.not_after, told_before=TOLD_BEFORE))
    return Expiring.of(things, broken, now=now)


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), timezone.utc)
