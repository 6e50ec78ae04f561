"""The questions of a setup, as data: one table becomes the debconf templates and `config` script of a package, the
interactive `setup`, its answer files (`--answers`) and what `--print` shows.

An answer is one line of text. An empty one means: as it is now. `none` leaves an optional question without a value. An
answer that is already in force is not looked at again, so that a database that is away just now, or a file that was
needed once, does not stand in the way of an upgrade.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import ClassVar

from penguindome.errors import InvalidData, PenguinDomeError, UsageError
from penguindome.files import read_limited
from penguindome.times import format_duration, parse_duration

NONE = "none"
ANSWER_FILE_BYTES = 1 << 20

Answers = Mapping[str, str]
Check = Callable[[str, Answers], None]
"""Looks at an answer in the light of those before it; raises PenguinDomeError, whose text is the reason."""


class InvalidAnswer(PenguinDomeError):
    """An answer that cannot be; `question` is whose, and the message says why."""

    code: ClassVar[str] = "invalid-answer"
    exit_status: ClassVar[int] = 2

    def __init__(self, question: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{question}: {reason}", hint=hint)
        self.question = question
        self.reason = reason


@dataclass(frozen=True)
class Question:
    """One question.

    `kind` is text, choice, boolean, secret, port, duration, url, file, hosts, mail, fingerprint or token-file: what
    form an answer has. `default` is for where nothing is set yet; a function of the earlier answers if it depends on
    them. `when` says under which earlier answers it is asked at all: `question=answer` or `question!=answer`, all of
    which must hold, with `|` between alternatives. `priority` is debconf's. `setting` is what the answer becomes; None
    for answers that take part in something larger.
    """

    name: str
    prompt: str
    help: str
    kind: str = "text"
    default: str | Callable[[Answers], str] = ""
    choices: Sequence[str] = ()
    priority: str = "medium"
    setting: str | None = None
    optional: bool = False
    when: Sequence[str] = ()

    @property
    def is_secret(self) -> bool:
        """Whether an answer is shown to nobody."""
        return self.kind == "secret"

    def default_after(self, answers: Answers) -> str:
        """The default, given the answers before this question."""
        return self.default if isinstance(self.default, str) else self.default(answers)

    def is_asked(self, answers: Answers) -> bool:
        """Whether it is asked, given the answers before it."""
        return all(any(_holds(term, answers) for term in condition.split("|")) for condition in self.when)

    def normalised(self, text: str) -> str:
        """The one form in which an answer is compared and kept. Raises InvalidAnswer."""
        if not text.isprintable():
            raise InvalidAnswer(self.name, "an answer is one line without control characters")
        answer = text if self.is_secret else text.strip()
        if self.optional and answer.lower() == NONE:
            return NONE
        if not answer:
            raise InvalidAnswer(self.name, "an answer is needed" + (f" ({NONE}: no value)" if self.optional else ""))
        try:
            return _FORMS.get(self.kind, _as_it_is)(self, answer)
        except ValueError as error:
            raise InvalidAnswer(self.name, str(error)) from error
        except InvalidData as error:
            raise InvalidAnswer(self.name, error.message) from error


def accept(question: Question, text: str, answers: Answers, present: Answers, checks: Mapping[str, Check]) -> str:
    """The answer in `text`, normalised, if form and what it names are right. Raises InvalidAnswer."""
    answer = question.normalised(text)
    if answer == present.get(question.name):
        return answer
    try:
        if question.kind in ("file", "token-file") and answer != NONE:
            _require_file(answer)
        if question.name in checks:
            checks[question.name](answer, answers)
    except InvalidAnswer:
        raise
    except PenguinDomeError as error:
        raise InvalidAnswer(question.name, error.message, hint=error.hint) from error
    return answer


def complete(
    questions: Sequence[Question], given: Answers, present: Answers, checks: Mapping[str, Check]
) -> dict[str, str]:
    """An answer for every question: what was `given` where it is asked, else what is `present`, else the default.

    Raises InvalidAnswer for what was given and cannot be.
    """
    answers: dict[str, str] = {}
    for question in questions:
        answer = present.get(question.name) or question.default_after(answers)
        if given.get(question.name) and question.is_asked(answers):
            answer = accept(question, given[question.name], answers, present, checks)
        answers[question.name] = answer
    return answers


def read_answers(name: str, questions: Sequence[Question]) -> dict[str, str]:
    """The answers in a file of `question=answer` lines (`-`: standard input); `#` begins a comment.

    Raises UsageError for what is no such line, InvalidAnswer for a question that does not exist.
    """
    known = {question.name: question for question in questions}
    answers: dict[str, str] = {}
    for number, line in enumerate(_text(name).split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, separator, answer = line.partition("=")
        if not separator:
            raise UsageError(f"{name}:{number}: this is no line of the form question=answer")
        if key.strip() not in known:
            raise InvalidAnswer(key.strip()[:60], f"there is no such question ({name}:{number})")
        answers[key.strip()] = answer
    if any(known[key].is_secret and answer for key, answer in answers.items()):
        _require_private(name)
    return answers


def format_answers(questions: Sequence[Question], answers: Answers) -> str:
    """Answers as such a file, each under its question; secrets are left empty, which keeps them as they are."""
    blocks = []
    for question in questions:
        lines = [*wrap(question.prompt, 100), *wrap(question.help, 100)]
        if question.choices:
            lines.append(f"One of: {', '.join(question.choices)}.")
        answer = "" if question.is_secret else answers.get(question.name, "")
        blocks.append("".join(f"# {line}\n" for line in lines) + f"{question.name}={answer}\n")
    return "\n".join(blocks)


def _text(name: str) -> str:
    try:
        if name == "-":
            return sys.stdin.buffer.read(ANSWER_FILE_BYTES).decode("utf-8")
        return read_limited(Path(name), ANSWER_FILE_BYTES).decode("utf-8")
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", hint="name a file of question=answer lines") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text") from error


def _require_private(name: str) -> None:
    if name == "-":
        return
    status = Path(name).stat()
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        raise UsageError(f"others on this machine can read {name}, which holds a secret", hint=f"run: chmod 600 {name}")


def _require_file(answer: str) -> None:
    path = Path(answer)
    if not path.is_file():
        raise UsageError(f"there is no file {answer}")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{answer} cannot be read")


def _holds(term: str, answers: Answers) -> bool:
    name, _, answer = term.partition("=")
    return (answers.get(name.rstrip("!"), "") == answer) != name.endswith("!")


def _as_it_is(_question: Question, answer: str) -> str:
    return answer


def _choice(question: Question, answer: str) -> str:
    if answer.lower() not in question.choices:
        raise ValueError(f"{answer!r} is none of {', '.join(question.choices)}")
    return answer.lower()


def _boolean(_question: Question, answer: str) -> str:
    if answer.lower() in ("true", "yes", "y", "1"):
        return "true"
    if answer.lower() in ("false", "no", "n", "0"):
        return "false"
    raise ValueError(f"{answer!r} is neither yes nor no")


def _port(_question: Question, answer: str) -> str:
    if not (answer.isascii() and answer.isdigit() and len(answer) <= 6 and 1 <= int(answer) <= 65535):
        raise ValueError(f"{answer!r} is no port: a number from 1 to 65535")
    return str(int(answer))


def _duration(_question: Question, answer: str) -> str:
    duration = parse_duration(f"{answer}m" if answer.isascii() and answer.isdigit() else answer)
    if duration.total_seconds() < 60:
        raise ValueError("this is less than a minute")
    return format_duration(duration)


def _url(_question: Question, answer: str) -> str:
    from penguindome.bundle import server_url

    return server_url(answer)


def _file(_question: Question, answer: str) -> str:
    if not answer.startswith("/"):
        raise ValueError(f"{answer!r} is no absolute path")
    return answer


def _hosts(_question: Question, answer: str) -> str:
    hosts = [host for host in re.split(r"[,\s]+", answer) if host]
    for host in hosts:
        name, port = split_host(host)
        if port is not None:
            _port(_question, port)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
                raise ValueError(f"{host!r} is no host or host:port") from None
    return ",".join(hosts)


def split_host(host: str) -> tuple[str, str | None]:
    """Name and port (None: not given) of `host`, `host:port` or `[IPv6]:port`."""
    found = re.fullmatch(r"\[([^]]*)\](?::(.*))?", host) or re.fullmatch(r"([^:]*)(?::([^:]*))?", host)
    return (found[1], found[2]) if found else (host, None)


def _mail(_question: Question, answer: str) -> str:
    for address in answer.split(","):
        if not re.fullmatch(r"\s*[^@\s]+@[A-Za-z0-9][A-Za-z0-9.-]*\s*", address):
            raise ValueError(f"{address.strip()!r} is no mail address, such as admin@example.org")
    return ",".join(address.strip() for address in answer.split(","))


def _fingerprint(_question: Question, answer: str) -> str:
    digits = re.sub(r"[\s:]+", "", answer).upper()
    if not re.fullmatch(r"[0-9A-F]{40}", digits):
        raise ValueError("this is no full fingerprint, which has 40 hexadecimal digits")
    return digits


_FORMS: Mapping[str, Callable[[Question, str], str]] = {
    "choice": _choice,
    "boolean": _boolean,
    "port": _port,
    "duration": _duration,
    "url": _url,
    "file": _file,
    "token-file": _file,
    "hosts": _hosts,
    "mail": _mail,
    "fingerprint": _fingerprint,
}
