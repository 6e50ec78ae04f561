"""The server's settings: each with type, default and meaning. Read from `server.yml` and `server.d/*.yml`."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from penguindome.bundle import server_url
from penguindome.errors import InvalidData
from penguindome.logging import FACILITIES, LEVELS, LOGGING_SETTINGS
from penguindome.paths import Paths
from penguindome.settings import Schema, Setting, Settings, load
from penguindome_server.access_settings import ACCESS_SETTINGS, check_networks, check_passwords, require_known_users
from penguindome_server.mail import MAIL_SETTINGS, check_addresses
from penguindome_server.ports import check_ports
from penguindome_server.release_kinds import RELEASE_KIND_SETTINGS
from penguindome_server.release_settings import RELEASE_SETTINGS

MEBIBYTE = 1 << 20


def server_settings_schema(paths: Paths) -> Schema:
    """The schema of the server's settings; the default of `database.uri` lies below the root of `paths`."""
    store = paths.server_state / "store.sqlite"
    return Schema(
        (
            Setting(
                name="database.uri",
                kind=str,
                default=f"sqlite://{store}",
                secret=True,
                check=_check_database,
                description="Where the store is: sqlite:///path (embedded) or mongodb://host1,host2/database?replicaSet=name.",
            ),
            *_WEB,
            *_ENROLMENT,
            *ACCESS_SETTINGS,
            *_METRICS,
            *_LIMITS,
            *_TIME,
            *MAIL_SETTINGS,
            *RELEASE_KIND_SETTINGS,
            *RELEASE_SETTINGS,
            *_CLIENTS,
            *LOGGING_SETTINGS,
        )
    )


def load_server_settings(paths: Paths) -> Settings:
    """Defaults, `server.d/*.yml` and `server.yml`, in that order. Raises SettingsError with file and line."""
    settings = read_server_settings(paths)
    require_known_users(settings)
    return settings


def read_server_settings(paths: Paths) -> Settings:
    """The same without a look at what belongs together, for who is about to put that right. Raises SettingsError."""
    return load(server_settings_schema(paths), paths.settings / "server.yml", paths.settings / "server.d")


def _no_value_error(text: Callable[[str], object]) -> Callable[[Any], None]:
    """A check of one value by a function that raises for what is wrong."""

    def check(value: Any) -> None:
        try:
            text(value)
        except InvalidData as error:
            raise ValueError(error.message) from error

    return check


def _check_database(value: Any) -> None:
    if not value.startswith(("sqlite:///", "mongodb://", "mongodb+srv://")):
        raise ValueError("this is neither sqlite:///path nor mongodb://host/database")


def _check_url(value: Any) -> None:
    if value:
        _no_value_error(server_url)(value)


def _check_timezone(value: Any) -> None:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"{value!r} is no known time zone (such as Europe/Berlin)") from error


def _check_weekdays(values: Any) -> None:
    for value in values:
        if value not in WEEKDAYS:
            raise ValueError(f"{value!r} is no weekday; write {', '.join(WEEKDAYS)}")


WEEKDAYS: Sequence[str] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_WEB = (
    Setting(
        name="server.url",
        kind=str,
        default="",
        check=_check_url,
        description="The address under which clients reach this server, such as https://penguindome.example.com:8443.",
    ),
    Setting(
        name="listen.address", kind=str, default="::", description="The address to listen on; :: is all, IPv4 too."
    ),
    Setting(name="listen.port", kind=int, default=8443, minimum=0, maximum=65535, description="The port to listen on."),
    Setting(
        name="tls.certificate",
        kind="path",
        description="PEM file with the server's certificate and its chain. Empty: plain HTTP, for use behind a proxy.",
    ),
    Setting(name="tls.key", kind="path", description="PEM file with the private key of tls.certificate."),
    Setting(
        name="tls.authorities",
        kind="path",
        description="PEM file of authorities that clients shall trust for TLS, beside self-signed certificates of this "
        "server; carried to them by bundles and releases. Machines that are set up with such a bundle trust no others.",
    ),
    Setting(
        name="ports",
        kind="map",
        default={},
        check=check_ports,
        description="More ports to listen on, each with its own TLS: {9443: {certificate: /path, key: /path}}; without "
        "a certificate plain HTTP. With deprecated: true, clients that still report over a port have an issue; so may "
        "listen.port be marked, which keeps tls.* unless it has a certificate here. New ports, and keys that root "
        "alone may read, are taken by `penguindome setup` and a restart.",
    ),
    Setting(
        name="listen.access_log", kind=bool, default=False, description="Write a line to the log for each request."
    ),
    Setting(name="workers", kind=int, default=2, minimum=1, maximum=64, description="Processes that serve requests."),
    Setting(name="threads", kind=int, default=8, minimum=1, maximum=256, description="Threads of each worker."),
    Setting(
        name="trusted_proxies",
        kind="list",
        default=[],
        check=check_networks,
        description="Addresses or networks of reverse proxies whose X-Forwarded-For is believed.",
    ),
    Setting(
        name="timeouts.request",
        kind="duration",
        default=timedelta(seconds=30),
        minimum=timedelta(seconds=1),
        description="How long a client may take to send one request, headers and body.",
    ),
    Setting(
        name="timeouts.answer",
        kind="duration",
        default=timedelta(seconds=30),
        minimum=timedelta(seconds=1),
        description="How long a client may take nothing, or less than a bad line carries, of an answer or download.",
    ),
    Setting(
        name="timeouts.keepalive",
        kind="duration",
        default=timedelta(seconds=15),
        minimum=timedelta(seconds=1),
        description="How long a connection without a request stays open.",
    ),
)

_ENROLMENT = (
    Setting(
        name="enrolment.policy",
        kind=str,
        default="approve",
        choices=("approve", "automatic", "closed"),
        description="What happens to a machine that asks: approve (an administrator confirms it), automatic (enrolled "
        "at once if its address is within enrolment.automatic_ranges) or closed.",
    ),
    Setting(
        name="enrolment.automatic_ranges",
        kind="list",
        default=["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
        check=check_networks,
        description="Networks in which the policy `automatic` enrols at once; other addresses wait for approval.",
    ),
    Setting(
        name="enrolment.pending_limit",
        kind=int,
        default=1000,
        minimum=1,
        description="How many requests may wait for approval in all.",
    ),
    Setting(
        name="enrolment.pending_limit_per_address",
        kind=int,
        default=20,
        minimum=1,
        description="How many requests may wait for approval from one address.",
    ),
)

_METRICS = (
    Setting(
        name="metrics.ipranges",
        kind="list",
        default=["127.0.0.0/8", "::1/128"],
        check=check_networks,
        description="Networks that may read the metrics without a password.",
    ),
    Setting(
        name="metrics.passwords",
        kind="map",
        default={},
        check=check_passwords,
        secret=True,
        description="Users that may read the metrics from anywhere, with the hash of their password (passlib).",
    ),
)

_LIMITS = (
    Setting(
        name="limits.body_bytes",
        kind=int,
        default=4 * MEBIBYTE,
        minimum=16384,
        maximum=64 * MEBIBYTE,
        description="The largest request body, also after decompression.",
    ),
    Setting(
        name="limits.depth", kind=int, default=32, minimum=4, maximum=48, description="How deeply a report may nest."
    ),
    Setting(
        name="limits.keys",
        kind=int,
        default=100_000,
        minimum=100,
        description="How many keys and values a report may hold.",
    ),
    Setting(
        name="limits.key_length",
        kind=int,
        default=256,
        minimum=16,
        description="The longest key of a report, in characters.",
    ),
    Setting(
        name="limits.report_bytes",
        kind=int,
        default=MEBIBYTE,
        minimum=16384,
        maximum=8 * MEBIBYTE,
        description="The largest report, as the bytes of its JSON.",
    ),
    Setting(
        name="limits.trail_bytes_per_day",
        kind=int,
        default=8 * MEBIBYTE,
        minimum=0,
        description="How much audit trail one client may cause in a day; beyond it the trail says that it was cut.",
    ),
)

_TIME = (
    Setting(
        name="business_time.timezone",
        kind=str,
        default="UTC",
        check=_check_timezone,
        description="The site's time zone, such as Europe/Berlin.",
    ),
    Setting(
        name="business_time.hours",
        kind="list",
        default=["09:00", "17:00"],
        description="Begin and end of the working day; grace periods count business time only.",
    ),
    Setting(
        name="business_time.weekdays",
        kind="list",
        default=list(WEEKDAYS[:5]),
        check=_check_weekdays,
        description="The working days of the week.",
    ),
    Setting(
        name="business_time.holidays", kind="list", default=[], description="Days without work, as 2026-12-25 or 12-25."
    ),
    Setting(
        name="audit.not_reporting_after",
        kind="duration",
        default=timedelta(days=7),
        description="After how long without a report a client counts as not reporting.",
    ),
    Setting(
        name="audit.interval",
        kind="duration",
        default=timedelta(hours=1),
        minimum=timedelta(minutes=1),
        description="How often the timer runs the audit; taken by `penguindome setup`. Cron runs it every hour.",
    ),
    Setting(
        name="audit.mail_to",
        kind=str,
        default="",
        check=check_addresses,
        description="Who is told by mail what the periodic audit finds: addresses, separated by commas. Empty: nobody.",
    ),
    Setting(
        name="audit.scheduled",
        kind=bool,
        default=True,
        description="Whether the timer, or cron where there is no systemd, runs the periodic audit.",
    ),
    Setting(
        name="schedule.collect_interval",
        kind="duration",
        default=timedelta(minutes=15),
        description="How often clients collect; carried to them by releases.",
    ),
    Setting(
        name="schedule.submit_interval",
        kind="duration",
        default=timedelta(minutes=1),
        description="How often clients ask for updates and submit; carried to them by releases.",
    ),
)

_CLIENTS = (
    Setting(
        name="clients.geolocation_key",
        kind=str,
        secret=True,
        description="The Google geolocation API key of the clients; carried to them by releases, once "
        "server_auth.download_release says who may download those.",
    ),
    Setting(
        name="clients.logging.handler",
        kind=str,
        default="stderr",
        choices=("stderr", "syslog", "file", "none"),
        description="Where log records of clients go; carried to them by releases, like all of clients.logging.",
    ),
    Setting(
        name="clients.logging.level",
        kind=str,
        default="info",
        choices=tuple(LEVELS),
        description="The least level of a record that a client logs there.",
    ),
    Setting(
        name="clients.logging.syslog.facility",
        kind=str,
        default="daemon",
        choices=tuple(FACILITIES),
        description="The syslog facility of clients.",
    ),
    Setting(
        name="clients.logging.syslog.host",
        kind=str,
        description="A syslog host for clients, reached by UDP. Not set: the machine's own /dev/log.",
    ),
    Setting(
        name="clients.logging.syslog.port",
        kind=int,
        default=514,
        minimum=1,
        maximum=65535,
        description="The UDP port of the syslog host of clients.",
    ),
)

SERVER_SETTINGS: Schema = server_settings_schema(Paths())
