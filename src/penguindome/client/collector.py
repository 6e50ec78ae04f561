"""Runs the plugins that the manifest names, side by side, and gathers what they print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import penguindome
from penguindome import processes
from penguindome.client import children, outputs
from penguindome.errors import PenguinDomeError, ProcessError
from penguindome.logging import get_logger
from penguindome.manifest import Manifest, open_verified
from penguindome.paths import ROOT_VARIABLE

SIDE_BY_SIDE = 4
OWN_NAME = "penguindome"
"""The name under which the client reports on itself; no plugin can have it."""

Place = Callable[[str], Path]
"""Below which directory a file of the manifest lies: the client's tree, or what patches laid over it."""

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TZ", ROOT_VARIABLE)

log = get_logger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long a program may run, and how much it may print."""

    timeout: timedelta
    output: int


def environment(outside: Mapping[str, str]) -> dict[str, str]:
    """What plugins and commands see: little, and the same whether cron, systemd or a person started us."""
    passed = {name: outside[name] for name in _PASSED_ON if name in outside}
    code = Path(penguindome.__file__).parents[1]
    if (code / "__main__.py").exists():
        # A copy that watches over an update (`old_code`) runs on the interpreter of the machine, which has not our
        # library.
        passed["PYTHONPATH"] = str(code)
    return {
        **passed,
        # Our own interpreter first, for `#!/usr/bin/env python3`: it has our library.
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def program_names(manifest: Manifest, directory: str, *, disabled: Sequence[str] = ()) -> dict[str, str]:
    """The programs directly below `directory` ("plugins") that the manifest names: name of the output -> path.

    The name is that of the file without its extension; a second file of the same name, or one that takes ours, keeps
    it.
    """
    found: dict[str, str] = {}
    for path in sorted(manifest.files):
        parent, _, file_name = path.rpartition("/")
        if parent != directory or file_name[0] in "._":
            continue
        name = file_name.partition(".")[0]
        if name not in disabled and file_name not in disabled:
            found[file_name if name in found or name == OWN_NAME else name] = path
    return found


def run_plugins(place: Place, manifest: Manifest, names: Mapping[str, str], limits: Limits) -> dict[str, Any]:
    """Run the plugins, each below its `place`; for each name its output, or `plugin_failed` with the reason.

    However this ends, none of them is left running.
    """
    with children.adopted() as kill:
        return _side_by_side({name: _job(place(path), manifest, path, limits) for name, path in names.items()}, kill)


def run_program(
    tree: Path, manifest: Manifest, path: str, limits: Limits, *, more: Mapping[str, str] | None = None
) -> processes.Completed:
    """Run one program of the manifest, after comparing its contents; `more` is added to its environment. Raises
    ManifestError or ProcessError.
    """
    open_verified(manifest, tree, path)
    return processes.run(
        [str(tree / path)],
        timeout=limits.timeout.total_seconds(),
        env={**environment(os.environ), **(more or {})},
        cwd="/",
        check=False,
        output_limit=limits.output,
    )


def _job(tree: Path, manifest: Manifest, path: str, limits: Limits) -> Callable[[], Any]:
    def job() -> Any:
        try:
            completed = run_program(tree, manifest, path, limits)
        except ProcessError as error:
            log.warning("{}: {}", path, error.message)
            return outputs.failed("cannot be run: not executable, or its interpreter is missing")
        except PenguinDomeError as error:
            log.error("{}: {}", path, error.message)
            return outputs.failed(f"did not run: {error.message}")
        except Exception:
            # One plugin harms no other, whatever it is that went wrong.
            log.exception("{} could not be run", path)
            return outputs.failed("did not run: internal error")
        if completed.stderr:
            log.debug("{} said: {}", path, completed.stderr[-4000:].decode("utf-8", "replace"))
        return outputs.outcome(completed)

    return job


def _side_by_side(jobs: Mapping[str, Callable[[], Any]], kill: Callable[[], None]) -> dict[str, Any]:
    from concurrent.futures import ThreadPoolExecutor, wait

    executor = ThreadPoolExecutor(SIDE_BY_SIDE)
    futures = {name: executor.submit(job) for name, job in jobs.items()}
    try:
        wait(futures.values())
        return {name: future.result() for name, future in futures.items()}
    finally:
        for future in futures.values():
            future.cancel()
        # Only when a signal or an error ended the wait is anything still running here.
        while wait(futures.values(), timeout=0).not_done:
            kill()
            wait(futures.values(), timeout=0.02)
        executor.shutdown()
