"""What lets apt on this machine use the site's repository: for `apt install penguindome-client` by hand, and for people
who look where the client came from. Put in place once the client is enrolled, and renewed when anything of it changes.

The minute may not write to /etc, so it starts the verb `repository` for that, in a unit of its own. It does so for
Debian's kind of package only: pacman could read credentials only from files that ordinary users read too, and partial
upgrades are not supported there anyhow.
"""

from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from penguindome.client import authorities
from penguindome.client.version import package_kind
from penguindome.logging import get_logger

if TYPE_CHECKING:
    from penguindome.client.context import Client
    from penguindome.paths import Paths

SOURCES = "etc/apt/sources.list.d/penguindome.sources"
KEYRING = "etc/apt/keyrings/penguindome.asc"
AUTHORITIES = "etc/apt/keyrings/penguindome-tls.pem"
CREDENTIALS = "etc/apt/auth.conf.d/penguindome.conf"
CONFIGURATION = "etc/apt/apt.conf.d/60penguindome"
FILES = (SOURCES, KEYRING, AUTHORITIES, CREDENTIALS, CONFIGURATION)
PLACE = "penguindome/v1/repo/apt"

# What stands in the files that are there; made anew when what they are made of has another hash.
STAMP = "apt-sources.stamp"
TRIED = "apt-sources.tried"
AGAIN_SECONDS = 3600.0
_MADE = (
    "# Made by penguindome-client, which renews it; to be left alone, set `repository.manage: false` in client.yml.\n"
)
_MATERIALS = ("repository.json", "server.asc")
# A file of our own takes the place of it for apt, which knows no other way to add to it.
SYSTEM_AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"

log = get_logger(__name__)


def renew(client: Client) -> None:
    """Have apt's files made anew if they are not of what is in force now. Costs next to nothing when they are."""
    wanted = _wanted(client)
    directory = client.paths.client_state
    if wanted == _text(directory / STAMP) or (not wanted and not (directory / STAMP).exists()):
        return
    tried = directory / TRIED
    if _text(tried) == wanted and time.time() - tried.stat().st_mtime < AGAIN_SECONDS:
        return
    tried.write_text(wanted)
    from penguindome.client import transient
    from penguindome.errors import ProcessError

    try:
        transient.start_verb(client.paths, "apt", ["repository"], description="Tell apt of PenguinDome's repository")
    except ProcessError as error:
        log.warning("apt could not be told of the repository: {}", error.message)


def put_in_place(client: Client) -> bool:
    """Make apt's files, or remove them where they shall not be; says whether they are there. Raises OSError or
    ProcessError.
    """
    from penguindome import json
    from penguindome.client.package_managers import deb
    from penguindome.files import ensure_directory, read_limited, write_atomically

    paths, directory = client.paths, client.paths.client_state
    wanted = _wanted(client)
    if not wanted:
        remove(paths)
        (directory / STAMP).unlink(missing_ok=True)
        return False
    credentials = json.loads_plain(read_limited(directory / "repository.json", 64 << 10))
    url = urlsplit(client.settings["server.url"])
    trusted = _authorities(client)
    # Each before what refers to it, so that apt never sees a part of them that cannot be used.
    contents: dict[str, tuple[str, int] | None] = {
        KEYRING: (client.identity.server_certificate.text, 0o644),
        AUTHORITIES: None,
        CONFIGURATION: None,
        CREDENTIALS: (_credentials(url.scheme, url.netloc, url.path, credentials), 0o600),
        SOURCES: (sources(client.settings["server.url"], deb.architecture()), 0o644),
    }
    if trusted and url.scheme == "https":
        contents[AUTHORITIES] = (trusted, 0o644)
        contents[CONFIGURATION] = (_configuration(url.hostname or ""), 0o644)
    for name, content in contents.items():
        path = paths.root / name
        if content is None:
            path.unlink(missing_ok=True)
        else:
            ensure_directory(path.parent, 0o755)
            write_atomically(path, content[0], mode=content[1])
    write_atomically(directory / STAMP, wanted, mode=0o600)
    return True


def remove(paths: Paths) -> None:
    """Remove apt's files; those of the machine's owner are left alone."""
    for name in reversed(FILES):
        (paths.root / name).unlink(missing_ok=True)


def _wanted(client: Client) -> str:
    """A hash of all that apt's files are made of, and of their form; "" where there shall be none."""
    directory, settings = client.paths.client_state, client.settings
    if not settings["repository.manage"] or package_kind(client.paths.client_code) != "deb":
        return ""
    if not (directory / "repository.json").exists():
        return ""
    digest = sha256(f"3 {settings['server.url']} {_authorities(client)}".encode())
    for name in _MATERIALS:
        digest.update(sha256(_bytes(directory / name)).digest())
    return digest.hexdigest()


def _authorities(client: Client) -> str:
    """The certificates that this client trusts for TLS, as PEM; "" for those of the system alone."""
    own, released = authorities.own(client), authorities.released(client)
    if own is None and not released:
        return ""
    return "\n".join((_text(own or client.paths.root / SYSTEM_AUTHORITIES).strip(), released))


def sources(url: str, architecture: str) -> str:
    """See sources.list(5), its DEB822-style. Of other architectures that dpkg may know, the site has no packages."""
    lines = {
        "Types": "deb",
        "URIs": f"{url.rstrip('/')}/{PLACE}",
        "Suites": "stable",
        "Components": "main",
        "Architectures": architecture,
        "Signed-By": f"/{KEYRING}",
    }
    return _MADE + "".join(f"{name}: {value}\n" for name, value in lines.items())


def _credentials(scheme: str, netloc: str, path: str, credentials: dict[str, str]) -> str:
    """See apt_auth.conf(5): without a scheme an entry is good for https alone."""
    machine = f"{netloc.rpartition('@')[2]}{path.rstrip('/')}/{PLACE}"
    where = machine if scheme == "https" else f"{scheme}://{machine}"
    return f"{_MADE}machine {where}\nlogin {credentials['user']}\npassword {credentials['password']}\n"


def _configuration(host: str) -> str:
    """Apt looks such options up by the name of the host, without the port."""
    return f'{_MADE}Acquire::https::{host}::CAInfo "/{AUTHORITIES}";\n'


def _text(path: Path) -> str:
    return _bytes(path).decode("ascii", "replace")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
