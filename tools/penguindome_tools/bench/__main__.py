"""`make bench`: measure, print a table, and write the figures as JSON."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from compileall import compile_dir
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from penguindome import json
from penguindome.times import utc_now
from penguindome_tools.bench import audits, load, parts, slow
from penguindome_tools.development.mongod import running_mongod
from penguindome_tools.scratch_site import CHECKOUT

STORES = ("sqlite", "mongodb")
AUDITS = (1_000, 10_000)
# A table cut to the width of a pipe is of no use.
console = Console(width=None if sys.stdout.isatty() else 140)


def machine() -> dict[str, Any]:
    """The machine that the figures were taken on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "taken_at": utc_now(),
    }


def show(title: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print `rows` as a table and return them."""
    kept = list(rows)
    columns = list(dict.fromkeys(name for row in kept for name in row))
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in kept:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    console.print(table)
    return kept


def beside_bare(rows: list[dict[str, Any]], bare: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their share of the bare view's requests per second, and p99 as a multiple of p50."""
    yardstick = {(row["request"], row["concurrency"]): row["requests_per_second"] for row in bare}
    for row in rows:
        if "request" in row:
            row["of_bare"] = round(row["requests_per_second"] / yardstick[row["request"], row["concurrency"]], 2)
            row["p99_by_p50"] = round(row["p99_ms"] / row["p50_ms"], 1)
    return rows


def run(root: Path, seconds: float, wanted: set[str]) -> dict[str, Any]:
    """All that was asked for, each part shown as soon as it is measured."""
    for directory in ("src", "server", "tools"):
        # As the packages do when they are installed.
        compile_dir(CHECKOUT / directory, quiet=1)
    figures: dict[str, Any] = {"machine": machine()}
    console.print(figures["machine"])
    with ExitStack() as stack:
        databases: dict[str, str | None] = {"sqlite": None}
        mongod = stack.enter_context(running_mongod(directory=root)) if {"load", "audit"} & wanted else None
        if "parts" in wanted:
            figures["verification"] = show("verification of 15 kB", [parts.verification()])
            site = load.prepare_site(root / "idle", None, tls=True)
            with site.server():
                bundle_file = root / "bundle.json"
                site.command("penguindome", "enrolment", "export", str(bundle_file))
                for words in (("setup", "--bundle", str(bundle_file)), ("enroll",), ("run",)):
                    site.command("penguindome-client", *words)
                figures["idle_minute"] = show("idle client minute", [parts.idle_minute(site)])
        if "load" in wanted:
            bare = show("bare view", load.measure_bare(load.prepare_site(root / "bare", None), seconds))
            figures["bare"] = bare
            for store in STORES:
                databases["mongodb"] = mongod.uri("bench_load") if mongod else None
                site = load.prepare_site(root / f"load-{store}", databases[store])
                figures[f"load_{store}"] = show(store, beside_bare(list(load.measure_server(site, seconds)), bare))
        if "slow" in wanted:
            figures["slow"] = show(
                "500 slow connections", slow.measure_slow(load.prepare_site(root / "slow", None), seconds)
            )
        if "audit" in wanted:
            for store in STORES:
                for clients in AUDITS:
                    databases["mongodb"] = mongod.uri(f"bench_audit_{clients}") if mongod else None
                    site = load.prepare_site(root / f"audit-{store}-{clients}", databases[store])
                    audits.fill(site, clients)
                    title = f"audit of {clients} clients, {store}"
                    figures[f"audit_{store}_{clients}"] = show(title, [audits.audit_costs(site)])
    return figures


def main() -> None:
    """Parse the options, measure in a scratch directory, and say where the JSON lies."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement (default 30)")
    parser.add_argument("--only", action="append", choices=["parts", "load", "slow", "audit"], help="measure only this")
    parser.add_argument("--output", type=Path, default=Path(".cache/bench.json"), help="where the JSON goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penguindome-bench-", ignore_cleanup_errors=True) as root:
        figures = run(Path(root), options.seconds, set(options.only or ["parts", "load", "slow", "audit"]))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(figures) + "\n")
    console.print(f"figures as JSON: {options.output}")


if __name__ == "__main__":
    main()
