"""A server that an administrator set up by `penguindome setup`, with real keys of gpg; and his commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from client_peer import Machine
from needs import require_program
from penguindome import json
from penguindome.openpgp import Certificate, DeviceKey
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome_server.enrolment import find_client
from web_server import Server

AUTOMATIC: dict[str, Any] = {"enrolment__policy": "automatic", "enrolment__automatic_ranges": ["127.0.0.0/8"]}
PLUGIN = '#!/bin/sh\necho \'{"said": "%s"}\'\n'


def penguindome(
    root: Path, *words: str, status: int = 0, stdin: str | bytes = b"", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `penguindome` on the server below `root`, as its own process."""
    done = subprocess.run(
        [sys.executable, "-m", "penguindome_tools.cli", *words], env={**os.environ, ROOT_VARIABLE: str(root), **more},
        input=stdin.encode() if isinstance(stdin, str) else stdin, capture_output=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == status, (done.stdout + done.stderr).decode()
    assert b"Traceback" not in done.stderr
    return done


class AdministeredSite:
    """A server below `root`, and machines that are its clients. `uri` is its `database.uri`."""

    def __init__(self, root: Path, uri: str) -> None:
        require_program("gpg")
        require_program("openssl")
        self.server = Server(root, uri)
        self.paths = self.server.paths
        self.tree = root.with_name(f"{root.name}-tree")

    def set_up(self) -> AdministeredSite:
        """Make a server of it."""
        self.write_plugin("first")
        self.server.write_settings(**AUTOMATIC)
        self.sign()
        return self

    def sign(self) -> None:
        """Make what is missing, and sign the manifest of the plugins."""
        self("setup", "--client-tree", str(self.tree))

    def __call__(self, *words: str, **options: Any) -> str:
        """One command of the administrator: what it printed."""
        return penguindome(self.paths.root, *words, **options).stdout.decode()

    def write_plugin(self, said: str) -> None:
        (self.tree / "plugins").mkdir(parents=True, exist_ok=True)
        (self.tree / "plugins/hello.sh").write_text(PLUGIN % said)
        (self.tree / "plugins/hello.sh").chmod(0o755)

    @property
    def certificate(self) -> Certificate:
        """The server's, now."""
        return Certificate.from_text((self.paths.releases / "server.asc").read_text())

    def machine(self, root: Path, hostname: str) -> Machine:
        """A machine that was set up with a bundle of now, and never ran; its plugin is the tree's."""
        machine = Machine(Paths(root), self)  # type: ignore[arg-type]  # of a peer, it needs nothing but `bundle`
        (root / "etc").mkdir()
        (root / "etc/machine-id").write_text(f"{hostname:0<32}\n")
        machine.paths.settings.mkdir()
        (machine.paths.settings / "client.yml").write_text(f"hostname: {hostname}\n")
        self.copy_plugin(machine)
        bundle = root / "bundle"
        self("enrolment", "export", str(bundle))
        done = machine.run("setup", "--bundle", str(bundle))
        assert done.returncode == 0, done.stderr
        return machine

    def copy_plugin(self, machine: Machine) -> None:
        """What an update of the package does."""
        machine.plugin("hello.sh", (self.tree / "plugins/hello.sh").read_text())

    def document(self, machine: Machine) -> dict[str, Any]:
        """What the server has of a machine."""
        return find_client(self.server.store, machine.client().identity.client_id)

    def issues(self) -> set[str]:
        return {issue["name"] for issue in self.server.store.collection("issues").find({"state": "open"})}


def runs(machine: Machine, *words: str) -> None:
    """Let the timer start the client once, or give it another verb."""
    done = machine.run(*(words or ("run", "--now")))
    assert done.returncode == 0, done.stderr


def signed(text: bytes, key: DeviceKey) -> dict[str, str]:
    return {"text": text.decode(), "signature": key.sign(text).decode()}


def parsed(output: str) -> Any:
    return json.loads(output)
