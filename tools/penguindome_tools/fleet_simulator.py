"""A simulated fleet against a real server: `python -m penguindome_tools.fleet_simulator --help`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from penguindome import json
from penguindome.bundle import Bundle
from penguindome.errors import PenguinDomeError
from penguindome_server.store import open_store
from penguindome_tools.fleet.devices import Device
from penguindome_tools.fleet.simulator import Plan, drive, enrol, learn_manifest, missing_reports, summary


@click.command()
@click.option("--bundle", "bundle_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
              help="The bundle that the devices enrol with.")  # fmt: skip
@click.option("--server", help="URL of the server, if not the bundle's.")
@click.option("--clients", type=click.IntRange(1, 100_000), default=100, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=30.0, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Decides what the devices report.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=32, show_default=True, help="Connections at once.")
@click.option("--ramp", type=click.FloatRange(0), default=0.0, show_default=True, help="Seconds to start them in.")
@click.option("--request", type=click.Choice(["submit", "update"]), default="submit", show_default=True)
@click.option("--failure-odds", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of requests that are cut off, left unread or forged.")  # fmt: skip
@click.option("--packages", is_flag=True, help="Reports carry a package list of about 150 kB.")
@click.option("--pre-signed", is_flag=True, help="Sign each poll once, before the clock starts (update only).")
@click.option("--store", "store_uri", help="Look every acknowledged report up in this store at the end.")
def command(
    *,
    bundle_file: Path,
    server: str | None,
    clients: int,
    seconds: float,
    seed: int,
    concurrency: int,
    ramp: float,
    request: str,
    failure_odds: float,
    packages: bool,
    pre_signed: bool,
    store_uri: str | None,
) -> None:
    """Enrol CLIENTS devices with keys of their own, let them report for SECONDS, and print the figures as JSON.

    Ends with 1 when an acknowledged report is missing from the store.
    """
    bundle = Bundle.from_text(bundle_file.read_text())
    if server:
        bundle = replace(bundle, server_url=server.rstrip("/"))
    devices = [Device(number, seed, with_packages=packages) for number in range(clients)]
    enrol(devices, bundle)
    learn_manifest(devices, bundle)
    plan = Plan(
        bundle=bundle,
        seconds=seconds,
        concurrency=concurrency,
        request="update" if request == "update" else "submit",
        ramp=ramp,
        failure_odds=failure_odds,
        pre_signed=pre_signed,
        seed=seed,
    )
    tally = drive(plan, devices)
    result = {"clients": clients, "seconds": seconds, "seed": seed, "request": request, **summary(tally, seconds)}
    if store_uri:
        store = open_store(store_uri)
        missing = missing_reports(tally, store)
        store.close()
        result |= {"acknowledged": len(tally.acknowledged), "missing": missing}
    click.echo(json.dumps(result))
    if result.get("missing"):
        sys.exit(1)


if __name__ == "__main__":
    try:
        command()
    except PenguinDomeError as error:
        click.echo(f"fleet_simulator: {error.message}" + (f"; {error.hint}" if error.hint else ""), err=True)
        sys.exit(error.exit_status)
