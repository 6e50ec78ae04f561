"""`penguindome setup`: make this machine a server, or bring it up to date."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from penguindome import systemd
from penguindome.errors import UsageError
from penguindome.interview import interview
from penguindome.questions import Answers, InvalidAnswer, complete, format_answers, read_answers
from penguindome.settings import Settings
from penguindome_server.settings import load_server_settings
from penguindome_tools import installation, units
from penguindome_tools.acts import administrative
from penguindome_tools.answers import checks, new_settings, present_answers, require_consistent
from penguindome_tools.context import Context, pass_context
from penguindome_tools.questions import QUESTIONS

_SETTING_OF_OPTION = {
    "url": "server.url",
    "address": "listen.address",
    "port": "listen.port",
    "database_uri": "database.uri",
    "enrolment_policy": "enrolment.policy",
}


@click.command()
@click.option(
    "--answers",
    "answer_file",
    metavar="FILE",
    help="Take answers from a file of question=answer lines (- : standard input).",
)
@click.option(
    "--print",
    "print_only",
    is_flag=True,
    help="Print every question with the answer in force, as such a file, and do nothing.",
)
@click.option("--yes", is_flag=True, help="Ask nothing: keep what is in force, with defaults for the rest.")
@click.option("--start", is_flag=True, help="Start the server now and at each boot (with systemd).")
@click.option("--url", help="URL at which clients reach this server, e.g. https://penguindome.example.org:8443.")
@click.option("--address", help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--database", "database_uri", help="sqlite:///absolute/path or mongodb://host/database.")
@click.option("--enrolment-policy", type=click.Choice(["approve", "automatic", "closed"]), help="Who may enrol.")
@click.option("--self-signed", is_flag=True, help="Make a TLS key and a self-signed certificate for the URL's host.")
@click.option(
    "--client-tree",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory whose plugins/ the signed manifest names.",
)
@click.option("--check", metavar="QUESTION", hidden=True, help="Look at the answer to one question of --answers only.")
@pass_context
@administrative("setup", unless=("print_only", "check"))
def command(
    context: Context, /, *, answer_file: str | None, print_only: bool, yes: bool, start: bool, self_signed: bool,
    client_tree: Path | None, check: str | None, **options: str | int | None,
) -> None:  # fmt: skip
    """Make keys, directories and settings, and sign the manifest of the plugins.

    At a terminal, and without options, it asks what there is to decide. What is there is kept: keys are never
    overwritten, and what is not answered stays as it is.

    \b
    Examples:
      penguindome setup
      penguindome setup --url https://penguindome.example.org:8443 --self-signed
      penguindome setup --database mongodb://db1,db2/penguindome?replicaSet=rs0
      penguindome setup --print > answers; editor answers; penguindome setup --answers answers
    """
    settings = load_server_settings(context.paths)
    present = present_answers(context.paths, settings)
    if print_only:
        click.echo(format_answers(QUESTIONS, complete(QUESTIONS, {}, present, {})), nl=False)
        return
    if check is not None:
        _check_one(context, settings, present, check, answer_file or "-")
        return
    typed = {_SETTING_OF_OPTION[name]: value for name, value in options.items() if value is not None}
    asks = sys.stdin.isatty() and not (answer_file or yes or typed or self_signed or client_tree or start)
    if (answer_file or yes) and (typed or self_signed):
        raise UsageError("--answers and --yes do not go with answers on the command line")
    values: Mapping[str, Any] = typed
    if answer_file or yes or asks:
        answers = _interview(context, settings, present) if asks else _given(context, settings, present, answer_file)
        values = new_settings(context.paths, settings, answers, present)
        self_signed = answers["tls"] == "self-signed"
    _set_up(context, settings, values, self_signed=self_signed, client_tree=client_tree)
    if asks and systemd.has_unit(context.paths, units.SERVER):
        start = shall_start()
    if start:
        systemd.start(units.SERVER, units.AUDIT_TIMER, units.REPOSITORY_TIMER)
    # A package's script is followed by the start of the service.
    starts = start or "DPKG_MAINTSCRIPT_PACKAGE" in os.environ
    click.echo(f"next: {'' if starts else 'start the server, then: '}penguindome enrolment export FILE")


def shall_start() -> bool:
    """Ask whether the server is to be started. Everything else is done by now, so whoever says nothing has said no."""
    try:
        return click.confirm("Start the server, now and at each boot?", default=True)
    except click.Abort:
        click.echo("\nthe server was set up, and not started", err=True)
        return False


def _given(context: Context, settings: Settings, present: Answers, answer_file: str | None) -> Answers:
    """The answers of the file, over those in force. Raises InvalidAnswer before anything was changed."""
    given = read_answers(answer_file, QUESTIONS) if answer_file else {}
    answers = complete(QUESTIONS, given, present, checks(context.paths, settings))
    require_consistent(context.paths, settings, answers, present)
    return answers


def _check_one(context: Context, settings: Settings, present: Answers, question: str, answer_file: str) -> None:
    """Look at one answer in the light of those before it, which were looked at already: for debconf."""
    names = [each.name for each in QUESTIONS]
    if question not in names:
        raise InvalidAnswer(question, "there is no such question")
    given = read_answers(answer_file, QUESTIONS)
    try:
        complete(QUESTIONS[: names.index(question) + 1], given, present, checks(context.paths, settings))
    except InvalidAnswer as error:
        if error.question == question:
            raise


def _interview(context: Context, settings: Settings, present: Answers) -> Answers:
    earlier: Answers = {}
    while True:
        try:
            earlier = interview(QUESTIONS, present, checks(context.paths, settings), earlier=earlier)
            require_consistent(context.paths, settings, earlier, present)
        except InvalidAnswer as error:
            click.echo(f"  {error.message}\n", err=True)
        except EOFError as error:
            raise click.Abort from error
        else:
            return earlier


def _set_up(
    context: Context, settings: Settings, values: Mapping[str, Any], *, self_signed: bool, client_tree: Path | None
) -> None:
    """Make of this machine what was answered, and say what it is now."""
    paths = context.paths
    installation.require_valid(settings, values)
    context.acts_on(answered=sorted(values))
    installation.make_directories(paths)
    identity = installation.make_keys(paths)
    before, settings = settings, installation.write_settings(paths, values, self_signed=self_signed)
    changed = [f"{name}: {settings.shown(name)}" for name in settings if settings[name] != before[name]]
    context.acts_on(changed=changed, server_key=identity.server_fingerprint)
    for warning in installation.warnings(paths, settings, values):
        click.echo(f"warning: {warning}", err=True)
    signed = installation.sign_manifest(paths, client_tree or installation.client_tree(paths), now=context.clock())
    installation.make_repositories(paths, settings, now=context.clock())
    click.echo(f"server key:    {identity.server_fingerprint}")
    click.echo(f"enrolment key: {identity.enrolment_fingerprint}")
    click.echo(f"clients reach this server at {settings['server.url']}")
    click.echo("the manifest of the plugins was signed" if signed else "the manifest of the plugins is up to date")
