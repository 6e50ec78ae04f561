"""What setting up a server asks: the one table behind debconf, `penguindome setup` and its answer files."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from penguindome.logging import FACILITIES, LEVELS
from penguindome.questions import Answers, Question

LOG_HANDLERS = ("stderr", "syslog", "file", "none")


def default_url(answers: Answers) -> str:
    """The URL that clients most likely reach this machine at; without TLS of its own, that of a proxy in front."""
    port = answers.get("port", "443") if answers.get("tls") != "none" else "443"
    return f"https://{socket.getfqdn()}" + ("" if port == "443" else f":{port}")


_LISTENING = (
    Question(
        "address", "Address to listen on",
        "The address of this machine on which the server listens. :: is all of them.",
        default="::", priority="low", setting="listen.address",
    ),
    Question(
        "port", "Port to listen on",
        "The port of the web service. Behind a proxy it may be another than the one that clients connect to; here the "
        "question is what the server itself listens on.",
        kind="port", default="8443", setting="listen.port",
    ),
    Question(
        "tls", "TLS certificate",
        "Where the server's TLS certificate comes from. self-signed: one is made now, and clients learn from their "
        "enrolment bundle to trust it. files: you have a certificate and its key. none: no TLS, for a server behind a "
        "proxy that does it; clients refuse plain http beyond their own machine.",
        kind="choice", choices=("self-signed", "files", "none"), default="self-signed",
    ),
    Question(
        "tls-certificate", "File with the certificate", "PEM file with the server's certificate and its chain.",
        kind="file", priority="high", when=("tls=files",),
    ),
    Question(
        "tls-key", "File with the private key",
        "PEM file with the private key of the certificate. Root alone needs to be able to read it.",
        kind="file", priority="high", when=("tls=files",),
    ),
    Question(
        "url", "URL at which clients reach this server",
        "The first part of the URLs that clients use, such as https://penguindome.example.org:8443. Behind a proxy, "
        "host and port are those of the proxy. It goes into every enrolment bundle.",
        kind="url", default=default_url, priority="high", setting="server.url",
    ),
)  # fmt: skip

_MONGODB = ("database=mongodb",)
_DATABASE = (
    Question(
        "database", "Database",
        "Where the data is kept. sqlite: in a file of the server's own, with nothing to install; good for thousands of "
        "clients. mongodb: in a MongoDB server or replica set, which several PenguinDome servers can share.",
        kind="choice", choices=("sqlite", "mongodb"), default="sqlite",
    ),
    Question(
        "database-hosts", "Database hosts",
        "Host or host:port of the MongoDB server; of a replica set several, with commas between. Port 27017 if none is "
        "given.",
        kind="hosts", default="localhost", when=_MONGODB,
    ),
    Question(
        "database-replica-set", "Name of the replica set", "The name of the MongoDB replica set, or none.",
        optional=True, default="none", when=_MONGODB,
    ),
    Question(
        "database-name", "Name of the database", "The database in which PenguinDome's collections lie.",
        default="penguindome", when=_MONGODB,
    ),
    Question(
        "database-user", "Database user",
        "The user that the server logs in as, or none where the database lets everybody in, which is a bad idea "
        "anywhere but on this very host.",
        optional=True, default="none", when=_MONGODB,
    ),
    Question(
        "database-password", "Password of the database user",
        "Leave it empty to keep the present one; none for a user without a password.",
        kind="secret", optional=True, when=(*_MONGODB, "database-user!=none"),
    ),
)  # fmt: skip


def _logging(prefix: str, section: str, whose: str) -> Sequence[Question]:
    syslog = (f"{prefix}log-handler=syslog",)
    where = "stderr (which is the journal under systemd)"
    return (
        Question(
            f"{prefix}log-handler", f"Log handler of {whose}",
            f"Where log records of {whose} go: {where}, syslog, a file, or none. Whatever you choose, a rotated debug "
            "log is kept below /var/log/penguindome.",
            kind="choice", choices=LOG_HANDLERS, default="stderr", priority="low", setting=f"{section}.handler",
        ),
        Question(
            f"{prefix}log-level", f"Logging level of {whose}",
            "The least level of the records that go there.",
            kind="choice", choices=tuple(LEVELS), default="info", priority="low", setting=f"{section}.level",
        ),
        Question(
            f"{prefix}syslog-facility", f"Syslog facility of {whose}", "The facility of the records in syslog.",
            kind="choice", choices=tuple(FACILITIES), default="daemon", priority="low",
            setting=f"{section}.syslog.facility", when=syslog,
        ),
        Question(
            f"{prefix}syslog-host", f"Syslog host of {whose}",
            "A host that takes syslog records over UDP; none for the syslog daemon of the machine itself.",
            optional=True, default="none", priority="low", setting=f"{section}.syslog.host", when=syslog,
        ),
        Question(
            f"{prefix}syslog-port", f"Syslog port of {whose}", "The UDP port of the syslog host.",
            kind="port", default="514", priority="low", setting=f"{section}.syslog.port",
            when=(*syslog, f"{prefix}syslog-host!=none"),
        ),
    )  # fmt: skip


_AUDIT = (
    Question(
        "audit", "Run the periodic audit",
        "The audit finds what only time brings, such as machines that no longer report, and says what is past its "
        "grace period. A timer (or cron) runs it.",
        kind="boolean", default="true", setting="audit.scheduled",
    ),
    Question(
        "audit-mail", "Mail addresses for the audit's findings",
        "Who gets a mail when the audit finds something (with commas between); none for nobody. "
        "This machine must be able to send mail.",
        kind="mail", optional=True, default="none", setting="audit.mail_to", when=("audit=true",),
    ),
)  # fmt: skip

_CLIENTS = (
    Question(
        "geolocation-key", "Google geolocation API key",
        "Needed for finding out where machines are; none for no key. Leave it empty to keep the present one.",
        kind="secret", optional=True, priority="low", setting="clients.geolocation_key",
    ),
    Question(
        "collect-interval", "Time between two collections",
        "A number of minutes, or a duration such as 15m or 1h. Collecting is cheap, but some facts take a while.",
        kind="duration", default="15m", priority="low", setting="schedule.collect_interval",
    ),
    Question(
        "submit-interval", "Time between two submissions",
        "A number of minutes, or a duration such as 1m: how often clients ask for news, and try reports that "
        "wait again.",
        kind="duration", default="1m", priority="low", setting="schedule.submit_interval",
    ),
)  # fmt: skip

QUESTIONS: Sequence[Question] = (
    *_LISTENING,
    *_DATABASE,
    *_logging("", "logging", "the server"),
    *_AUDIT,
    *_CLIENTS,
    *_logging("client-", "clients.logging", "the clients"),
)
