"""What single parts cost: a verification, an audit, an idle minute of the client."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penguindome.errors import PenguinDomeError
from penguindome.openpgp import DeviceKey
from penguindome_tools.scratch_site import ScratchSite, program

ROUNDS = 30


def verification() -> dict[str, float]:
    """Milliseconds to verify a signature over 15 kB: in the process, and by a gpg process."""
    key = DeviceKey.generate("bench")
    data = b"x" * 15_000
    signature = key.sign(data)
    certificate = key.certificate
    began = time.perf_counter()
    for _ in range(1000):
        certificate.verify(data, signature)
    in_process = time.perf_counter() - began
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        home = Path(name)
        (home / "data").write_bytes(data)
        (home / "data.asc").write_bytes(signature)
        gpg = ["gpg", "--homedir", name, "--batch", "--quiet", "--no-autostart"]
        subprocess.run([*gpg, "--import"], input=certificate.text.encode(), capture_output=True, check=True)
        began = time.perf_counter()
        for _ in range(ROUNDS):
            subprocess.run([*gpg, "--verify", f"{name}/data.asc", f"{name}/data"], capture_output=True, check=True)
        by_gpg = time.perf_counter() - began
    return {"in_process_ms": round(in_process, 3), "gpg_ms": round(by_gpg / ROUNDS * 1000, 2)}


def cost_of(
    command: Sequence[str], site: ScratchSite | None = None, *, rounds: int = ROUNDS, ok: Sequence[int] = (0,)
) -> dict[str, float]:
    """Mean CPU milliseconds (user and system, children included) and peak memory in MB of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = 0
    for _ in range(rounds):
        process = subprocess.Popen(command, env=dict(site.environment) if site else None, stdout=subprocess.DEVNULL)
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in ok:
            raise PenguinDomeError(f"`{' '.join(command)}` ended with status {process.returncode}")
        peak = max(peak, usage.ru_maxrss)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_ms": round(seconds / rounds * 1000, 1), "peak_mb": round(peak / 1024, 1)}


def idle_minute(site: ScratchSite) -> dict[str, Any]:
    """An idle client minute over TLS, beside the interpreter doing nothing; the client is enrolled and has reported."""
    nothing = cost_of([sys.executable, "-c", "pass"])
    idle = cost_of([*program("penguindome-client"), "run"], site)
    return {**idle, "python_pass_cpu_ms": nothing["cpu_ms"], "times": round(idle["cpu_ms"] / nothing["cpu_ms"], 1)}
