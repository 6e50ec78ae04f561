"""From the client's state to the answers of its setup, and from answers to a client that is set up."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from penguindome.bundle import server_url
from penguindome.client.context import Client, refuse_plain_http
from penguindome.client.errors import Unreachable
from penguindome.client.identity import KEY_LIMIT
from penguindome.client.installation import (
    Introduction,
    SetUp,
    check_authorities,
    read_bundle,
    read_token,
    require_same_server,
    set_up,
    trusted_fingerprint,
    with_token,
)
from penguindome.client.introduction import meet
from penguindome.client.questions import QUESTIONS
from penguindome.errors import KeyMaterialError, UsageError
from penguindome.files import read_limited
from penguindome.questions import NONE, Answers, Check, InvalidAnswer, complete, format_answers, read_answers

_SERVER = ("url", "ca-certificate", "fingerprint")


def present_answers(client: Client) -> dict[str, str]:
    """What is in force. Bundle and token are used once, and not kept as answers. Raises SettingsError or NeedsRoot."""
    authorities = client.settings["ca_certificate"] or client.identity.ca_file
    return {
        "bundle": NONE,
        "url": client.settings["server.url"].rstrip("/") or NONE,
        "ca-certificate": NONE if authorities is None else str(authorities),
        "fingerprint": trusted_fingerprint(client) or "",
        "token-file": NONE,
    }


def printed(client: Client) -> str:
    """The questions with the answers in force, as a file of answers; those that are used once are empty."""
    answers = complete(QUESTIONS, {}, present_answers(client), {})
    return format_answers(QUESTIONS, {**answers, "bundle": "", "token-file": ""})


def from_file(client: Client, name: str, *, force: bool) -> SetUp | None:
    """Set up with the answers in a file; None when that leaves nothing to do.

    A server that cannot be reached now is met later, by `introduction.conclude`. Raises InvalidAnswer and whatever
    `set_up` does.
    """
    present = present_answers(client)
    given = read_answers(name, QUESTIONS)
    answers = complete(QUESTIONS, given, present, checks(client, force=force, meets=False))
    return _apply(client, answers, present, force=force, patient=True)


def from_terminal(client: Client, *, force: bool) -> SetUp | None:
    """Ask, and set up; None when that leaves nothing to do."""
    from penguindome.interview import interview

    present = present_answers(client)
    try:
        answers = interview(QUESTIONS, present, checks(client, force=force, meets=True))
    except EOFError as error:
        raise UsageError("the answers ended: nothing was changed") from error
    return _apply(client, answers, present, force=force, patient=False)


def from_options(client: Client, options: argparse.Namespace) -> SetUp:
    """Set up with a bundle, or with URL and fingerprint, from the command line."""
    if options.bundle is not None:
        if options.url or options.fingerprint or options.ca_certificate:
            raise UsageError("a bundle says all of --url, --fingerprint and --ca-certificate", hint="leave them away")
        bundle = read_bundle(options.bundle)
        if options.token_file is not None:
            bundle = with_token(bundle, options.token_file, beside=options.bundle)
        return set_up(client, bundle, force=options.force)
    if options.fingerprint is None:
        raise UsageError("--url needs --fingerprint, which the server key must have", hint="ask the administrator")
    forms = {question.name: question for question in QUESTIONS}
    introduction = Introduction(
        forms["url"].normalised(options.url),
        forms["fingerprint"].normalised(options.fingerprint),
        None if options.ca_certificate is None else _authorities(options.ca_certificate),
        None if options.token_file is None else read_token(options.token_file),
    )
    _require_token(client, introduction)
    require_same_server(client, introduction.fingerprint, force=options.force)
    return set_up(client, meet(client, introduction), force=options.force)


def check(client: Client, question: str, name: str) -> None:
    """Look at one answer in the light of those before it, which were looked at already: for debconf. Raises
    InvalidAnswer.
    """
    names = [each.name for each in QUESTIONS]
    if question not in names:
        raise InvalidAnswer(question, "there is no such question")
    questions, given = QUESTIONS[: names.index(question) + 1], read_answers(name, QUESTIONS)
    try:
        complete(questions, given, present_answers(client), checks(client, force=False, meets=True))
    except InvalidAnswer as error:
        if error.question == question:
            raise


def checks(client: Client, *, force: bool, meets: bool) -> Mapping[str, Check]:
    """What is looked at beyond an answer's form; with `meets`, the server is asked for the key of that fingerprint."""

    def bundle(answer: str, _answers: Answers) -> None:
        if answer != NONE:
            require_same_server(client, read_bundle(answer).fingerprint, force=force)

    def url(answer: str, _answers: Answers) -> None:
        if answer != NONE:
            refuse_plain_http(answer, allowed=client.settings["allow_plain_http"])

    def fingerprint(answer: str, answers: Answers) -> None:
        require_same_server(client, answer, force=force)
        if meets:
            meet(client, _introduction({**answers, "fingerprint": answer, "token-file": NONE}))

    return {
        "bundle": bundle,
        "url": url,
        "ca-certificate": lambda answer, _: None if answer == NONE else check_authorities(_authorities(answer)),
        "fingerprint": fingerprint,
        "token-file": lambda answer, _: None if answer == NONE else _discard(read_token(answer)),
    }


def _apply(client: Client, answers: Answers, present: Answers, *, force: bool, patient: bool) -> SetUp | None:
    token = None if answers["token-file"] == NONE else answers["token-file"]
    if answers["bundle"] != NONE:
        bundle = read_bundle(answers["bundle"])
        return set_up(client, with_token(bundle, token, beside="") if token else bundle, force=force)
    if answers["url"] == NONE or (token is None and all(answers[name] == present[name] for name in _SERVER)):
        return None
    if not answers["fingerprint"]:
        raise InvalidAnswer("fingerprint", "an answer is needed with the URL of a server")
    introduction = _introduction(answers)
    _require_token(client, introduction)
    try:
        return set_up(client, meet(client, introduction), force=force)
    except KeyMaterialError as error:
        raise InvalidAnswer("fingerprint", error.message, hint=error.hint) from error
    except Unreachable as error:
        if not patient:
            raise
        return replace(set_up(client, introduction, force=force), waits_because=error.message)


def _introduction(answers: Answers) -> Introduction:
    authorities, token = answers["ca-certificate"], answers["token-file"]
    return Introduction(
        server_url(answers["url"]),
        answers["fingerprint"],
        None if authorities == NONE else _authorities(authorities),
        None if token == NONE else read_token(token),
    )


def _require_token(client: Client, introduction: Introduction) -> None:
    """Without a bundle, only a token makes the server listen. Raises InvalidAnswer."""
    has_key = (client.paths.client_state / "device.key").exists()
    if introduction.token is None and not (has_key and (client.identity.token or client.state.enrolment == "enrolled")):
        raise InvalidAnswer(
            "token-file",
            "without a bundle, a one-time token is needed",
            hint="the administrator makes one: penguindome enrolment token",
        )


def _authorities(name: str) -> str:
    try:
        return read_limited(Path(name), KEY_LIMIT * 16).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} holds no certificates that can be read ({error})") from error


def _discard(_value: object) -> None:
    """A value that only had to be readable."""
