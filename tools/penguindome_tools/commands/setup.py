"""`penguindome setup`: make this machine a server, or bring it up to date."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from penguindome.errors import UsageError
from penguindome.settings import read_fragment, write_fragment
from penguindome_server.settings import load_server_settings
from penguindome_tools import installation
from penguindome_tools.context import Context, pass_context


@click.command()
@click.option("--url", help="URL at which clients reach this server, e.g. https://penguindome.example.org:8443.")
@click.option("--address", help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--database", "database_uri", help="sqlite:///absolute/path or mongodb://host/database.")
@click.option("--enrolment-policy", type=click.Choice(["approve", "automatic", "closed"]), help="Who may enrol.")
@click.option("--self-signed", is_flag=True, help="Make a TLS key and a self-signed certificate for the URL's host.")
@click.option("--client-tree", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Directory whose plugins/ the signed manifest names.")  # fmt: skip
@pass_context
def command(context: Context, /, *, client_tree: Path | None, self_signed: bool, **answers: str | int | None) -> None:
    """Make keys, directories and settings, and sign the manifest of the plugins.

    What is there is kept: keys are never overwritten, and an answer that is not given keeps its present value.

    \b
    Examples:
      penguindome setup --url https://penguindome.example.org:8443 --self-signed
      penguindome setup --database mongodb://db1,db2/penguindome?replicaSet=rs0
    """
    paths = context.paths
    installation.make_directories(paths)
    identity = installation.make_keys(paths)
    _write_settings(context, answers, self_signed=self_signed)
    settings = load_server_settings(paths)
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    signed = installation.sign_manifest(paths, client_tree or paths.client_code, now=context.clock())
    click.echo(f"server key:    {identity.server_fingerprint}")
    click.echo(f"enrolment key: {identity.enrolment_fingerprint}")
    click.echo(f"clients reach this server at {settings['server.url']}")
    click.echo("the manifest of the plugins was signed" if signed else "the manifest of the plugins is up to date")
    click.echo("next: start the server, then: penguindome enrolment export FILE")


def _write_settings(context: Context, answers: dict[str, Any], *, self_signed: bool) -> None:
    """Lay the answers over those of the last setup, and write the fragment only when the settings stay valid."""
    fragment = context.paths.settings / "server.d/10-setup.yml"
    before = load_server_settings(context.paths)
    names = {
        "url": "server.url",
        "address": "listen.address",
        "port": "listen.port",
        "database_uri": "database.uri",
        "enrolment_policy": "enrolment.policy",
    }
    values = read_fragment(fragment)
    values.update({names[answer]: value for answer, value in answers.items() if value is not None})
    values.setdefault("server.url", f"https://{socket.getfqdn()}:{values.get('listen.port', before['listen.port'])}")
    host = urlsplit(values["server.url"]).hostname
    if not host:
        raise UsageError(f"{values['server.url']!r} is no URL", hint="it looks like https://host:port")
    if self_signed:
        values.update(installation.make_self_signed_certificate(context.paths, host))
    owner = installation.service_user_ids()
    write_fragment(fragment, values, mode=0o640 if owner else 0o600, owner=(0, owner[1]) if owner else None)
    _say_what_is_overridden(context, values, fragment)


def _say_what_is_overridden(context: Context, values: dict[str, Any], fragment: Path) -> None:
    settings = load_server_settings(context.paths)
    for name, value in values.items():
        origin = settings.origin(name)
        if origin.file != fragment and settings[name] != value:
            click.echo(f"warning: {name} stays {settings[name]!r}: {origin} has the last word", err=True)
