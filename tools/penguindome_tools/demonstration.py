"""`make run`: a server and this machine as its client, in a scratch root, with nothing simulated.

Everything goes through the programs that an administrator types (`penguindome`, `penguindome-client`) and the server as
packages start it; this program only types for him, and says what happened.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click

from penguindome.errors import PenguinDomeError
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome.settings import write_fragment
from penguindome.times import utc_now
from penguindome_server.settings import load_server_settings
from penguindome_server.store import Store, open_store
from penguindome_tools.development.mongod import running_mongod
from penguindome_tools.output import safe

CHECKOUT = Path(__file__).resolve().parents[2]
START_DEADLINE = 30.0
CYCLE = 60.0


class Demonstration:
    """A scratch root with a server and a client in it, and the commands that were typed there."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.environment: Mapping[str, str] = {**os.environ, ROOT_VARIABLE: str(paths.root)}

    def type(self, *words: str, ok: Sequence[int] = (0,), quiet: bool = False) -> str:
        """Run one of our programs as a user would, showing the line and what it prints; returns the output."""
        click.secho(f"$ {' '.join(words)}", bold=True)
        module = "penguindome_tools.cli" if words[0] == "penguindome" else "penguindome.client"
        done = subprocess.run(
            [sys.executable, "-m", module, *words[1:]], env=self.environment, stdout=subprocess.PIPE, text=True
        )
        if not quiet:
            click.echo("".join(f"  {safe(line)}\n" for line in done.stdout.splitlines()), nl=False)
        if done.returncode not in ok:
            raise PenguinDomeError(f"`{' '.join(words)}` ended with status {done.returncode}")
        return done.stdout

    @contextmanager
    def server(self) -> Iterator[None]:
        """The server as a child process, from its first answer until it is told to stop."""
        process = subprocess.Popen([sys.executable, "-m", "penguindome_server"], env=self.environment)
        try:
            self._await_server(process)
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await_server(self, process: subprocess.Popen[bytes]) -> None:
        port = load_server_settings(self.paths)["listen.port"]
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise PenguinDomeError(f"the server ended with status {process.returncode}")
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise PenguinDomeError(f"the server did not answer within {START_DEADLINE:.0f} s")


def prepare(demonstration: Demonstration, database: str | None) -> None:
    """Set the server up in the scratch root, with the plugins of the checkout as the client's tree."""
    paths = demonstration.paths
    shutil.copytree(CHECKOUT / "plugins", paths.client_code / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    port = _free_port()
    write_fragment(paths.settings / "client.d/20-run.yml", {"schedule.collect_interval": "1m"}, mode=0o600)
    demonstration.type(
        "penguindome", "setup", "--url", f"https://localhost:{port}", "--address", "127.0.0.1", "--port", str(port),
        "--self-signed", *(["--database", database] if database else []),
    )  # fmt: skip


def enrol_this_machine(demonstration: Demonstration) -> None:
    """What an administrator does for a laptop: export a bundle, set the client up with it, approve its key."""
    bundle = str(demonstration.paths.root / "bundle.json")
    demonstration.type("penguindome", "enrolment", "export", bundle)
    demonstration.type("penguindome-client", "setup", "--bundle", bundle)
    demonstration.type("penguindome-client", "enroll", ok=(0, 1))
    demonstration.type("penguindome", "clients", "approve", socket.gethostname().lower(), "--yes")


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


def show_findings(demonstration: Demonstration) -> None:
    """Print this machine's report and, for each problem found, what to do about it."""
    demonstration.type("penguindome", "clients", "show", socket.gethostname().lower())
    demonstration.type("penguindome", "issues", "audit", ok=(0, 1))
    demonstration.type("penguindome", "issues", "list", "--all")


def keep_running(demonstration: Demonstration, watcher: Watcher) -> None:
    """A client cycle a minute, with a line per event, until ctrl-C."""
    click.echo(
        f"\nServer and client keep running, a client cycle a minute; ctrl-C ends both.\n"
        f"Try in another terminal:  {ROOT_VARIABLE}={demonstration.paths.root} .venv/bin/penguindome issues list --all\n"
    )
    while True:
        watcher.tell()
        time.sleep(CYCLE)
        subprocess.run([sys.executable, "-m", "penguindome.client", "run"], env=demonstration.environment)


def run(*, database: str | None, once: bool, root: Path) -> None:
    """The whole path, from an empty root to the problems of this machine. Raises PenguinDomeError where it breaks."""
    demonstration = Demonstration(Paths(root))
    prepare(demonstration, database)
    with demonstration.server():
        enrol_this_machine(demonstration)
        store = open_store(load_server_settings(demonstration.paths)["database.uri"])
        try:
            watcher = Watcher(store)
            demonstration.type("penguindome-client", "run")
            _require_a_report(store)
            show_findings(demonstration)
            if not once:
                keep_running(demonstration, watcher)
        finally:
            store.close()


def _require_a_report(store: Store) -> None:
    clients = list(store.collection("clients").find(fields=["reported_at", "plugins"]))
    if len(clients) != 1 or not clients[0].get("reported_at") or not clients[0].get("plugins"):
        raise PenguinDomeError("the server holds no report of this machine", hint="look at the messages above")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Parse the options that the Makefile passes, and run until done or interrupted."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the first report")
    parser.add_argument("--store", choices=["sqlite", "mongodb"], default="sqlite")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="penguindome-", ignore_cleanup_errors=True) as root:
        try:
            if options.store == "mongodb":
                with running_mongod(Path(root) / "mongod") as uri:
                    run(database=f"{uri.rstrip('/')}/penguindome", once=options.once, root=Path(root))
            else:
                run(database=None, once=options.once, root=Path(root))
        except KeyboardInterrupt:
            click.echo("\nended; the scratch root is removed")
        except PenguinDomeError as error:
            click.echo(f"make run: {safe(error.message)}" + (f"; {error.hint}" if error.hint else ""), err=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
