"""From the server's settings to answers, and from answers back to settings."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from penguindome.errors import PenguinDomeError
from penguindome.paths import Paths
from penguindome.questions import NONE, Answers, Check, InvalidAnswer, Question, split_host
from penguindome.settings import Settings
from penguindome.times import format_duration
from penguindome_server.store import require_access
from penguindome_tools.database_address import DatabaseAddress
from penguindome_tools.questions import QUESTIONS

FRAGMENT = "server.d/10-setup.yml"
DATABASE_PORT = 27017
REACH_SECONDS = 3.0
_TLS = ("tls", "tls-certificate", "tls-key")
_DATABASE = tuple(question.name for question in QUESTIONS if question.name.startswith("database"))


def self_signed_files(paths: Paths) -> tuple[Path, Path]:
    """Where the certificate that setup makes lies, and its key."""
    directory = paths.keys.parent / "tls"
    return directory / "server.crt", directory / "server.key"


def next_files(paths: Paths) -> tuple[Path, Path]:
    """Where the certificate lies that `penguindome certificate use` will put in the place of that one, and its key."""
    directory = self_signed_files(paths)[0].parent
    return directory / "next.crt", directory / "next.key"


def present_answers(paths: Paths, settings: Settings) -> dict[str, str]:
    """The answers that the settings in force amount to, hand edits included; none to what was never decided."""
    answers = {question.name: _text(settings[question.setting]) for question in QUESTIONS if question.setting}
    answers |= _present_tls(paths, settings)
    if settings["database.uri"].startswith("sqlite:"):
        answers["database"] = "sqlite"
    else:
        answers |= {"database": "mongodb", **DatabaseAddress.parse(settings["database.uri"]).answers()}
    for question in QUESTIONS:
        if question.optional and question.name in answers and not answers[question.name]:
            answers[question.name] = NONE
    return {name: answer for name, answer in answers.items() if answer}


def _present_tls(paths: Paths, settings: Settings) -> dict[str, str]:
    certificate, key = settings["tls.certificate"], settings["tls.key"]
    if certificate is None:
        return {"tls": "none"} if (paths.settings / FRAGMENT).exists() else {}
    if certificate == self_signed_files(paths)[0]:
        return {"tls": "self-signed"}
    return {"tls": "files", "tls-certificate": str(certificate), "tls-key": str(key or certificate)}


def new_settings(paths: Paths, settings: Settings, answers: Answers, present: Answers) -> dict[str, Any]:
    """What has to be written so that the answers are in force: by name, None for a setting to be removed.

    An answer that is in force already writes nothing: where it came from, it stays.
    """
    values: dict[str, Any] = {}
    changed = _changed(answers, present)
    for question in QUESTIONS:
        if question.setting and question.name in changed:
            values[question.setting] = _value(question, answers[question.name])
    if changed.intersection(_TLS):
        values |= _tls_settings(paths, answers)
    if changed.intersection(_DATABASE):
        values["database.uri"] = database_uri(paths, settings, answers)
    return values


def _changed(answers: Answers, present: Answers) -> set[str]:
    """The questions that are asked, given these answers, and have another answer than now."""
    return {
        question.name
        for question in QUESTIONS
        if question.is_asked(answers) and answers[question.name] != present.get(question.name)
    }


def _tls_settings(paths: Paths, answers: Answers) -> dict[str, Any]:
    if answers["tls"] == "none":
        return {"tls.certificate": None, "tls.key": None}
    if answers["tls"] == "files":
        return {"tls.certificate": answers["tls-certificate"], "tls.key": answers["tls-key"]}
    certificate, key = self_signed_files(paths)
    return {"tls.certificate": str(certificate), "tls.key": str(key)}


def database_uri(paths: Paths, settings: Settings, answers: Answers) -> str:
    """The `database.uri` of the answers; what the present one says beside them (options, scheme) is kept."""
    present = settings["database.uri"]
    if answers["database"] == "sqlite":
        return str(present) if present.startswith("sqlite:") else f"sqlite://{paths.server_state / 'store.sqlite'}"
    base = DatabaseAddress.parse(present) if present.startswith("mongodb") else DatabaseAddress()
    return base.with_answers(answers).uri()


def checks(paths: Paths, settings: Settings) -> Mapping[str, Check]:
    """What is looked at beyond an answer's form: bounds of settings, the pair of certificate and key, the database."""

    def access(question: str) -> Check:
        return lambda answer, answers: require_access(database_uri(paths, settings, {**answers, question: answer}))

    def nobody_may_in(answer: str, answers: Answers) -> None:
        # A user is looked at together with the password, which comes next.
        if answer == NONE:
            access("database-user")(answer, {**answers, "database-password": NONE})

    found: dict[str, Check] = {question.name: _within_bounds(question, settings) for question in QUESTIONS}
    return found | {
        "tls-key": lambda answer, answers: _require_pair(answers["tls-certificate"], answer),
        "database-hosts": _require_reachable,
        "database-user": nobody_may_in,
        "database-password": access("database-password"),
    }


def require_consistent(paths: Paths, settings: Settings, answers: Answers, present: Answers) -> None:
    """Look at what belongs together, whichever part of it was given. Raises InvalidAnswer."""
    changed = _changed(answers, present)
    if answers["tls"] == "files" and changed.intersection(_TLS):
        for name in ("tls-certificate", "tls-key"):
            if not answers[name]:
                raise InvalidAnswer(name, "an answer is needed, because tls is files")
        _require_pair(answers["tls-certificate"], answers["tls-key"])
    if answers["database"] == "mongodb" and changed.intersection(_DATABASE):
        try:
            require_access(database_uri(paths, settings, answers))
        except PenguinDomeError as error:
            raise InvalidAnswer("database-hosts", error.message, hint=error.hint) from error


def _within_bounds(question: Question, settings: Settings) -> Check:
    def check(answer: str, _answers: Answers) -> None:
        value = _value(question, answer)
        if question.setting and value is not None:
            try:
                settings.schema[question.setting].convert(value)
            except ValueError as error:
                raise InvalidAnswer(question.name, str(error)) from error

    return check


def _require_pair(certificate: str, key: str) -> None:
    try:
        # Nobody is there to type the passphrase of a key when the server starts.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidAnswer("tls-key", f"{certificate} and {key} cannot be used together: {reason}") from error


def _require_reachable(answer: str, _answers: Answers) -> None:
    reasons = []
    for host in answer.split(","):
        name, port = split_host(host)
        try:
            socket.create_connection((name, int(port or DATABASE_PORT)), timeout=REACH_SECONDS).close()
        except OSError as error:
            reasons.append(f"{host}: {error.strerror or error}")
        else:
            return
    raise InvalidAnswer("database-hosts", f"no database can be reached ({'; '.join(reasons)})")


def _value(question: Question, answer: str) -> Any:
    """An answer as the value of its setting, as a file would have it; None: no value."""
    if question.optional and answer == NONE:
        return None
    if question.kind == "port":
        return int(answer)
    return answer == "true" if question.kind == "boolean" else answer


def _text(value: Any) -> str:
    """A setting's value as an answer."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format_duration(value) if isinstance(value, timedelta) else str(value)
