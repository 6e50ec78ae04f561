"""The settings of authentication: users, groups, and who may use which endpoint."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from penguindome.errors import SettingsError
from penguindome.settings import Setting, Settings

ENDPOINTS: Sequence[str] = ("download_release", "pipe_create")
LONGEST_NAME = 100


def check_networks(values: Any) -> None:
    """Raise ValueError unless these are addresses or networks."""
    for value in values:
        ipaddress.ip_network(str(value), strict=False)


def check_passwords(values: Any) -> None:
    """Raise ValueError unless these are password hashes by user."""
    if not values:
        return
    # Imported here: only who sets a password pays for it.
    from penguindome_server.passwords import SCHEMES, password_context

    for user, value in values.items():
        check_user_name(user)
        if not isinstance(value, str) or password_context().identify(value) is None:
            raise ValueError(f"the value of {user!r} is no password hash that is known here ({', '.join(SCHEMES)})")


def check_user_name(name: str) -> None:
    """Raise ValueError unless HTTP can carry this name of a user (RFC 7617)."""
    if not name or len(name) > LONGEST_NAME or ":" in name or not name.isprintable():
        raise ValueError(f"{name[:LONGEST_NAME]!r} cannot be a user: it is empty, too long, or has a colon in it")


def _check_groups(values: Any) -> None:
    for group, members in values.items():
        if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
            raise ValueError(f"the group {group!r} is no list of users")


def require_known_users(settings: Settings) -> None:
    """Raise SettingsError, with file and line, for a user or group that is named and not there."""
    for name, kind, named, known in _references(settings):
        if not isinstance(named, str) or named not in known:
            hint = f"set a password: penguindome password {named}" if kind == "user" else None
            raise SettingsError(f"{settings.origin(name)}: {name}: there is no {kind} {named!r}", hint=hint)


def _references(settings: Settings) -> Iterator[tuple[str, str, Any, Any]]:
    for members in settings["groups"].values():
        yield from (("groups", "user", member, settings["users"]) for member in members)
    for endpoint in ENDPOINTS:
        for kind in ("user", "group"):
            name = f"server_auth.{endpoint}.{kind}s"
            yield from ((name, kind, named, settings[f"{kind}s"]) for named in settings[name])


def _endpoint(name: str, what: str) -> Iterator[Setting]:
    section = f"server_auth.{name}"
    yield Setting(
        name=f"{section}.ipranges",
        kind="list",
        default=[],
        check=check_networks,
        description=f"Addresses or networks that may {what} without a password.",
    )
    yield Setting(
        name=f"{section}.users",
        kind="list",
        default=[],
        description=f"Users of `users` that may {what}.",
    )
    yield Setting(
        name=f"{section}.groups",
        kind="list",
        default=[],
        description=f"Groups of `groups` whose users may {what}.",
    )
    yield Setting(
        name=f"{section}.passwords",
        kind="map",
        default={},
        check=check_passwords,
        secret=True,
        description=f"More users that may {what}, for this alone, with the hash of their password (passlib). "
        f"`penguindome password USER --endpoint {name}` writes it.",
    )


ACCESS_SETTINGS = (
    Setting(
        name="users",
        kind="map",
        default={},
        check=check_passwords,
        secret=True,
        description="Users known to the whole server, with the hash of their password (passlib), for server_auth to "
        "name. `penguindome password USER` writes it.",
    ),
    Setting(
        name="groups",
        kind="map",
        default={},
        check=_check_groups,
        description="Groups of users, for server_auth to name: {group: [user, ...]}.",
    ),
    *_endpoint("download_release", "download releases and repositories"),
    *_endpoint("pipe_create", "begin remote shells"),
)
