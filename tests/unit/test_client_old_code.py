"""The copy of the running code that watches over an update."""

from __future__ import annotations

import subprocess
from pathlib import Path

from client_peer import Machine, Peer
from penguindome import json
from penguindome.client import authorities, old_code
from penguindome.client.context import Client
from penguindome.paths import Paths

ENVIRONMENT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from penguindome import json
from penguindome.client.collector import environment
print(json.dumps(environment(os.environ)))
"""
PLUGIN = "import penguindome.plugin_tools; print(penguindome.__file__)"


def test_plugins_find_our_library_when_the_copy_reports_in_the_place_of_what_is_installed(tmp_path: Path) -> None:
    copy = old_code.make(Paths(tmp_path), 5)
    python = (copy / old_code.COMPLETE).read_text()
    said = subprocess.run(
        [python, "-I", "-c", ENVIRONMENT, copy / "code"], capture_output=True, text=True, check=True
    ).stdout
    plugin = subprocess.run(
        ["/usr/bin/env", "python3", "-c", PLUGIN], env=json.loads(said), capture_output=True, text=True, check=True
    )
    assert Path(plugin.stdout.strip()).is_relative_to(copy)


def test_the_copy_trusts_the_certificates_that_the_release_before_brought(tmp_path: Path, paths: Paths) -> None:
    peer = Peer()
    try:
        machine = Machine(paths, peer)
        machine.set_up()
        machine.plugin("ca.pem", "of release 1\n", directory="settings", mode=0o644)
        peer.lay(paths.client_code, release=1)
        machine.minute()
        copy = old_code.make(paths, 2)
        machine.plugin("ca.pem", "of release 2\n", directory="settings", mode=0o644)
        assert authorities.released(Client(paths, of_release=copy / "settings")) == "of release 1\n"
        (copy / authorities.RELEASED).write_text("of nobody\n")
        assert authorities.released(Client(paths, of_release=copy / "settings")) == ""
    finally:
        peer.close()
