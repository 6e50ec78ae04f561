"""`make run`: a server and this machine as its client, in a scratch root, with nothing simulated.

Everything goes through the programs that an administrator types (`penguindome`, `penguindome-client`) and the server as
packages start it; this program only types for him, and says what happened.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from penguindome import json
from penguindome.errors import PenguinDomeError
from penguindome.files import ensure_directory
from penguindome.paths import ROOT_VARIABLE
from penguindome.settings import write_fragment
from penguindome.times import utc_now
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Store, open_store
from penguindome_tools.development.mongod import running_mongod
from penguindome_tools.output import safe
from penguindome_tools.scratch_site import ScratchSite, free_port

CYCLE = 60.0


def type_command(site: ScratchSite, *words: str, ok: Sequence[int] = (0,)) -> None:
    """Run one of our programs in the site, showing the line and, indented, what it prints."""
    click.secho(f"$ {' '.join(words)}", bold=True)
    output = site.command(*words, ok=ok)
    click.echo("".join(f"  {line}\n" for line in output.splitlines()), nl=False)


def prepare(site: ScratchSite, database: str | None) -> None:
    """Set the server up in the scratch root, with the plugins of the checkout as the client's tree."""
    site.install_plugins()
    port = free_port()
    ensure_directory(site.paths.settings / "client.d", 0o755)
    write_fragment(site.paths.settings / "client.d/20-run.yml", {"schedule.collect_interval": "1m"}, mode=0o600)
    type_command(
        site, "penguindome", "setup", "--url", f"https://localhost:{port}", "--address", "127.0.0.1",
        "--port", str(port), "--self-signed", *(["--database", database] if database else []),
    )  # fmt: skip


def enrol_this_machine(site: ScratchSite) -> None:
    """What an administrator does for a laptop: export a bundle, set the client up with it, approve its key."""
    bundle = str(site.paths.root / "bundle.json")
    type_command(site, "penguindome", "enrolment", "export", bundle)
    type_command(site, "penguindome-client", "setup", "--bundle", bundle)
    type_command(site, "penguindome-client", "enroll", ok=(0, 1))
    type_command(site, "penguindome", "clients", "approve", socket.gethostname().lower(), "--yes")


class Watcher:
    """Says in one line each what the store has learnt since it was asked last."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.since = utc_now()

    def tell(self) -> None:
        """Print a line for each report, change, and issue that was opened or closed."""
        since, self.since = self.since, utc_now()
        for client in self.store.collection("clients").find(fields=["hostname", "reported_at"]):
            if client.get("reported_at") and client["reported_at"] >= since:
                self._line(client["reported_at"], f"{client['hostname']}: report stored")
        for row in self.store.collection("audit_trail").find({"received_at": {"$gte": since}}, sort="received_at"):
            self._line(row["received_at"], f"{row['hostname']}: {row['path']} {row['change']}")
        for issue in self.store.collection("issues").find():
            for moment, what in ((issue["opened_at"], "opened"), (issue.get("closed_at"), "closed")):
                if moment and moment >= since:
                    self._line(moment, f"{issue['hostname']}: issue {issue['name']} {what}")

    @staticmethod
    def _line(moment: datetime, text: str) -> None:
        click.echo(f"{moment.astimezone():%H:%M:%S} {safe(text)}")


def show_findings(site: ScratchSite) -> None:
    """Print this machine's report and, for each problem found, what to do about it."""
    type_command(site, "penguindome", "clients", "show", socket.gethostname().lower())
    type_command(site, "penguindome", "issues", "audit", ok=(0, 1))
    type_command(site, "penguindome", "issues", "list", "--all")
    issues = json.loads(site.command("penguindome", "issues", "list", "--all", "--json"))
    click.secho(f"\n{len(issues)} problems were found on this machine:", bold=True)
    for issue in issues:
        click.echo(f"\n{safe(issue['severity'])}: {safe(issue['issue'])}: {safe(issue['description'])}")
        for line in issue["remedy"].splitlines():
            click.echo(f"    {safe(line)}")


def keep_running(site: ScratchSite, watcher: Watcher, ended: threading.Event) -> None:
    """A client cycle a minute, with a line per event, until ctrl-C, which sets `ended`."""
    click.echo(
        f"\nServer and client keep running, a client cycle a minute; ctrl-C ends both.\n"
        f"Try in another terminal:  {ROOT_VARIABLE}={site.paths.root} .venv/bin/penguindome issues list --all\n"
    )
    watcher.tell()
    while not ended.wait(CYCLE):
        try:
            site.command("penguindome-client", "run")
        except PenguinDomeError as error:
            click.echo(f"{utc_now().astimezone():%H:%M:%S} {error}; see penguindome-client status")
        watcher.tell()


def run(*, database: str | None, once: bool, root: Path, ended: threading.Event) -> None:
    """The whole path, from an empty root to the problems of this machine. Raises PenguinDomeError where it breaks."""
    site = ScratchSite(root)
    prepare(site, database)
    with site.server():
        enrol_this_machine(site)
        store = open_store(load_server_settings(site.paths)["database.uri"])
        try:
            watcher = Watcher(store)
            type_command(site, "penguindome-client", "run")
            _require_a_report(store)
            show_findings(site)
            if not once:
                keep_running(site, watcher, ended)
        finally:
            store.close()


def _require_a_report(store: Store) -> None:
    clients = list(store.collection("clients").find(fields=["reported_at", "plugins"]))
    if len(clients) != 1 or not clients[0].get("reported_at") or not clients[0].get("plugins"):
        raise PenguinDomeError("the server holds no report of this machine", hint="look at the messages above")


def main() -> int:
    """Parse the options that the Makefile passes, and run until done or interrupted."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the first report")
    parser.add_argument("--store", choices=["sqlite", "mongodb"], default="sqlite")
    options = parser.parse_args()
    ended = _ended_by_signals()
    with tempfile.TemporaryDirectory(prefix="penguindome-", ignore_cleanup_errors=True) as root:
        try:
            if options.store == "mongodb":
                with running_mongod(directory=Path(root)) as mongod:
                    run(database=mongod.uri(), once=options.once, root=Path(root), ended=ended)
            else:
                run(database=None, once=options.once, root=Path(root), ended=ended)
        except KeyboardInterrupt:
            ended.set()
        except PenguinDomeError as error:
            click.echo(f"make run: {safe(error.message)}" + (f"; {error.hint}" if error.hint else ""), err=True)
            return 1
    if ended.is_set():
        click.echo("\nended; the scratch root is removed")
    return 0


def _ended_by_signals() -> threading.Event:
    """What SIGINT and SIGTERM set, beside interrupting what goes on.

    The interruption alone gets lost where it meets a destructor.
    """
    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return ended


if __name__ == "__main__":
    sys.exit(main())
