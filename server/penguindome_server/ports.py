"""The ports that the server listens on, each with its own TLS.

`listen.port` with `tls.certificate` and `tls.key` is one of them. `ports` names others, or says more about that one:

    ports:
      8443: {deprecated: true}                                    # listen.port, with the TLS of tls.*
      9443: {certificate: /etc/ssl/new.pem, key: /etc/ssl/new.key}
      8080: {}                                                    # plain HTTP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penguindome.settings import Settings

FIELDS = frozenset({"certificate", "key", "deprecated"})


@dataclass(frozen=True)
class Port:
    """One port. Without a certificate it speaks plain HTTP; without a key, the certificate's file holds it too.

    `setting` is what the names of the settings begin with that say so: `tls` or `ports.9443`.
    """

    number: int
    certificate: Path | None = None
    key: Path | None = None
    deprecated: bool = False
    setting: str = "tls"


def ports_of(settings: Settings) -> tuple[Port, ...]:
    """All ports of these settings (which were checked when they were read), `listen.port` first."""
    main = settings["listen.port"]
    given = {int(number): fields or {} for number, fields in settings["ports"].items()}
    own = given.pop(main, {})
    if own.get("certificate"):
        first = _port(main, own)
    else:
        deprecated = bool(own.get("deprecated"))
        first = Port(main, settings["tls.certificate"], settings["tls.key"], deprecated)
    return first, *(_port(number, fields) for number, fields in sorted(given.items()))


def deprecated_numbers(settings: Settings) -> frozenset[int]:
    """The numbers of the ports that clients should no longer use."""
    return frozenset(port.number for port in ports_of(settings) if port.deprecated)


def check_ports(values: Mapping[str, Any]) -> None:
    """Raise ValueError, with a text for whoever wrote it, unless this is a value for the setting `ports`."""
    for number, fields in values.items():
        # YAML 1.1 would read 010 as 8; so would a reader who knows it, and another would not.
        text = str(number)
        if not text.isascii() or not text.isdigit() or text.startswith("0") or int(text) > 65535:
            raise ValueError(f"{text!r} is no port: write a number from 1 to 65535")
        if fields is None:
            continue
        if not isinstance(fields, dict):
            raise ValueError(f"{number}: expected certificate, key and deprecated below it")
        for name, value in fields.items():
            _check_field(f"{number}: {name}", name, value)
        if fields.get("key") and not fields.get("certificate"):
            raise ValueError(f"{number}: key is of no use without certificate")


def _check_field(where: str, name: str, value: Any) -> None:
    if name not in FIELDS:
        raise ValueError(f"{where}: unknown; known are {', '.join(sorted(FIELDS))}")
    if name == "deprecated":
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{where}: expected true or false")
    elif value is not None and not (isinstance(value, str) and value.startswith("/") and "\0" not in value):
        raise ValueError(f"{where}: expected an absolute path")


def _port(number: int, fields: Mapping[str, Any]) -> Port:
    certificate, key = fields.get("certificate"), fields.get("key")
    return Port(
        number,
        Path(certificate) if certificate else None,
        Path(key) if key else None,
        bool(fields.get("deprecated")),
        f"ports.{number}",
    )
