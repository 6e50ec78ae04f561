"""From settings to answers and back: what is in force is shown, and only what differs is written."""

from __future__ import annotations

from typing import Any

import pytest

from penguindome.paths import Paths
from penguindome.questions import InvalidAnswer, complete
from penguindome_server.settings import load_server_settings, server_settings_schema
from penguindome_tools.answers import FRAGMENT, checks, new_settings, present_answers, require_consistent
from penguindome_tools.database_address import DatabaseAddress
from penguindome_tools.questions import QUESTIONS

MONGODB = "mongodb://us%40er:p%2Fw@db1,db2:27018/site?replicaSet=rs0&tls=true"


def write(paths: Paths, text: str, name: str = "server.yml") -> None:
    file = paths.settings / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def written(paths: Paths, **given: str) -> dict[str, Any]:
    """What these answers write over the settings in force; nothing is looked at outside."""
    settings = load_server_settings(paths)
    present = present_answers(paths, settings)
    answers = complete(QUESTIONS, {name.replace("_", "-"): answer for name, answer in given.items()}, present, {})
    return new_settings(paths, settings, answers, present)


def present(paths: Paths) -> dict[str, str]:
    return present_answers(paths, load_server_settings(paths))


def test_every_answer_that_is_a_setting_names_one_that_exists(paths: Paths) -> None:
    schema = server_settings_schema(paths)
    assert {question.setting for question in QUESTIONS if question.setting and question.setting not in schema} == set()


def test_the_defaults_of_questions_are_those_of_their_settings(paths: Paths) -> None:
    found = present(paths)
    fresh = {question.name: question.default for question in QUESTIONS if question.setting and question.name != "url"}
    assert {name: found.get(name, "") for name in fresh} == {**fresh, "geolocation-key": "none"}


def test_a_new_server_has_a_url_and_a_certificate_of_its_own_and_the_embedded_store(paths: Paths) -> None:
    values = written(paths)
    assert set(values) == {"server.url", "tls.certificate", "tls.key"}
    assert values["server.url"].endswith(":8443")
    assert written(paths, port="443")["server.url"].count(":") == 1


def test_hand_edits_are_what_is_in_force(paths: Paths) -> None:
    write(paths, "server.url: https://a.example\nlisten.port: 444\n", FRAGMENT)
    write(paths, "logging.handler: syslog\nschedule: {collect_interval: 1h}\n")
    found = present(paths)
    assert (found["port"], found["log-handler"], found["collect-interval"]) == ("444", "syslog", "1h")
    assert "listen.port" not in written(paths, port="444")
    assert written(paths, port="445")["listen.port"] == 445


def test_answers_in_force_write_nothing(paths: Paths) -> None:
    write(paths, f"server.url: https://a.example\ndatabase.uri: {MONGODB}\n")
    write(paths, "tls.certificate: /x/cert.pem\ntls.key: /x/key.pem\n", FRAGMENT)
    found = present(paths)
    assert (found["tls"], found["tls-key"], found["database"]) == ("files", "/x/key.pem", "mongodb")
    settings = load_server_settings(paths)
    assert new_settings(paths, settings, complete(QUESTIONS, found, found, checks(paths, settings)), found) == {}


def test_a_server_that_was_set_up_without_tls_keeps_doing_without(paths: Paths) -> None:
    write(paths, "server.url: https://proxy.example\n", FRAGMENT)
    assert present(paths)["tls"] == "none"
    assert written(paths) == {}


def test_an_optional_answer_is_taken_back_by_none(paths: Paths) -> None:
    write(paths, "server.url: https://a.example\naudit.mail_to: a@b.example\n", FRAGMENT)
    assert written(paths, audit_mail="none") == {"audit.mail_to": None}


def test_a_database_address_is_made_of_its_answers_and_keeps_what_nobody_asked(paths: Paths) -> None:
    write(paths, f"server.url: https://a.example\ndatabase.uri: {MONGODB}\n", FRAGMENT)
    found = present(paths)
    assert (found["database-user"], found["database-password"]) == ("us@er", "p/w")
    assert (found["database-hosts"], found["database-replica-set"]) == ("db1,db2:27018", "rs0")
    uri = written(paths, database_password="n:w@", database_replica_set="none")["database.uri"]
    assert uri == "mongodb://us%40er:n%3Aw%40@db1,db2:27018/site?tls=true"
    assert (
        written(paths, database_user="none")["database.uri"] == "mongodb://db1,db2:27018/site?tls=true&replicaSet=rs0"
    )
    assert written(paths, database="sqlite")["database.uri"] == f"sqlite://{paths.server_state / 'store.sqlite'}"


@pytest.mark.parametrize("uri", [MONGODB, "mongodb://h/n", "mongodb+srv://u@h.example/n?w=2", "mongodb://[::1]:1/n"])
def test_a_database_address_comes_together_as_it_was(uri: str) -> None:
    assert DatabaseAddress.parse(uri).uri() == uri


def test_a_database_that_cannot_be_reached_is_refused_where_it_is_asked_for(paths: Paths) -> None:
    settings = load_server_settings(paths)
    with pytest.raises(InvalidAnswer, match="no database can be reached") as refusal:
        complete(QUESTIONS, {"database": "mongodb", "database-hosts": "127.0.0.1:1"}, {}, checks(paths, settings))
    assert refusal.value.question == "database-hosts"
    with pytest.raises(InvalidAnswer, match="tls-certificate: an answer is needed"):
        require_consistent(paths, settings, complete(QUESTIONS, {"tls": "files"}, {}, {}), {})


def test_a_real_database_is_let_pass_and_a_wrong_password_is_not(paths: Paths, mongodb_uri: str) -> None:
    settings = load_server_settings(paths)
    found = DatabaseAddress.parse(mongodb_uri).answers()
    given = {"database": "mongodb", **{name: answer for name, answer in found.items() if answer}}
    answers = complete(QUESTIONS, given, {}, checks(paths, settings))
    require_consistent(paths, settings, answers, {})
    login = {**given, "database-user": "nobody", "database-password": "wrong"}
    with pytest.raises(InvalidAnswer, match="wrong name or password") as refusal:
        complete(QUESTIONS, login, {}, checks(paths, settings))
    assert "wrong@" not in refusal.value.message
