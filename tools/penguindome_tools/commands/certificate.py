"""`penguindome certificate`: another TLS certificate in the place of the self-signed one that setup made."""

from __future__ import annotations

import click

from penguindome.errors import UsageError
from penguindome_server.certificates import read_certificate
from penguindome_tools import certificate_renewal
from penguindome_tools.acts import administrative
from penguindome_tools.answers import next_files, self_signed_files
from penguindome_tools.context import Context, pass_context

NAMED = 5


@click.group()
def command() -> None:
    """Renew the self-signed TLS certificate that `penguindome setup` made; `keys list` shows until when it is good.

    \b
    In this order, long before it expires:
      penguindome certificate renew      make the next certificate
      penguindome release create         have the machines trust both
      penguindome certificate use        once they have that release
    """


@command.command()
@pass_context
@administrative("certificate renew")
def renew(context: Context) -> None:
    """Make the next certificate, for the host of server.url. The server goes on with the one that it has.

    Bundles and releases carry both from now on. One that was made before and is not in use yet is kept.

    \b
    Example:
      penguindome certificate renew
    """
    settings, paths = context.settings, context.paths
    with context.as_root():
        certificate_renewal.require_own(paths, settings)
        context.acts_on(str(next_files(paths)[0]))
        made = certificate_renewal.renew(paths, settings)
        found = read_certificate(next_files(paths)[0])
    click.echo(f"{'made' if made else 'there already'}: {next_files(paths)[0]}")
    click.echo(f"fingerprint: {found.fingerprint}, good until {found.not_after:%Y-%m-%d}")
    click.echo(
        "next: penguindome release create      (machines that have it trust both)\n"
        "      penguindome enrolment export FILE (bundles with both)\n"
        "then: penguindome certificate use",
        err=True,
    )


@command.command()
@click.option("--force", is_flag=True, help="Also when machines do not trust it yet: those will need a new bundle.")
@pass_context
@administrative("certificate use")
def use(context: Context, *, force: bool) -> None:
    """Put the next certificate in the place of the one in use, which is deleted with its key.

    Refused while an enrolled machine has no release that carries it. Interrupted, it is finished by giving it again.

    \b
    Example:
      penguindome certificate use && systemctl restart penguindome-server
    """
    settings, paths, store = context.settings, context.paths, context.store
    with context.as_root():
        if not next_files(paths)[0].exists():
            raise UsageError("there is no next certificate", hint="run: penguindome certificate renew")
        behind = certificate_renewal.machines_behind(paths, settings, store)
        if behind and not force:
            names = ", ".join(behind[:NAMED]) + (", ..." if len(behind) > NAMED else "")
            raise UsageError(
                f"this would cut off machines that have no release with the next certificate ({len(behind)}): {names}",
                hint="see `penguindome release list`, wait, or add --force and give them a new bundle",
            )
        context.acts_on(str(self_signed_files(paths)[0]), cut_off=len(behind))
        certificate_renewal.put_into_use(paths)
        found = read_certificate(self_signed_files(paths)[0])
    click.echo(f"fingerprint: {found.fingerprint}, good until {found.not_after:%Y-%m-%d}")
    click.echo(
        "next: systemctl restart penguindome-server\n"
        "then: penguindome enrolment export FILE (older bundles that lack it enrol nobody any more)",
        err=True,
    )
