"""Releases for the client's tests, of the kind that needs no package manager: a signed tar with its own setup program.

`Release` is made of this checkout's code, changed as a test likes, and `ReleasedMachine` is a machine on which one is
installed: with a private environment and a tree below `releases/`, as on a real one. All that runs there is what the
releases hold; nothing of it is the test's own process.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import penguindome
from client_peer import Machine, Peer, soon
from penguindome import json, manifest, release
from penguindome.client import update_record
from penguindome.openpgp import DeviceKey
from penguindome.paths import Paths
from penguindome.times import utc_now
from running import is_running

HELLO = "#!/bin/sh\necho '{{\"release\": {number}}}'\n"
# Installs: whole beside the others first, then the link. It waits while there is a file `hold-install` in the root.
SETUP = """\
#!{python} -I
import os, pathlib, shutil, subprocess, sys, time
assert sys.argv[1:] == ["--release-only"], sys.argv
here, root = pathlib.Path(__file__).resolve().parent, pathlib.Path(os.environ["PENGUINDOME_ROOT"])
home = root / "usr/lib/penguindome"
(root / "installing").touch()
while (root / "hold-install").exists():
    time.sleep(0.01)
if (root / "fail-install").exists():
    sys.exit("setup: " + (root / "fail-install").read_text())
target, unfinished = home / "releases/client-{number}", home / "releases/unfinished-{number}"
shutil.rmtree(unfinished, ignore_errors=True)
if not target.exists():
    shutil.copytree(here / "tree", unfinished)
    subprocess.run([{python!r}, "-I", "-m", "venv", "--without-pip", str(unfinished / "venv")], check=True)
    packages = next((unfinished / "venv/lib").glob("python3*/site-packages"))
    (packages / "libraries.pth").write_text({libraries!r})
    (unfinished / "code/penguindome").rename(packages / "penguindome")
    unfinished.rename(target)
link = home / "client.new"
link.unlink(missing_ok=True)
link.symlink_to("releases/client-{number}")
link.replace(home / "client")
"""


@dataclass
class Release:
    """A release to be. `files` are laid over the tree, `code` over our modules (`client/minute.py` -> its text);
    `spoilt` are laid there after the manifest was signed.
    """

    number: int
    files: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    spoilt: Mapping[str, str] = field(default_factory=dict)

    def make(self, directory: Path, signer: DeviceKey) -> bytes:
        """The tar."""
        home = directory / f"release-{self.number}"
        shutil.rmtree(home, ignore_errors=True)
        tree, modules = home / "tree", home / "tree/code/penguindome"
        own = Path(penguindome.__file__).parent
        shutil.copytree(own, modules, ignore=shutil.ignore_patterns("__pycache__"))
        programs = {"plugins/hello.sh": HELLO.format(number=self.number), **self.files}
        for name, text in {
            **programs,
            **{f"code/penguindome/{name}": text for name, text in self.code.items()},
        }.items():
            _write(tree / name, text, 0o755 if name.startswith("plugins/") else 0o644)
        now = utc_now()
        names = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()]
        text = manifest.build(
            tree, names, kind="release", release=self.number, issued_at=now, expires_at=now + timedelta(days=90),
            places={"code": tree / "code"},
        )  # fmt: skip
        (tree / "manifest.json").write_bytes(text)
        (tree / "manifest.json.asc").write_bytes(signer.sign(text))
        for name, changed in self.spoilt.items():
            _write(tree / name, changed, 0o644)
        libraries = sysconfig.get_path("purelib")
        setup = SETUP.format(number=self.number, python=sys.executable, libraries=libraries)
        _write(home / "setup", setup, 0o755)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(home, arcname=f"penguindome-client-{self.number}")
        return packed.getvalue()


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


class ReleasedMachine(Machine):
    """A machine that is of release 1, set up and enrolled, and talks to `peer`."""

    def __init__(self, paths: Paths, peer: Peer, directory: Path) -> None:
        super().__init__(paths, peer)
        shutil.rmtree(paths.client_code)
        self.directory = directory
        self._install(Release(1))
        paths.settings.mkdir(parents=True)
        (paths.settings / "client.yml").write_text("update.spread: 0s\nupdate.reach_patience: 0s\n")
        self.set_up()
        self.ok("run")
        self.ok("run")

    def _install(self, made: Release) -> None:
        import subprocess

        home = self.directory / f"release-{made.number}"
        made.make(self.directory, self.peer.server_key)
        self.peer.newest_release = made.number
        (self.paths.client_code.parent / "releases").mkdir(parents=True)
        subprocess.run([home / "setup", "--release-only"], env=self.environment(), check=True)
        (self.paths.root / "installing").unlink()

    def program(self) -> list[str]:
        """The installed client, in its own environment."""
        return [str(self.paths.client_code / "venv/bin/python"), "-I", "-m", "penguindome.client"]

    def ok(self, *words: str) -> str:
        """Run a verb, which must succeed; returns what it printed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def offer(self, made: Release, **changes: Any) -> release.Description:
        """Let the peer offer a release; `changes` are of its description, or `signer`, and `maker`, who signed what is
        in the package.
        """
        signer: DeviceKey = changes.pop("signer", self.peer.server_key)
        contents: bytes = made.make(self.directory, changes.pop("maker", self.peer.server_key))
        manifest_text = (self.directory / f"release-{made.number}/tree/manifest.json").read_bytes()
        now: datetime = utc_now()
        package = release.PackageFile(
            f"penguindome-client-{made.number}+0.1.0.tar", sha256(contents).hexdigest(), len(contents)
        )
        values: dict[str, Any] = {
            "release": made.number, "version": f"{made.number}+0.1.0", "machine": os.uname().machine, "issued_at": now,
            "expires_at": now + timedelta(days=30), "manifest_sha256": sha256(manifest_text).hexdigest(),
            "packages": {"tar": package},
            **changes,
        }  # fmt: skip
        text = release.build(**values)
        self.peer.newest_release = max(self.peer.newest_release, made.number)
        self.peer.offered = (made.number, text.decode(), signer.sign(text).decode())
        self.peer.packages[made.number, "tar"] = contents
        return release.Description.from_content(json.loads(text), text)

    @property
    def record(self) -> update_record.UpdateRecord:
        """Where the update stands."""
        return update_record.load(self.paths) or update_record.UpdateRecord()

    def installed_release(self) -> int:
        """Which release is installed, whole as far as its own client can tell."""
        document = json.loads((self.paths.client_code / "manifest.json").read_bytes())
        return int(document["release"])

    def watcher(self) -> int:
        """The process that holds the update's lock; 0: nobody does."""
        if not update_record.is_locked(self.paths):
            return 0
        return int((self.paths.client_state / update_record.LOCK).read_text() or 0)

    def is_watched_by_copy(self) -> bool:
        """Whether who holds the lock is the copy of the old code, and not what makes it."""
        pid = self.watcher()
        return pid > 0 and b"/updater-" in Path(f"/proc/{pid}/cmdline").read_bytes()

    def kill_watcher(self) -> None:
        """As the machine would in a power cut: with all that it started."""
        family = _family(self.watcher())
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        assert soon(lambda: not any(is_running(pid) for pid in family))

    def settle(self, phase: str, *, because: str = "", attempts: int = 0) -> update_record.UpdateRecord:
        """Wait until the update has come to a phase, with that in its reason, and nobody works on it."""

        def settled() -> bool:
            record = self.record
            there = record.phase == phase and because in record.reason and record.attempts >= attempts
            return there and not self.watcher()

        assert soon(settled, 60), self.record
        return self.record

    def reach(self, phase: str) -> None:
        """Wait until the watcher is at work on a phase."""
        assert soon(lambda: self.record.phase == phase and self.watcher() > 0), self.record

    def reported(self) -> dict[str, Any]:
        """What the newest report says of updates."""
        update: dict[str, Any] = self.peer.reports[-1]["plugins"]["penguindome"].get("update") or {}
        return update


def _family(pid: int) -> list[int]:
    """A process and all that descend from it. Each is stopped before its children are listed."""
    if pid <= 0:
        return []
    try:
        os.kill(pid, signal.SIGSTOP)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in children for each in _family(int(child)))]
