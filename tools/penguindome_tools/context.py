"""What every command of `penguindome` is handed: paths, settings, store and checks, opened when first asked for."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import click

from penguindome import logging
from penguindome.paths import Paths
from penguindome.settings import Settings
from penguindome.times import Clock, utc_now
from penguindome_server.checks import CheckSet
from penguindome_server.services import load_site_checks
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Store, open_store
from penguindome_tools.acts import Telling, acting_user, telling


class Context:
    """The surroundings of one command: built once by the command line, closed when it ends.

    Root works on the store as the user that owns the server's state, so that no link planted there by that user can
    lead root anywhere; `as_root` goes back for reading keys and writing what belongs to root.
    """

    def __init__(self, paths: Paths, *, clock: Clock = utc_now, debug: bool = False) -> None:
        self.paths = paths
        self.clock = clock
        self.debug = debug
        self._telling: Telling | None = None

    @cached_property
    def settings(self) -> Settings:
        """The server's settings; their warnings are shown once. Raises SettingsError with file and line."""
        settings = load_server_settings(self.paths)
        logging.configure(
            settings, component="admin", paths=self.paths, stderr_level="debug" if self.debug else "warning"
        )
        for warning in settings.warnings:
            click.echo(f"warning: {warning}", err=True)
        return settings

    @cached_property
    def store(self) -> Store:
        """The site's store, opened as the service user. Raises StoreUnavailable when it cannot be reached."""
        settings, _checks = self.settings, self.checks
        self.become_service_user()
        return open_store(settings["database.uri"])

    @cached_property
    def checks(self) -> CheckSet:
        """The checks that are shipped, with the site's laid over them. Raises SettingsError with file and line."""
        return load_site_checks(self.paths)

    @cached_property
    def who(self) -> str:
        """Who gave the command: the user behind sudo and its like, else who logged in, else the user of the process."""
        return acting_user()

    @contextmanager
    def as_root(self) -> Iterator[None]:
        """Work with the privileges that the command was started with, also after the store was opened."""
        effective_user, effective_group = os.geteuid(), os.getegid()
        os.seteuid(os.getuid())
        os.setegid(os.getgid())
        try:
            yield
        finally:
            os.setegid(effective_group)
            os.seteuid(effective_user)

    @contextmanager
    def acting(self, act: str) -> Iterator[None]:
        """Carry out the administrative act `act`, and tell how it went. An act within an act is a part of that."""
        if self._telling is not None:
            yield
            return
        try:
            with telling(self, act) as self._telling:
                yield
        finally:
            self._telling = None

    def acts_on(self, *targets: str, **details: Any) -> None:
        """Note on whom the act at hand is (host names, files), and what else should be told of it; no secrets.

        To be called before anything is changed: what was asked wrongly or called off before is not told.
        """
        if self._telling is not None:
            self._telling.note(targets, details)

    @property
    def open_store(self) -> Store | None:
        """The site's store, if this command has opened it."""
        return self.__dict__.get("store")

    def forget_settings(self) -> None:
        """Let settings and checks be read again: their files were replaced. The store must not have been opened."""
        for name in ("settings", "checks"):
            self.__dict__.pop(name, None)

    def become_service_user(self) -> None:
        """Give up root for the user that owns the server's state: before the store's files are touched."""
        if os.geteuid() != 0 or not self.paths.server_state.is_dir():
            return
        owner = self.paths.server_state.stat()
        if owner.st_uid:
            os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
            os.setegid(owner.st_gid)
            os.seteuid(owner.st_uid)

    def close(self) -> None:
        """Close what was opened."""
        if "store" in self.__dict__:
            self.store.close()


pass_context = click.make_pass_decorator(Context)
