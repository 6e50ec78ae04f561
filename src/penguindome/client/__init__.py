"""The client: one short process a minute that collects, signs and submits.

Plugins import `get_setting` and `get_logger` from here; both load what they need when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penguindome.logging import Logger


def get_setting(name: str, default: Any = None) -> Any:
    """The value of a client setting by its dotted name (`schedule.collect_interval`), or of a plugin's own setting
    below `plugin_settings` (`geolocation.api_key`); `default` where neither is set. Raises SettingsError for unreadable
    files.
    """
    from penguindome.client.settings import load_client_settings, plugin_setting
    from penguindome.paths import Paths

    return plugin_setting(load_client_settings(Paths.from_environment()), name, default)


def get_logger(name: str) -> Logger:
    """A logger that writes where the client's settings say, for plugins (standard output belongs to their JSON)."""
    from penguindome import logging
    from penguindome.client.settings import load_client_settings
    from penguindome.paths import Paths

    paths = Paths.from_environment()
    logging.configure(load_client_settings(paths), component="client", paths=paths)
    return logging.get_logger(name)
