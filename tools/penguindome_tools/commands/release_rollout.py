"""`penguindome release promote|halt|resume|refresh`: who gets which release, and signing anew what expires.

The commands are part of the group of `release.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click

from penguindome.errors import PenguinDomeError, UsageError
from penguindome.files import AlreadyRunning
from penguindome_server import halting, rollout
from penguindome_server.release_documents import key
from penguindome_server.store import Document
from penguindome_tools import installation
from penguindome_tools.acts import administrative
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import confirm
from penguindome_tools.releases import completion, own_record, records
from penguindome_tools.releases.making import Signing
from penguindome_tools.releases.release_files import load_release
from penguindome_tools.releases.renewal import Renewal
from penguindome_tools.releases.shares import canaries_of
from penguindome_tools.releases.signer import Signer

_number = click.argument("number", type=click.IntRange(min=1), metavar="N")


@click.command("promote")
@click.argument("number", type=click.IntRange(min=1), metavar="[N]", required=False)
@click.option("--canary", "words", multiple=True, metavar="10%|HOST", help="Only for this share of the fleet, or host.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
@administrative("release promote")
def promote(context: Context, *, number: int | None, words: Sequence[str], yes: bool) -> None:
    """Let everybody have release N (the newest canary), or more canaries than before.

    It says before how many clients took it, and on how many it failed. The clients of a share are the same ones while
    it grows. Clients take the release with their next poll.

    \b
    Examples:
      penguindome release promote 7 --canary 25%
      penguindome release promote 7 --canary laptop7 --canary laptop8 --yes
      penguindome release promote
    """
    number = number or _newest_canary(context)
    percent, clients = canaries_of(context.store, words)
    context.acts_on(f"release {number}", canary=list(words))
    with _changing(context) as signing:
        own, document, now = _entry(context, number), records.one(context.store, number), context.clock()
        _require_promotable(own, document, for_all=not words)
        _require_files(context, signing, number)
        click.echo(f"{_who_has(context, number)}; {_outcomes(context, document)}", err=True)
        confirm(f"Give release {number} to {' and '.join(words) or 'everybody'}?", yes=yes)

        def change(document: Document | None) -> Document | None:
            if document is None or document["halted_at"] or document["pruned_at"]:
                return None
            if not words:
                return {**document, "promoted_at": now}
            old = document["stage"]
            named = list(dict.fromkeys([*old["clients"], *clients]))
            stage = {"percent": old["percent"] if percent is None else percent, "clients": named}
            return {**document, "stage": stage, "staged_at": now}

        if not words:
            own_record.change(context, number, promoted_at=now)
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

    Of one that the server halted by itself, or that its store does not offer, it says that this is well so.

    \b
    Examples:
      penguindome release halt 7 --reason "breaks the VPN"
    """
    if not reason.strip() or not reason.isprintable():
        raise UsageError("the reason must be printable text")
    context.acts_on(f"release {number}", reason=reason)
    with _changing(context) as signing:
        own, now = _entry(context, number), context.clock()
        halted = halting.halt(context.store, number, who=context.who, reason=reason, now=now)
        if not halted and own["halted_at"]:
            raise UsageError(f"release {number} is halted already")
        own_record.change(context, number, halted_at=now)
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
        own, document, now = _entry(context, number), records.one(context.store, number), context.clock()
        # Nobody but the store says that it was pruned.
        if not (own["halted_at"] or document["halted_at"] or document["pruned_at"]):
            raise UsageError(f"release {number} is not halted")
        _require_files(context, signing, number)

        def change(document: Document | None) -> Document | None:
            if document is None:
                return None
            halted = {"halted_at": None, "halted_by": None, "halted_reason": None}
            return {**document, **halted, "pruned_at": None, "resumed_at": now}

        own_record.change(context, number, halted_at=None)
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
    standing, valid_for = own_record.standing(context), context.settings["releases.valid_for"]
    with context.as_root():
        signer = Signer(signing.keyring, signing.fingerprint)
        renewal = Renewal(context.paths, signer, standing, now=now, valid_for=valid_for, force=force)
        # A server that somebody runs from a checkout may have no plugins of clients.
        base = (tree / "plugins").is_dir() and installation.manifest_is_due(context.paths, tree, now=now, force=force)
        due = (["the manifest of the clients' packages"] if base else []) + renewal.due()
    if due:
        _sign_anew(context, tree, renewal, due, now=now, base=base, force=force)
    if standing.withheld:
        raise _withheld(standing.withheld)


def _sign_anew(
    context: Context, tree: Path, renewal: Renewal, due: list[str], *, now: datetime, base: bool, force: bool
) -> None:
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


def _withheld(numbers: Sequence[int]) -> PenguinDomeError:
    names, newest = ", ".join(map(str, numbers)), numbers[0]
    return PenguinDomeError(
        f"release {names} is for all, but the store does not offer it: the server halted it, or somebody changed the "
        "store. The repositories go without it, and nothing gets a later end than it has until you decide",
        hint=f"look at `penguindome release show {newest}`, then: penguindome release halt {newest}, or release resume "
        f"{newest}, or publish another release",
    )


def _newest_canary(context: Context) -> int:
    """The newest canary by root's own record, if the store says the same. Raises UsageError."""
    own = _canary(entry for entry in own_record.entries(context) if not entry["halted_at"])
    said = _canary(document for document in records.newest_first(context.store) if not document["halted_at"])
    if own is None and said is None:
        raise UsageError("no release waits to be promoted", hint="see: penguindome release list")
    if own is None or own != said:
        raise UsageError(
            f"by root's own record {_named(own)} waits to be promoted, by the store {_named(said)}",
            hint="look at `penguindome release list`, and say which: penguindome release promote N",
        )
    return own


def _canary(documents: Iterable[Document]) -> int | None:
    """The newest that is for some only, above the newest for all; of what is not halted, the newest first."""
    newest = next((document for document in documents if not document["pruned_at"]), None)
    return None if newest is None or newest["promoted_at"] else newest["release"]


def _named(number: int | None) -> str:
    return "none" if number is None else f"release {number}"


@contextmanager
def _changing(context: Context) -> Iterator[Signing]:
    """Be the only one who changes releases, after doing the rest of what was interrupted."""
    with completion.one_at_a_time(context), completion.signing(context) as signing:
        completion.finish(context, signing)
        yield signing


def _entry(context: Context, number: int) -> Document:
    """What root recorded of a release whose packages are there. Raises UsageError."""
    own = own_record.one(context, number)
    if own["pruned_at"]:
        raise UsageError(f"the packages of release {number} were removed (pruned)")
    return own


def _require_promotable(own: Document, document: Document, *, for_all: bool) -> None:
    number: int = own["release"]
    if own["halted_at"] or document["halted_at"] or document["pruned_at"]:
        raise UsageError(f"release {number} is halted", hint=f"first: penguindome release resume {number}")
    said = [bool(each["promoted_at"]) for each in (own, document)]
    # Where only one of them says so, promoting it for all mends that.
    if all(said) if for_all else any(said):
        raise UsageError(f"release {number} is for everybody already")


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
        completion.publish_anew(context, signing)
    except (PenguinDomeError, OSError) as error:
        raise PenguinDomeError(
            f"clients are told, but the repositories could not be published anew: {error}",
            hint="repeat it with: penguindome release refresh",
        ) from error


def _outcomes(context: Context, document: Document) -> str:
    tried, failed = halting.outcomes(context.store, document["release"], since=document.get("resumed_at"))
    return f"{tried - failed} took it, and on {failed} it failed"


def _who_has(context: Context, number: int) -> str:
    """To how many clients the release is offered."""
    found = rollout.offers(context.store)
    clients = [one["_id"] for one in context.store.collection("clients").find({"state": "enrolled"}, fields=("state",))]
    dues = [rollout.due(found, client_id) for client_id in clients]
    count = sum(due is not None and due.release == number for due in dues)
    return f"release {number} is for {count} of {len(clients)} clients now"
