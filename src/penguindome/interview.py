"""Asking the questions of a setup at a terminal: each with what is in force as the default, and again after an answer
that cannot be.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill

from penguindome.questions import NONE, Answers, Check, InvalidAnswer, Question, accept

Read = Callable[[str], str]


def interview(
    questions: Sequence[Question],
    present: Answers,
    checks: Mapping[str, Check],
    *,
    earlier: Answers | None = None,
    read: Read = input,
    read_secret: Read = getpass.getpass,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Ask what is to be asked, in order; returns an answer for every question.

    `earlier` are answers of a round before this one, offered before those in force. Raises EOFError when there are no
    more answers, KeyboardInterrupt for ctrl-C.
    """
    offered = {**present, **(earlier or {})}
    answers: dict[str, str] = {}
    say("Enter keeps what stands in brackets; ? explains a question.\n")
    for question in questions:
        default = offered.get(question.name) or question.default_after(answers)
        answers[question.name] = default
        if question.is_asked(answers):
            ask = read_secret if question.is_secret else read
            answers[question.name] = _ask(question, default, answers, present, checks, ask, say)
    return answers


def _ask(
    question: Question,
    default: str,
    answers: Answers,
    present: Answers,
    checks: Mapping[str, Check],
    read: Read,
    say: Callable[[str], None],
) -> str:
    while True:
        text = read(_line(question, default))
        if text.strip() == "?":
            say(fill(question.help, 100, initial_indent="  ", subsequent_indent="  "))
            continue
        if question.is_secret and not text:
            text = default or NONE
        try:
            return accept(question, text or default, answers, present, checks)
        except InvalidAnswer as error:
            say(f"  {error.reason}" + (f"; {error.hint}" if error.hint else ""))


def _line(question: Question, default: str) -> str:
    choices = f" ({', '.join(question.choices)})" if question.choices else ""
    if question.is_secret:
        shown = "not shown, kept" if default and default != NONE else "none"
    elif question.kind == "boolean":
        shown = "yes" if default == "true" else "no"
    else:
        shown = default
    return f"{question.prompt}{choices} [{shown}] " if shown else f"{question.prompt}{choices} "
