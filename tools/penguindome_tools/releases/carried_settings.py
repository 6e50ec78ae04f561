"""Settings of the server that releases carry to clients: `schedule.*` and `clients.*`.

They become a fragment `10-server.yml` in the client's tree, beside those of `client-release.d`, which are laid over it
in the order of their names. What is not set on the server is not set there either: clients have their own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penguindome.errors import SettingsError
from penguindome.settings import Settings, write_fragment
from penguindome_tools.releases.site_files import SiteFiles

FRAGMENT = "10-server.yml"
GEOLOCATION_KEY = "clients.geolocation_key"
SAME_NAME = ("schedule.collect_interval", "schedule.submit_interval")
LOGGING = "clients.logging."


def carried(settings: Settings) -> dict[str, Any]:
    """The client's settings that follow from the server's, by the client's names."""
    values = {name: settings[name] for name in SAME_NAME if _is_set(settings, name)}
    for name in settings:
        if name.startswith(LOGGING) and _is_set(settings, name):
            values[name.removeprefix("clients.")] = settings[name]
    if settings[GEOLOCATION_KEY]:
        values["plugin_settings"] = {"geolocation": {"api_key": settings[GEOLOCATION_KEY]}}
    return values


def write_settings(settings: Settings, site: SiteFiles, directory: Path) -> None:
    """Write the settings that a release carries into `directory` (`settings/` of the client's tree).

    Raises SettingsError when a file of the site's would hide ours.
    """
    values = carried(settings)
    if FRAGMENT in site.settings:
        raise SettingsError(
            f"client-release.d/{FRAGMENT} has the name of the file that is made of the server's settings"
        )
    for name, contents in site.settings.items():
        _put(directory / name, contents)
    if values:
        directory.mkdir(exist_ok=True)
        write_fragment(directory / FRAGMENT, values, mode=0o644)


def warnings(settings: Settings, released: Settings) -> list[str]:
    """What an administrator should know of how the server's settings and the site's files meet."""
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
