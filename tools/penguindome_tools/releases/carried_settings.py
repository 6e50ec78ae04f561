"""Settings of the server that releases carry to clients: `schedule.*` and `clients.*`.

They become a fragment `10-server.yml` in the client's tree, beside those of `client-release.d`, which are laid over it
in the order of their names; the geolocation key becomes one of its own, which root alone may read on a client. But
packages lie about, so it is carried only once downloads are not open to everybody. What is not set on the server is not
set there either: clients have their own defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penguindome.errors import SettingsError
from penguindome.settings import Settings, write_fragment
from penguindome_tools.releases.site_files import SiteFiles

FRAGMENT = "10-server.yml"
PRIVATE_FRAGMENT = "10-server-private.yml"
GEOLOCATION_KEY = "clients.geolocation_key"
SAME_NAME = ("schedule.collect_interval", "schedule.submit_interval")
LOGGING = "clients.logging."


def carried(settings: Settings) -> dict[str, Any]:
    """The client's settings that follow from the server's, by the client's names, but those that are private."""
    values = {name: settings[name] for name in SAME_NAME if _is_set(settings, name)}
    for name in settings:
        if name.startswith(LOGGING) and _is_set(settings, name):
            values[name.removeprefix("clients.")] = settings[name]
    return values


def private(settings: Settings) -> dict[str, Any]:
    """Those of them that not everybody may read."""
    key = settings[GEOLOCATION_KEY]
    return {"plugin_settings": {"geolocation": {"api_key": key}}} if key else {}


def write_settings(settings: Settings, site: SiteFiles, directory: Path) -> None:
    """Write the settings that a release carries into `directory` (`settings/` of the client's tree).

    Raises SettingsError when a file of the site's would hide ours.
    """
    for name in (FRAGMENT, PRIVATE_FRAGMENT):
        if name in site.settings:
            raise SettingsError(
                f"client-release.d/{name} has the name of the file that is made of the server's settings"
            )
    for name, contents in site.settings.items():
        _put(directory / name, contents)
    for name, values, mode in ((FRAGMENT, carried(settings), 0o644), (PRIVATE_FRAGMENT, private(settings), 0o600)):
        if values:
            directory.mkdir(exist_ok=True)
            write_fragment(directory / name, values, mode=mode)


def require_closed(settings: Settings, tree: Path) -> None:
    """Raise SettingsError when everybody may download what must not be read by everybody in the client's `tree`."""
    if not (tree / "settings" / PRIVATE_FRAGMENT).exists():
        return
    access = settings.section("server_auth.download_release")
    if not any(access.values()):
        raise SettingsError(
            f"everybody could read {GEOLOCATION_KEY} in packages that everybody may download: no setting of "
            "server_auth.download_release restricts that",
            hint="name a user (penguindome password USER --endpoint download_release) or ipranges; or unset the key",
        )


def warnings(settings: Settings, released: Settings) -> list[str]:
    """What an administrator should know of how the server's settings and the site's files meet."""
    return [*_without_effect(released), *_hidden_key(settings, released)]


def _without_effect(released: Settings) -> Iterator[str]:
    for name, why in (
        ("server.url", "what setup wrote on each machine has the last word"),
        (
            "ca_certificate",
            "it names a file that no release brings; what is to be trusted, releases carry by themselves",
        ),
    ):
        if released.origin(name).file is not None:
            yield f"{released.origin(name)}: {name} is of no use in a release: {why}"


def _hidden_key(settings: Settings, released: Settings) -> list[str]:
    origin = released.origin("plugin_settings")
    given: Mapping[str, Any] = released["plugin_settings"]
    if settings[GEOLOCATION_KEY] and origin.file is not None and origin.file.name > FRAGMENT:
        section = given.get("geolocation")
        if not isinstance(section, Mapping) or "api_key" not in section:
            return [
                f"{origin}: plugin_settings takes the place of the one with {GEOLOCATION_KEY}: add geolocation.api_key"
            ]
    return []


def _is_set(settings: Settings, name: str) -> bool:
    return settings.origin(name).file is not None and settings[name] is not None


def _put(path: Path, contents: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(contents)
    path.chmod(0o644)
