"""`penguindome release promote|halt|resume|refresh`: who gets which release, and signing anew what expires.

The commands are part of the group of `release.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from penguindome.errors import PenguinDomeError, UsageError
from penguindome.files import AlreadyRunning
from penguindome_server import halting, rollout
from penguindome_server.release_documents import key
from penguindome_server.store import Document
from penguindome_tools import installation
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.releases import completion, records
from penguindome_tools.releases.making import Signing
from penguindome_tools.releases.release_files import load_release
from penguindome_tools.releases.renewal import Renewal
from penguindome_tools.releases.shares import canaries_of
from penguindome_tools.releases.signer import Signer

_number = click.argument("number", type=click.IntRange(min=1), metavar="N")


@click.command("promote")
@click.argument("number", type=click.IntRange(min=1), metavar="[N]", required=False)
@click.option("--canary", "words", multiple=True, metavar="10%|HOST", help="Only for this share of the fleet, or host.")
@pass_context
@administrative("release promote")
def promote(context: Context, *, number: int | None, words: Sequence[str]) -> None:
    """Let everybody have release N (the newest canary), or more canaries than before.

    The clients of a share are the same ones while it grows. Clients take the release with their next poll.

    \b
    Examples:
      penguindome release promote 7 --canary 25%
      penguindome release promote 7 --canary laptop7 --canary laptop8
      penguindome release promote
    """
    number = number or _newest_canary(context)
    percent, clients = canaries_of(context.store, words)
    context.acts_on(f"release {number}", canary=list(words))
    with _changing(context) as signing:
        document, now = _document(context, number), context.clock()
        if document["halted_at"]:
            raise UsageError(f"release {number} is halted", hint=f"first: penguindome release resume {number}")
        if document["promoted_at"]:
            raise UsageError(f"release {number} is for everybody already")
        _require_files(context, signing, number)

        def change(document: Document | None) -> Document | None:
            if document is None or document["halted_at"] or document["promoted_at"]:
                return None
            if not words:
                return {**document, "promoted_at": now}
            old = document["stage"]
            named = list(dict.fromkeys([*old["clients"], *clients]))
            stage = {"percent": old["percent"] if percent is None else percent, "clients": named}
            return {**document, "stage": stage, "staged_at": now}

        _change(context, number, change)
        _publish(context, signing)
    click.echo(_who_has(context, number))


@click.command("halt")
@_number
@click.option("--reason", required=True, help="Why; shown with the release.")
@pass_context
@administrative("release halt")
def halt(context: Context, *, number: int, reason: str) -> None:
    """Offer release N to nobody any more. Clients that have it keep it: `release rollback` gives them another.

    \b
    Examples:
      penguindome release halt 7 --reason "breaks the VPN"
    """
    if not reason.strip() or not reason.isprintable():
        raise UsageError("the reason must be printable text")
    context.acts_on(f"release {number}", reason=reason)
    with _changing(context) as signing:
        _document(context, number)
        if not halting.halt(context.store, number, who=context.who, reason=reason, now=context.clock()):
            raise UsageError(f"release {number} is halted already")
        _publish(context, signing)
    click.echo(_who_has(context, number))


@click.command("resume")
@_number
@pass_context
@administrative("release resume")
def resume(context: Context, *, number: int) -> None:
    """Offer release N again, to those who were offered it before it was halted.

    What failed until now does not count any more: it is halted by itself again when too many others fail.

    \b
    Examples:
      penguindome release resume 7
    """
    context.acts_on(f"release {number}")
    with _changing(context) as signing:
        document, now = _document(context, number), context.clock()
        if not document["halted_at"]:
            raise UsageError(f"release {number} is not halted")
        _require_files(context, signing, number)

        def change(document: Document | None) -> Document | None:
            if document is None or not document["halted_at"]:
                return None
            return {**document, "halted_at": None, "halted_by": None, "halted_reason": None, "resumed_at": now}

        _change(context, number, change)
        _publish(context, signing)
    click.echo(_who_has(context, number))


@click.command("refresh")
@click.option("--force", is_flag=True, help="Sign everything anew, however long it is valid still.")
@pass_context
def refresh(context: Context, *, force: bool) -> None:
    """Sign anew what expires: the indices of the repositories, and the texts of releases that are offered.

    Each when half of its life is over. A timer runs this every hour; it says nothing when there is nothing to do.

    \b
    Examples:
      penguindome release refresh
      penguindome release refresh --force
    """
    try:
        with _changing(context) as signing:
            _refresh(context, signing, force=force)
    except AlreadyRunning:
        # Who makes a release publishes, too. If he never ends, the audit says what is expiring.
        if force:
            raise


def _refresh(context: Context, signing: Signing, *, force: bool) -> None:
    now, tree = context.clock(), installation.client_tree(context.paths)
    offered, canaries = rollout.offered(context.store), [offer.release for offer in rollout.offers(context.store)]
    valid_for = context.settings["releases.valid_for"]
    with context.as_root():
        signer = Signer(signing.keyring, signing.fingerprint)
        renewal = Renewal(
            context.paths, signer, offered=offered, canaries=canaries, now=now, valid_for=valid_for, force=force
        )
        # A server that somebody runs from a checkout may have no plugins of clients.
        base = (tree / "plugins").is_dir() and installation.manifest_is_due(context.paths, tree, now=now, force=force)
        due = (["the manifest of the clients' packages"] if base else []) + renewal.due()
        if not due:
            return
    # Not as root: at its end an act is written into the store.
    with context.acting("release refresh"):
        context.acts_on(*due)
        with context.as_root():
            signed = installation.sign_manifest(context.paths, tree, now=now, force=force) if base else False
            done = [*(due[:1] if signed else []), *renewal.run()]
        for name in done:
            click.echo(f"signed anew: {name}")
        if renewal.problems:
            raise PenguinDomeError("not all could be signed anew: " + "; ".join(renewal.problems))


def _newest_canary(context: Context) -> int:
    for offer in rollout.offers(context.store):
        if not offer.promoted:
            return offer.release
    raise UsageError("no release waits to be promoted", hint="see: penguindome release list")


@contextmanager
def _changing(context: Context) -> Iterator[Signing]:
    """Be the only one who changes releases, after doing the rest of what was interrupted."""
    with completion.one_at_a_time(context), completion.signing(context) as signing:
        completion.finish(context, signing)
        yield signing


def _document(context: Context, number: int) -> Document:
    """The document of a release whose packages are there. Raises UsageError."""
    document = records.one(context.store, number)
    if document["pruned_at"]:
        raise UsageError(f"the packages of release {number} were removed (pruned)")
    return document


def _change(context: Context, number: int, change: Callable[[Document | None], Document | None]) -> None:
    updated = context.store.collection(records.RELEASES).update(key(number), change)
    if updated.before == updated.after:
        raise UsageError(f"release {number} was changed meanwhile", hint="look at it and try again")


def _require_files(context: Context, signing: Signing, number: int) -> None:
    """Raise InvalidRelease unless the files of the release are here and as they were signed."""
    with context.as_root():
        load_release(context.paths.releases / str(number), number, signing.certificate)


def _publish(context: Context, signing: Signing) -> None:
    try:
        completion.publish_anew(context, signing, rollout.offered(context.store))
    except (PenguinDomeError, OSError) as error:
        raise PenguinDomeError(
            f"clients are told, but the repositories could not be published anew: {error}",
            hint="repeat it with: penguindome release refresh",
        ) from error


def _who_has(context: Context, number: int) -> str:
    """To how many clients the release is offered."""
    found = rollout.offers(context.store)
    clients = [one["_id"] for one in context.store.collection("clients").find({"state": "enrolled"}, fields=("state",))]
    dues = [rollout.due(found, client_id) for client_id in clients]
    count = sum(due is not None and due.release == number for due in dues)
    return f"release {number} is for {count} of {len(clients)} clients now"
