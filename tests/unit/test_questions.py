"""Questions of a setup as data: what an answer may be, and when it is asked for at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penguindome.client.questions import QUESTIONS as CLIENT_QUESTIONS
from penguindome.errors import PenguinDomeError, UsageError
from penguindome.interview import interview
from penguindome.questions import InvalidAnswer, Question, accept, complete, format_answers, read_answers
from penguindome_tools.questions import QUESTIONS as SERVER_QUESTIONS


def question(kind: str = "text", **values: Any) -> Question:
    return Question("it", "What is it", "It is what is asked.", kind, **values)


@pytest.mark.parametrize(
    ("kind", "typed", "answer"),
    [
        ("port", " 0443 ", "443"), ("boolean", "Yes", "true"), ("boolean", "n", "false"), ("duration", "15", "15m"),
        ("duration", "90m", "90m"), ("url", "https://a.example:8443/", "https://a.example:8443"),
        ("hosts", "a, b:27018 [::1]:1", "a,b:27018,[::1]:1"), ("mail", "a@b.example, c@d", "a@b.example,c@d"),
        ("fingerprint", "49ee ee9a " + "0:" * 32, "49EEEE9A" + "0" * 32),
        ("secret", " with blanks ", " with blanks "),
    ],
)  # fmt: skip
def test_an_answer_has_one_form(kind: str, typed: str, answer: str) -> None:
    assert question(kind).normalised(typed) == answer


@pytest.mark.parametrize(
    ("kind", "typed", "reason"),
    [
        ("port", "0", "from 1 to 65535"), ("port", "99999", "from 1 to 65535"), ("port", "https", "from 1 to 65535"),
        ("boolean", "perhaps", "neither yes nor no"), ("duration", "often", "not a duration"),
        ("duration", "30s", "less than a minute"), ("url", "a.example", "not the URL"),
        ("url", "https://u:p@a", "no user"),
        ("hosts", "a:b:c", "no host"), ("hosts", "a:0", "no port"), ("hosts", "a/b", "no host"),
        ("mail", "root", "no mail address"), ("mail", "a@b,", "no mail address"),
        ("file", "cert.pem", "no absolute path"),
        ("fingerprint", "49EEEE9A", "40 hexadecimal digits"), ("text", "", "an answer is needed"),
        ("text", "two\nlines", "one line"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused_with_the_reason(kind: str, typed: str, reason: str) -> None:
    with pytest.raises(InvalidAnswer, match=reason) as refusal:
        question(kind).normalised(typed)
    assert refusal.value.question == "it"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidAnswer, match="there is no file"):
        accept(question("file"), str(tmp_path / "nothing"), {}, {}, {})
    (tmp_path / "file").touch()
    assert accept(question("file"), str(tmp_path / "file"), {}, {}, {}) == str(tmp_path / "file")


def test_an_answer_that_is_in_force_is_not_looked_at_again(tmp_path: Path) -> None:
    def refuse(_answer: str, _answers: object) -> None:
        raise PenguinDomeError("it is away", hint="wait")

    gone = str(tmp_path / "gone")
    assert accept(question("file"), gone, {}, {"it": gone}, {"it": refuse}) == gone
    with pytest.raises(InvalidAnswer, match="it: it is away") as refusal:
        accept(question(), "new", {}, {"it": "old"}, {"it": refuse})
    assert refusal.value.hint == "wait"


def test_none_is_an_answer_only_to_what_is_optional() -> None:
    assert question("mail", optional=True).normalised("None") == "none"
    with pytest.raises(InvalidAnswer):
        question("mail").normalised("none")


def test_a_question_is_asked_under_all_of_its_conditions_and_one_of_their_alternatives() -> None:
    asked = question(when=("a=1", "b!=none|c=x"))
    assert asked.is_asked({"a": "1", "b": "2", "c": "y"})
    assert asked.is_asked({"a": "1", "b": "none", "c": "x"})
    assert not asked.is_asked({"a": "1", "b": "none", "c": "y"})
    assert not asked.is_asked({"a": "2", "b": "2", "c": "x"})


def test_what_is_not_given_is_as_it_is_or_the_default() -> None:
    table = (
        Question("a", "A", "", default="1"), Question("b", "B", "", default=lambda answers: answers["a"] + "!"),
        Question("c", "C", "", when=("a=1",)),
    )  # fmt: skip
    assert complete(table, {}, {}, {}) == {"a": "1", "b": "1!", "c": ""}
    assert complete(table, {"a": "2", "c": "x"}, {"a": "3"}, {}) == {"a": "2", "b": "2!", "c": ""}
    assert complete(table, {"a": "", "c": "x"}, {"b": "y"}, {}) == {"a": "1", "b": "y", "c": "x"}


@pytest.mark.parametrize(
    ("text", "reason"), [("port 8443", "question=answer"), ("prot=8443", "no such question"), ("\xff", "not UTF-8")]
)
def test_a_file_that_is_none_of_answers_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "answers").write_bytes(text.encode("latin-1"))
    with pytest.raises(PenguinDomeError, match=reason):
        read_answers(str(tmp_path / "answers"), SERVER_QUESTIONS)


def test_a_file_with_a_secret_in_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "answers"
    file.write_text("database-password=a=b\n")
    file.chmod(0o640)
    with pytest.raises(UsageError, match="holds a secret"):
        read_answers(str(file), SERVER_QUESTIONS)
    file.chmod(0o600)
    assert read_answers(str(file), SERVER_QUESTIONS) == {"database-password": "a=b"}


@pytest.mark.parametrize("questions", [SERVER_QUESTIONS, CLIENT_QUESTIONS])
def test_what_is_printed_can_be_read_as_answers_and_shows_no_secret(tmp_path: Path, questions: Any) -> None:
    answers = {question.name: f"answer to {question.name}" for question in questions}
    text = format_answers(questions, answers)
    assert "answer to database-password" not in text
    (tmp_path / "answers").write_text(text)
    read = read_answers(str(tmp_path / "answers"), questions)
    assert read == {question.name: "" if question.is_secret else answers[question.name] for question in questions}


@pytest.mark.parametrize("questions", [SERVER_QUESTIONS, CLIENT_QUESTIONS])
def test_questions_fit_together(questions: Any) -> None:
    earlier: dict[str, Question] = {}
    for each in questions:
        for term in (term for condition in each.when for term in condition.split("|")):
            name, _, answer = term.partition("=")
            asked = earlier[name.rstrip("!")]
            assert asked.normalised(answer) == answer
        if isinstance(each.default, str) and each.default:
            assert each.normalised(each.default) == each.default
        assert each.name not in earlier
        earlier[each.name] = each


def test_only_what_has_no_good_default_is_asked_of_everybody() -> None:
    high = {question.name for question in (*SERVER_QUESTIONS, *CLIENT_QUESTIONS) if question.priority == "high"}
    assert high == {"url", "tls-certificate", "tls-key", "bundle", "fingerprint"}


def talk(table: tuple[Question, ...], present: dict[str, str], *typed: str) -> tuple[dict[str, str], list[str]]:
    lines, said = list(typed), []

    def read(prompt: str) -> str:
        said.append(prompt)
        return lines.pop(0)

    answers = interview(table, present, {}, read=read, read_secret=read, say=said.append)
    assert lines == []
    return answers, said


def test_at_a_terminal_enter_keeps_and_a_wrong_answer_is_asked_for_again() -> None:
    table = (question("port", default="8443"), Question("more", "More", "More of it.", when=("it=2",)))
    assert talk(table, {"it": "1"}, "")[0] == {"it": "1", "more": ""}
    answers, said = talk(table, {}, "0", "2", "?", "x")
    assert answers == {"it": "2", "more": "x"}
    assert any("from 1 to 65535" in line for line in said)
    assert any("More of it." in line for line in said)
    assert said.count("What is it [8443] ") == 2


def test_at_a_terminal_a_secret_is_kept_and_not_shown() -> None:
    secret = (question("secret", optional=True),)
    answers, said = talk(secret, {"it": "hush"}, "")
    assert answers == {"it": "hush"}
    assert "hush" not in "".join(said)
    assert talk(secret, {}, "")[0] == {"it": "none"}
    assert talk(secret, {"it": "hush"}, "none")[0] == {"it": "none"}
