"""Each command of `penguindome` is told in the administrative log or known to change nothing, and shows examples."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import click
import pytest

from penguindome_tools import action_targets
from penguindome_tools.acts import act_of
from penguindome_tools.cli import penguindome
from penguindome_tools.scratch_site import CHECKOUT

READ_ONLY = {
    "audit-trail": "shows",
    "checks lint": "reads files",
    "checks list": "shows",
    "checks test": "evaluates a query",
    "clients list": "shows",
    "clients show": "shows",
    "command list": "shows",
    "command result": "shows",
    "enrolment list": "shows",
    "issues audit": "finds what time brought, as the server does by itself; nobody decides anything",
    "issues list": "shows",
    "keys export": "writes what is public into a file of whoever asks",
    "keys list": "shows",
    "log show": "shows; what waited to be told is told",
    "log verify": "reads; what waited to be told is told",
    "patch list": "shows",
    "patch show": "shows",
    "release list": "shows",
    "release show": "shows",
    "release verify": "reads",
    "settings": "shows",
    "store check": "reads",
    "wipe list": "shows",
    "wipe show": "shows",
}
TOLD_WHEN_DUE = {"release refresh"}
"""A timer runs these, mostly for nothing: they begin their act by themselves, once they have something to do."""


def commands(group: click.Group = penguindome, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by the words that are typed."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        words = f"{before} {name}".strip()
        if isinstance(found, click.Group):
            yield from commands(found, words)
            assert not found.invoke_without_command, f"{words} does something by itself: this test must look at it"
        else:
            yield words, found


COMMANDS = dict(commands())


def module_of(words: str) -> ModuleType:
    """The module that holds the function of a command."""
    callback = COMMANDS[words].callback
    module = inspect.getmodule(inspect.unwrap(callback)) if callback else None
    assert module is not None
    return module


def test_there_are_commands() -> None:
    assert {"clients revoke", "setup", "log verify"} <= COMMANDS.keys()


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_each_command_is_told_under_its_own_name_or_changes_nothing(words: str) -> None:
    act = act_of(COMMANDS[words])
    if words in READ_ONLY:
        assert act is None, f"{words} is told: take it off the list of those that change nothing"
    elif words in TOLD_WHEN_DUE:
        assert act is None
        assert f'.acting("{words}")' in inspect.getsource(module_of(words))
    else:
        assert act == words, f"mark the function of `{words}` as @administrative({words!r}) below @pass_context"


def test_the_list_names_no_command_that_is_gone() -> None:
    assert (READ_ONLY.keys() | TOLD_WHEN_DUE) - COMMANDS.keys() == set()


@pytest.mark.parametrize("words", sorted(COMMANDS.keys() - READ_ONLY.keys()))
def test_each_act_says_what_it_is_on(words: str) -> None:
    tree = ast.parse(inspect.getsource(module_of(words)))
    calls = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "acts_on" in calls


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_each_command_shows_examples_of_itself(words: str) -> None:
    text = inspect.cleandoc(COMMANDS[words].help or "")
    _, _, examples = text.partition("\b\nExample")
    assert f"penguindome {words}" in examples, f"the help of `{words}` ends with examples of it"


def said_of(group: click.Group) -> Iterator[str]:
    """The help of a group, and of all that is in it."""
    yield group.help or ""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield from said_of(found) if isinstance(found, click.Group) else [found.help or ""]


EXAMPLES = "\n".join([*said_of(penguindome), inspect.getsource(action_targets), (CHECKOUT / "README.md").read_text()])


@pytest.mark.parametrize("query", sorted(set(re.findall(r"--query '(.*?)'", EXAMPLES))))
def test_each_query_of_an_example_asks_for_what_a_shipped_plugin_reports(query: str) -> None:
    for path in json.loads(query):
        _, plugin, *fields = path.split(".")
        command = [sys.executable, str(CHECKOUT / "plugins" / f"{plugin}.py")]
        found = json.loads(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)
        for field in fields:
            assert field in found, f"{plugin} reports no {field}"
            found = found[field]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"patch remove (plugins/\S+)", EXAMPLES))))
def test_each_plugin_that_an_example_takes_away_is_shipped(path: str) -> None:
    assert (CHECKOUT / path).is_file()


def test_there_are_such_examples() -> None:
    assert "--query '{" in EXAMPLES
    assert "patch remove plugins/" in EXAMPLES
