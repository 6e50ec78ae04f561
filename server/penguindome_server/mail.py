"""Mail, handed to an SMTP server: the one module that knows smtplib."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Sequence
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, make_msgid
from typing import ClassVar

from penguindome.errors import PenguinDomeError
from penguindome.settings import Setting, Settings
from penguindome.times import Clock, utc_now

SECONDS = 30
LONGEST_ADDRESS = 254  # RFC 5321


class MailNotSent(PenguinDomeError):
    """A mail could not be handed on. The message names the SMTP server and the reason, never a password."""

    code: ClassVar[str] = "mail-not-sent"


def addresses(text: str) -> list[str]:
    """The bare addresses in a text such as `Ann <ann@example.org>, ops@example.org`."""
    return [address for _name, address in getaddresses([text]) if address]


def check_addresses(text: str) -> None:
    """Raise ValueError unless the text is empty or a list of addresses."""
    if not text.strip():
        return
    found = addresses(text)
    if not text.isprintable() or len(found) != len([part for part in text.split(",") if part.strip()]):
        raise ValueError("expected mail addresses, separated by commas")
    for address in found:
        local, _, domain = address.rpartition("@")
        if not local or not domain or len(address) > LONGEST_ADDRESS or not address.isascii() or " " in address:
            raise ValueError(f"{address!r} is no mail address")


def _check_sender(text: str) -> None:
    check_addresses(text)
    if len(addresses(text)) > 1:
        raise ValueError("expected one mail address")


MAIL_SETTINGS = (
    Setting("mail.host", str, "localhost", "The SMTP server that mail is handed to."),
    Setting("mail.port", int, 25, "Its port: 25, 587 with starttls, or 465 with tls.", minimum=1, maximum=65535),
    Setting(
        "mail.encryption",
        str,
        "none",
        "How the connection to it is encrypted; its certificate must be valid then.",
        choices=("none", "starttls", "tls"),
    ),
    Setting("mail.user", str, "", "The user to log in with; empty: no login."),
    Setting("mail.password", str, "", "That user's password.", secret=True),
    Setting(
        "mail.sender",
        str,
        "",
        "The address that mail comes from. Empty: penguindome@ this host's name.",
        check=_check_sender,
    ),
)


def message(settings: Settings, to: Sequence[str], subject: str, text: str, *, clock: Clock = utc_now) -> EmailMessage:
    """A mail of plain text, with the headers that every mail needs. What is in `subject` must be our own words."""
    host = socket.getfqdn()
    sender = settings["mail.sender"] or f"penguindome@{host}"
    # Not every server takes 8-bit text.
    mail = EmailMessage(policy=policy.SMTP.clone(cte_type="7bit"))
    mail["From"] = sender
    mail["To"] = [Address(addr_spec=address) for address in to]
    mail["Subject"] = subject
    mail["Date"] = format_datetime(clock())
    mail["Message-ID"] = make_msgid(domain=addresses(sender)[0].rpartition("@")[2])
    # RFC 3834: no machine shall answer it.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text, charset="utf-8")
    return mail


def send(settings: Settings, mail: EmailMessage) -> None:
    """Hand a mail to the SMTP server. Raises MailNotSent, also when some of its recipients were refused."""
    where = f"{settings['mail.host']}:{settings['mail.port']}"
    try:
        with _connect(settings) as connection:
            if settings["mail.user"]:
                connection.login(settings["mail.user"], settings["mail.password"])
            refused = connection.send_message(mail)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise MailNotSent(
            f"the mail was not taken by {where}: {_reason(error)}", hint="see the settings mail.*"
        ) from error
    if refused:
        raise MailNotSent(f"{where} refused some recipients: {', '.join(sorted(refused))}")


def _connect(settings: Settings) -> smtplib.SMTP:
    host, port = settings["mail.host"], settings["mail.port"]
    if settings["mail.encryption"] == "tls":
        return smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=ssl.create_default_context())
    connection = smtplib.SMTP(host, port, timeout=SECONDS)
    if settings["mail.encryption"] == "starttls":
        try:
            connection.starttls(context=ssl.create_default_context())
        except BaseException:
            connection.close()
            raise
    return connection


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {error.smtp_error!r}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"it refused {', '.join(sorted(error.recipients))}"
    return str(error) or type(error).__name__
