"""For which clients an action is: the options that say it, and the list that is shown before anything is signed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from penguindome import yaml_files
from penguindome.actions import Target
from penguindome.errors import UsageError
from penguindome_server.enrolment import find_client
from penguindome_server.query import compile_query
from penguindome_server.store import Document
from penguindome_tools.context import Context
from penguindome_tools.output import safe

_CLIENT_ID = re.compile("[0-9A-F]{40}")


@dataclass(frozen=True)
class Chosen:
    """What the options said."""

    hosts: Sequence[str]
    everybody: bool
    query: str | None


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --host, --all and --query, passed to a command as `chosen`."""

    @wraps(function)
    def command(*arguments: Any, hosts: Sequence[str], everybody: bool, query: str | None, **options: Any) -> Any:
        return function(*arguments, chosen=Chosen(hosts, everybody, query), **options)

    for option in (
        click.option("--query", metavar="JSON",
                     help="All enrolled clients that match this MongoDB query, written as in a check."),
        click.option("--all", "everybody", is_flag=True, help="All enrolled clients."),
        click.option("--host", "hosts", multiple=True, metavar="HOST",
                     help="A host name, a client id, or the beginning of one; may be given several times."),
    ):  # fmt: skip
        command = option(command)
    return command


def targets_of(context: Context, chosen: Chosen) -> list[Target]:
    """The enrolled clients that were chosen, by host name. Raises UsageError when that is none, or not clear."""
    if [bool(chosen.hosts), chosen.everybody, chosen.query is not None].count(True) != 1:
        raise UsageError("it is not said for which clients this is", hint="give one of --host, --all and --query")
    found = {document["_id"]: document["hostname"] for document in _documents(context, chosen)}
    for client_id in [each for each in found if not _CLIENT_ID.fullmatch(each)]:
        # Nothing can be signed for it, and it must not keep the others from theirs.
        click.echo(f"warning: {safe(client_id)} is no id of a client: it is left out", err=True)
        del found[client_id]
    if not found:
        raise UsageError("no enrolled client is meant by that", hint="see: penguindome clients list --state enrolled")
    targets = [Target(client_id, hostname) for client_id, hostname in found.items()]
    return sorted(targets, key=lambda target: (target.hostname, target.client_id))


def _documents(context: Context, chosen: Chosen) -> Iterable[Document]:
    clients = context.store.collection("clients")
    if chosen.hosts:
        return [find_client(context.store, host, states=("enrolled",), fields=()) for host in chosen.hosts]
    if chosen.query is None:
        return clients.find({"state": "enrolled"}, fields=("hostname",))
    matches = compile_query(_query(chosen.query))
    return (document for document in clients.find({"state": "enrolled"}) if matches(document))


def _query(text: str) -> Mapping[str, Any]:
    """As in a check: JSON is YAML, and a moment that stands without quotes is one."""
    query = yaml_files.parse(text.encode(), "--query").value
    if not isinstance(query, Mapping):
        raise UsageError(
            "the query is no mapping of fields to conditions",
            hint="""for instance: --query '{"plugins.os_info.distribution": "debian"}'""",
        )
    return query


def show_targets(targets: Sequence[Target]) -> None:
    """List them on stderr, so that what is confirmed is what is signed."""
    for target in targets:
        click.echo(f"  {safe(target.hostname)}  {safe(target.client_id)}", err=True)
