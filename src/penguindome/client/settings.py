"""The client's settings: defaults, then what the release says (`settings/*.yml` of the client's tree), then what
patches say, then `/etc/penguindome/client.d/*.yml`, each in name order, then `client.yml`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from penguindome.client import generations
from penguindome.client.update_settings import UPDATE_SETTINGS
from penguindome.errors import SettingsError
from penguindome.logging import LOGGING_SETTINGS
from penguindome.paths import Paths
from penguindome.settings import Schema, Setting, Settings, load

RELEASED = "settings"
"""Where in the client's tree, and in what patches lay over it, settings lie."""
KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20

CLIENT_SETTINGS = Schema(
    (
        Setting(name="server.url", kind=str, default="", description="Base URL of the server; `setup` writes it."),
        Setting(
            name="server.connect_timeout",
            kind="duration",
            default=timedelta(seconds=10),
            description="How long to wait for a connection to the server.",
        ),
        Setting(
            name="server.read_timeout",
            kind="duration",
            default=timedelta(seconds=60),
            description="How long to wait for each piece of the server's answer.",
        ),
        Setting(
            name="allow_plain_http",
            kind=bool,
            default=False,
            description="Talk to a server without TLS beyond this machine. Reports can then be read on the way.",
        ),
        Setting(
            name="ca_certificate",
            kind="path",
            description="PEM file of the authorities to trust for TLS, and no others. Empty: those of the bundle (else "
            "the system's), and those of the release.",
        ),
        Setting(
            name="hostname",
            kind=str,
            default="",
            description="Name under which this machine reports. Empty: its host name.",
        ),
        Setting(
            name="schedule.collect_interval",
            kind="duration",
            default=timedelta(minutes=15),
            description="How often plugins run.",
        ),
        Setting(
            name="schedule.submit_interval",
            kind="duration",
            default=timedelta(minutes=1),
            description="How often the server is asked for news, and reports that wait are tried again.",
        ),
        Setting(
            name="spool.max_bytes",
            kind=int,
            default=20 * MEBIBYTE,
            minimum=64 * KIBIBYTE,
            description="Room for reports that wait for the server; beyond it the oldest are dropped.",
        ),
        Setting(
            name="spool.max_age",
            kind="duration",
            default=timedelta(days=30),
            description="How long a report waits for the server before it is dropped.",
        ),
        Setting(
            name="report.max_bytes",
            kind=int,
            default=900_000,
            minimum=4 * KIBIBYTE,
            description="Largest report; the largest outputs are left out, and said to be, until it fits.",
        ),
        Setting(
            name="plugins.timeout",
            kind="duration",
            default=timedelta(minutes=2),
            description="How long a plugin may run before it and all that it started is killed.",
        ),
        Setting(
            name="plugins.output_limit",
            kind=int,
            default=600_000,
            minimum=KIBIBYTE,
            description="How many bytes a plugin may print before it is killed.",
        ),
        Setting(
            name="plugins.disabled",
            kind="list",
            default=[],
            description="Names of plugins that do not run on this machine.",
        ),
        Setting(
            name="commands.timeout",
            kind="duration",
            default=timedelta(minutes=10),
            description="How long a one-time command may run before it is killed.",
        ),
        Setting(
            name="plugin_settings",
            kind="map",
            default={},
            description="Settings of plugins, which they read by `get_setting`.",
        ),
        *UPDATE_SETTINGS,
        *LOGGING_SETTINGS,
    )
)


def load_client_settings(paths: Paths, *, of_release: Path | None = None) -> Settings:
    """The settings of the client below `paths`; those of the release are taken from another directory on demand.

    Raises SettingsError with file and line.

    Those of patches were looked at before they were applied. Should they have stopped to fit since, they are left out
    and warned of: a client that does not start could not be sent others.
    """
    released = of_release or paths.client_code / RELEASED
    generation = generations.in_force(paths.client_state)
    if generation is None:
        return _load(paths, released)
    try:
        return _load(paths, released, generation / RELEASED)
    except SettingsError as error:
        settings = _load(paths, released)
        settings.warnings = (*settings.warnings, f"the settings of patches are left out: {error.message}")
        return settings


def check_overlay(paths: Paths, generation: Path) -> None:
    """Raise SettingsError, with file and line, unless all can be read with those of a generation of patches."""
    _load(paths, paths.client_code / RELEASED, generation / RELEASED)


def _load(paths: Paths, *fragments: Path) -> Settings:
    return load(CLIENT_SETTINGS, paths.settings / "client.yml", *fragments, paths.settings / "client.d")


def plugin_setting(settings: Settings, name: str, default: Any) -> Any:
    """The client's setting `name`, else that of a plugin below `plugin_settings` (nested, or under the dotted name)."""
    try:
        return settings[name]
    except KeyError:
        pass
    value: Any = settings["plugin_settings"]
    if name in value:
        return value[name]
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value
