"""What the settings ask of systemd: drop-ins for our units, which `penguindome setup` writes.

The units run as the service user, or as root with next to no capabilities, and see little of the machine. What a
setting needs beyond that is given here and nowhere else: private keys of TLS as credentials, the capability for ports
below 1024, directories outside our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from penguindome.files import ensure_directory, write_atomically
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome.times import format_duration
from penguindome_server.ports import Port, ports_of

SERVER = "penguindome-server.service"
AUDIT = "penguindome-audit.service"
AUDIT_TIMER = "penguindome-audit.timer"
REPOSITORY = "penguindome-repository.service"
REPOSITORY_TIMER = "penguindome-repository.timer"
DROP_IN = "10-setup.conf"
LOWEST_FREE_PORT = 1024
SHIPPED_INTERVAL = timedelta(hours=1)

_COMMENT = "# Written by `penguindome setup`, after the settings; changes made here by hand are overwritten.\n"
_SQLITE = "sqlite://"


def drop_ins(settings: Settings, paths: Paths) -> dict[Path, str]:
    """The text of each drop-in; an empty one is a drop-in that must not be there."""
    ports = ports_of(settings)
    outside = [f"ReadWritePaths={_quoted(path)}" for path in _outside_paths(settings, paths)]
    directory = paths.root / "etc/systemd/system"
    return {
        directory / f"{unit}.d" / DROP_IN: _text(section, lines)
        for unit, section, lines in (
            (SERVER, "Service", [*_credentials(ports), *_low_ports(ports), *outside]),
            (AUDIT, "Service", outside),
            (REPOSITORY, "Service", outside),
            (AUDIT_TIMER, "Timer", _timer(settings["audit.interval"])),
        )
    }


def write_drop_ins(settings: Settings, paths: Paths) -> bool:
    """Write, or remove, the drop-ins; says whether any changed, so that systemd has to read its units again.

    Nothing is written where there is no directory for units (a host without systemd). Raises OSError.
    """
    if not (paths.root / "etc/systemd").is_dir():
        return False
    changed = False
    for path, text in drop_ins(settings, paths).items():
        there = path.read_text() if path.exists() else ""
        if there == text:
            continue
        changed = True
        if text:
            ensure_directory(path.parent)
            write_atomically(path, text, mode=0o644)
        else:
            path.unlink()
    return changed


def _credentials(ports: Iterable[Port]) -> Iterator[str]:
    """Certificates too: those of certbot lie in directories that root alone may enter."""
    for port in ports:
        if port.certificate is not None:
            yield f"LoadCredential=tls-{port.number}.crt:{_escaped(port.certificate)}"
            yield f"LoadCredential=tls-{port.number}.key:{_escaped(port.key or port.certificate)}"


def _low_ports(ports: Iterable[Port]) -> list[str]:
    if not any(0 < port.number < LOWEST_FREE_PORT for port in ports):
        return []
    # In a user namespace of its own the capability would count for nothing.
    return [
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "PrivateUsers=no",
    ]


def _outside_paths(settings: Settings, paths: Paths) -> Iterator[Path]:
    """Directories that the settings make the service write to, beside its own."""
    places = []
    if settings["database.uri"].startswith(_SQLITE):
        places.append(Path(settings["database.uri"].removeprefix(_SQLITE)).parent)
    if settings["logging.handler"] == "file" and settings["logging.file.path"] is not None:
        places.append(settings["logging.file.path"].parent)
    own = (paths.server_state, paths.logs / "server")
    for place in dict.fromkeys(places):
        if not any(place.is_relative_to(directory) for directory in own):
            yield place


def _timer(interval: timedelta) -> list[str]:
    if interval == SHIPPED_INTERVAL:
        return []
    # systemd.time(7) knows our units of time, `m` for minutes among them.
    return ["OnCalendar=", "OnBootSec=5m", f"OnUnitActiveSec={format_duration(interval)}"]


def _text(section: str, lines: Iterable[str]) -> str:
    body = "".join(f"{line}\n" for line in lines)
    return f"{_COMMENT}[{section}]\n{body}" if body else ""


def _escaped(path: Path) -> str:
    """A path in a unit: `%` begins a specifier there."""
    return str(path).replace("%", "%%")


def _quoted(path: Path) -> str:
    escaped = _escaped(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
