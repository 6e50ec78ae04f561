"""What every command of `penguindome` is handed: paths, settings, store and checks, each opened when first asked for."""

from __future__ import annotations

import os
import pwd
from functools import cached_property

import click

from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome.times import Clock, utc_now
from penguindome_server.checks import CheckSet
from penguindome_server.services import load_site_checks
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Store, open_store


class Context:
    """The surroundings of one command: built once by the command line, closed when it ends."""

    def __init__(self, paths: Paths, *, clock: Clock = utc_now) -> None:
        self.paths = paths
        self.clock = clock

    @cached_property
    def settings(self) -> Settings:
        """The server's settings. Raises SettingsError with file and line."""
        settings = load_server_settings(self.paths)
        for warning in settings.warnings:
            click.echo(f"warning: {warning}", err=True)
        return settings

    @cached_property
    def store(self) -> Store:
        """The site's store. Raises StoreUnavailable when it cannot be reached."""
        return open_store(self.settings["database.uri"])

    @cached_property
    def checks(self) -> CheckSet:
        """The checks that are shipped, with the site's laid over them."""
        return load_site_checks(self.paths)

    @cached_property
    def who(self) -> str:
        """Who gave the command: the user behind sudo, else the user of the process."""
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name

    def close(self) -> None:
        """Close what was opened."""
        if "store" in self.__dict__:
            self.store.close()


pass_context = click.make_pass_decorator(Context)
