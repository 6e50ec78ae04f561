"""A server's root with a service user of its own, for tests of what that user can do to root.

The user exists in a mount namespace of the test's own, by another /etc/passwd. There he can also read the interpreter
and the code, as on a machine where they were installed, wherever the developer keeps them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from needs import require, require_program
from penguindome.paths import ROOT_VARIABLE, Paths
from penguindome_tools.scratch_site import free_port
from web_server import PREFIX, until

REPOSITORY = Path(__file__).parents[1]
USER_ID = 64321


@dataclass
class Site:
    """A server's root, and beside it what root alone may touch.

    `script` makes the mount namespace; `names` is what server and commands leave in the service user's directories.
    """

    paths: Paths
    victim: Path
    script: str
    port: int
    names: set[Path] = field(default_factory=set)

    @property
    def passphrase(self) -> Path:
        """Where root may keep the passphrase of a backup."""
        return self.victim.with_name("passphrase")

    @property
    def own_directories(self) -> list[Path]:
        """The directories that the service user owns."""
        return [self.paths.server_state, self.paths.logs / "server", self.paths.runtime]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, ROOT_VARIABLE: str(self.paths.root), "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, *words: str, service: bool) -> list[str]:
        """A command line that runs `words` in the namespace, as the service user or as root."""
        user = ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups"] if service else []
        return ["unshare", "--mount", "sh", "-ec", self.script, "sh", *user, *words]

    def run(self, *words: str, service: bool) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*words, service=service), env=self.environment, cwd="/", stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def as_root(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`penguindome` with these words, run by root, who knows the service user."""
        return self.run(sys.executable, "-m", "penguindome_tools.cli", *words, service=False)

    def as_service(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A program, run by the service user."""
        return self.run(*words, service=True)

    def serve_once(self) -> None:
        """Run the server as the service user, so that it leaves behind what it leaves behind."""
        with subprocess.Popen(
            self.command(sys.executable, "-m", "penguindome_server", service=True), cwd="/", env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                until(lambda: process.poll() is not None or self._answers(), seconds=60, what="start of the server")
                assert process.poll() is None
            finally:
                process.terminate()

    def _answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}{PREFIX}healthz", timeout=5).status_code == 200
        except requests.RequestException:
            return False


@contextmanager
def service_site() -> Iterator[Site]:
    """A server that root has set up."""
    require(os.geteuid() == 0, "only root can become the service user")
    for program in ("unshare", "setpriv", "mount", "find"):
        require_program(program)
    # The directories of pytest are closed to other users.
    with tempfile.TemporaryDirectory(prefix="penguindome-", dir="/var/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        made = Site(Paths(top / "root"), top / "victim", namespace(top), free_port())
        made.paths.root.mkdir()
        looked = made.as_service(sys.executable, "-c", "import penguindome_server")
        require(looked.returncode == 0, f"no mount namespace can be made here: {looked.stderr[-300:]}")
        plugins = REPOSITORY / "plugins"
        shutil.copytree(plugins, made.paths.client_code / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
        done = made.as_root(
            "setup", "--url", f"http://localhost:{made.port}", "--address", "127.0.0.1", "--port", str(made.port),
            "--client-tree", str(made.paths.client_code),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        # As systemd does for RuntimeDirectory=.
        os.chown(made.paths.runtime, USER_ID, USER_ID)
        yield made


def namespace(directory: Path) -> str:
    """A script that makes the namespace, and then becomes the program that its arguments name."""
    lines = []
    for name, line in (
        ("passwd", f"penguindome:x:{USER_ID}:{USER_ID}::/:/usr/sbin/nologin"),
        ("group", f"penguindome:x:{USER_ID}:"),
    ):
        path = directory / name
        path.write_text(Path("/etc", name).read_text() + line + "\n")
        lines.append(f"mount --bind {path} /etc/{name}")
    needed = {Path(sys.base_prefix), Path(sys.prefix), REPOSITORY}
    closed = {path: next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o1), None)
              for path in needed}  # fmt: skip
    hidden = sorted(path for path, above in closed.items() if above is not None)
    for number, path in enumerate(hidden):
        stage = directory / f"stage-{number}"
        stage.mkdir()
        lines.append(f"mount --bind {shlex.quote(str(path))} {stage}")
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(above))}" for above in {*closed.values()} - {None}]
    for number, path in enumerate(hidden):
        quoted = shlex.quote(str(path))
        lines.append(f"mkdir -p {quoted}; mount --bind {directory / f'stage-{number}'} {quoted}")
    return "\n".join([*lines, 'exec "$@"'])
