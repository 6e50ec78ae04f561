"""What must outlive the minute, or be free of its sandbox: upgrades, commands, wipes, files of the system.

systemd runs it as a transient unit of its own; without systemd, and below another root than `/` (a trial, a test), it
is a process of its own session.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from penguindome import processes, systemd
from penguindome.paths import ROOT_VARIABLE, Paths

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def start(paths: Paths, name: str, command: Sequence[str], *, description: str, properties: Sequence[str] = ()) -> None:
    """Start `command` as root, with a clean environment, and return at once.

    `properties` are settings of the unit (`Restart=on-failure`), which count with systemd only.

    `name` is part of the unit's name (`penguindome-client-NAME-RANDOM.service`; finished units of one name linger).
    Raises ProcessError.
    """
    environment = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    if paths.root != Path("/"):
        environment[ROOT_VARIABLE] = str(paths.root)
    if paths.root == Path("/") and systemd.RUNS.is_dir() and os.geteuid() == 0:
        unit = f"penguindome-client-{name}-{secrets.token_hex(4)}"
        settings = [f"--setenv={key}={value}" for key, value in environment.items()]
        settings += [f"--property={each}" for each in properties]
        words = ["systemd-run", "--quiet", "--collect", "--no-block", f"--unit={unit}", f"--description={description}"]
        processes.run([*words, *settings, "--", *command], timeout=60)
    else:
        processes.start_detached(command, env=environment)


def start_verb(paths: Paths, name: str, verb: Sequence[str], *, description: str) -> None:
    """`start` a verb of this very client: `start_verb(paths, "action", ["act", ID], ...)`. Raises ProcessError."""
    start(paths, name, [sys.executable, "-I", "-m", "penguindome.client", *verb], description=description)
